"""The runs that `lastax sweep` trains first."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path

import click

import lastax
from lastax._errors import RunError
from lastax.cmd._console import RUNS, err
from lastax.cmd._options import DataLocation
from lastax.cmd._sweep_values import UNIDIRECTIONAL


def trained_runs(
    tasks: list[str],
    layers: list[str],
    seeds: list[int],
    *,
    size: str,
    flags: list[str],
    location: DataLocation,
    executor: Executor | None,
) -> list[Path]:
    """Runs of presets; those that do not exist yet are trained by `lastax train`."""
    if location.skip_bad and "--skip-bad" not in flags:
        flags = [*flags, "--skip-bad"]
    found, missing = [], []
    changes = "".join("-" + re.sub(r"[^\w.]+", "-", word).strip("-") for word in flags)
    for task, layer, seed in itertools.product(tasks, layers, seeds):
        kind = layer.removesuffix(UNIDIRECTIONAL)
        if (kind, size) not in lastax.training.TASKS[task].presets:
            raise click.UsageError(f"--task {task} --layer {kind}: there is no preset {size!r}")
        suffix = "" if size == "small" else f"-{size}"
        run = RUNS / task / f"{layer}{suffix}{changes}-seed{seed}"
        found.append(run)
        if lastax.training.has_finished(run):
            continue
        command = ["train", "--task", task, "--layer", kind, "--size", size, "--seed", str(seed)]
        command += [*(["--no-bidirectional"] if layer != kind else []), *flags]
        command += ["--out", str(run)] + (["--resume"] if run.exists() else [])
        for flag, value in (("--data-dir", location.root), ("--data", location.data)):
            command += [] if value is None else [flag, str(value)]
        missing.append(command)
    # A worker may have another working directory.
    train = functools.partial(_train, folder=Path.cwd())
    statuses = (map if executor is None else executor.map)(train, missing)
    for command, status in zip(missing, statuses, strict=True):
        if status:
            raise RunError(f"lastax {shlex.join(command)} ended with status {status}")
    return found


def _train(command: list[str], folder: Path) -> int:
    err.print(f"lastax {shlex.join(command)}")
    program = [sys.executable, "-m", "lastax.cmd.main"]
    # The results of the sweep alone go to the standard output.
    return subprocess.run([*program, *command], cwd=folder, stdout=2, check=False).returncode
