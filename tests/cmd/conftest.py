"""Run the program as users do: in this process, unless it has to be killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lastax.cmd.main import cli as program
from lastax.cmd.main import main

# The smallest network that still has several layers to choose states from.
TINY = ("--layers", "2", "--channels", "8", "--states", "4", "--dropout", "0.1")
SHORT = ("--epochs", "2", "--epoch-batches", "20")


@dataclass(frozen=True)
class Ended:
    """How a call of the program ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The object that `--json` printed; fails if stdout holds anything else."""
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """The cache folder of the program: prepared data and compiled programs."""
    return shared / "cache"


@pytest.fixture
def cli(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., Ended]:
    """Call the program with arguments, in an empty folder of the test."""
    monkeypatch.setenv("LASTAX_CACHE", str(cache))
    # The program sets this variable; it has its earlier value after the test.
    monkeypatch.setenv("LASTAX_IMPORT", "")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["lastax", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capfd.readouterr()
        return Ended(int(ended.value.code or 0), shown.out, shown.err)

    return call


@pytest.fixture(scope="session")
def start(cache: Path) -> Callable[..., subprocess.Popen]:
    """Start the program in another process; keywords are environment variables.

    Annotations are checked only in this process, since installing the checks takes seconds.
    """
    environment = {**os.environ, "LASTAX_CACHE": str(cache)}
    # Children of background jobs inherit SIGINT as ignored.
    program = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('lastax.cmd.main', run_name='__main__')"
    )

    def begin(*arguments: object, **variables: str) -> subprocess.Popen:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.Popen(
            command,
            env=environment | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return begin


@pytest.fixture(scope="session")
def trained(cache: Path, shared: Path) -> Path:
    """A finished run of two short epochs. Tests read it; none may write to it."""
    folder = shared / "runs" / "speech" / "tiny"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The first worker that gets here trains the run for all of them.
        (folder.parent / "claimed").mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 300
        while not (folder / "results.json").exists():
            assert time.monotonic() < deadline, "another worker failed to train the run"
            time.sleep(0.1)
        return folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTAX_CACHE", str(cache))
        words = ["train", "--task", "speech", *SHORT, *TINY, "--out", str(folder)]
        program(words, standalone_mode=False)
    return folder
