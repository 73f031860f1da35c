"""Output, interrupts, and how a run is found: what all commands share."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

import lastax
from lastax._cache_folder import cache_folder
from lastax._errors import RunError

RUNS = Path("runs")

# Width of files and pipes, where 80 columns would cut tables short.
_WIDTH = 140


def _console(stream: TextIO, *, stderr: bool = False) -> Console:
    known = stream.isatty() or "COLUMNS" in os.environ
    # Names of folders may hold what rich would take for markup.
    return Console(
        width=None if known else _WIDTH,
        highlight=False,
        markup=False,
        soft_wrap=True,
        stderr=stderr,
    )


out = _console(sys.stdout)
err = _console(sys.stderr, stderr=True)


def emit(result: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(result, default=_plain, allow_nan=False))


def _plain(value: object) -> Any:
    tolist = getattr(value, "tolist", None)  # of arrays and scalars of NumPy and JAX
    if tolist is not None:
        return tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def finite(value: float) -> float | None:
    """JSON has no infinity; null stands for it."""
    return float(value) if math.isfinite(value) else None


def keep_compiled_programs() -> None:
    """Compile a program once per machine: later commands find it in the cache folder."""
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    # Results do not depend on the cache. Its disk may be full.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in settings.items():
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            # JAX reads these variables when a command loads it.
            os.environ.setdefault(name.upper(), str(value))


def keep_interrupts() -> None:
    """Send SIGINT again where the first one was lost.

    Python drops exceptions that are raised in a callback of the garbage collector, and JAX has such
    a callback. An interrupt that arrives there would have no effect.
    """
    report = sys.unraisablehook

    def resend(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # From a thread, a little later: here it would be lost again.
            main = threading.main_thread().ident
            assert main is not None
            threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            report(unraisable)

    sys.unraisablehook = resend


def progress_bar(label: str) -> Progress:
    """A bar on stderr that disappears when done; nothing where stderr is no terminal."""
    return Progress(
        TextColumn(label + " {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


class Counter:
    """A progress bar whose total becomes known when work begins."""

    def __init__(self, label: str) -> None:
        self._bar = progress_bar(label)
        self._task: TaskID | None = None

    def __enter__(self) -> "Counter":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def start(self, total: int) -> None:
        """Show the bar."""
        self._task = self._bar.add_task("", total=total, note="")

    def update(self, note: str, *, completed: int | None = None) -> None:
        """Advance by one, or to `completed`."""
        if self._task is not None:
            advance = 1 if completed is None else None
            self._bar.update(self._task, advance=advance, completed=completed, note=note)

    @property
    def speed(self) -> float | None:
        """Advances per second of the last half minute; None at first."""
        return None if self._task is None else self._bar.tasks[self._task].speed

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line)


def resolve_run(run: Path | None) -> Path:
    """The run that was named, or the newest trained one below `runs/`."""
    if run is not None:
        # `.` and `..` have no names of their own, but pruned runs are named after the run.
        return run.resolve() if run.name in ("", "..") else run
    found = lastax.training.find_runs(RUNS)
    if not found:
        raise RunError(f"no run below {RUNS}/ yet: train one with lastax train --task speech")
    err.print(f"run: {found[-1]}")
    return found[-1]


def report_unstable(unstable: Iterable[Iterable[object]], where: str = "") -> None:
    """Name the states on or outside the unit circle, if there are any."""
    for layer, mask in enumerate(unstable):
        states = [state for state, is_unstable in enumerate(mask) if is_unstable]
        if states:
            err.print(
                f"{where}layer {layer}: states {states} have |lam| >= 1 and no finite norm; "
                "they are kept"
            )


def git_revision() -> str | None:
    """Revision of the code that runs, if it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def percent(share: float) -> str:
    """A share from 0 to 1 in percent."""
    return f"{100 * share:.2f} %"


def fail(message: str, status: int) -> int:
    """Print one line on stderr, and return the exit status."""
    print("lastax: " + " ".join(message.split()), file=sys.stderr)
    return status
