"""What all commands share: where words go, how failures end, how a run is found."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import lastax
from lastax.data import cache_folder

RUNS = Path("runs")

SPLITS = ("validation", "test")

# Of files and pipes, for which 80 columns would cut tables short.
_WIDTH = 140


def _console(stream: TextIO, **options: Any) -> Console:
    known = stream.isatty() or "COLUMNS" in os.environ
    # Names of folders may hold what rich would take for markup.
    return Console(
        width=None if known else _WIDTH, highlight=False, markup=False, soft_wrap=True, **options
    )


out = _console(sys.stdout)
err = _console(sys.stderr, stderr=True)


def emit(answer: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(answer, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def finite(value: float) -> float | None:
    """JSON knows no infinity: null stands for it."""
    return float(value) if np.isfinite(value) else None


def keep_compiled_programs() -> None:
    """Compile a program once a machine: later commands find it in the cache folder."""
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_interrupts() -> None:
    """Send SIGINT once more where the first was lost.

    Python drops what is raised in a callback of the garbage collector, and JAX has one: there an
    interrupt would go by unheeded.
    """
    report = sys.unraisablehook

    def resend(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # From a thread, a little later: here it would be lost again.
            main = threading.main_thread().ident
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


def debug_option(command: Callable) -> Callable:
    """`--debug` on every command; `main` reads it when something fails."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of a failure."
    )(command)


def json_option(command: Callable) -> Callable:
    """`--json` on every command whose answer a program may read."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


def method_option(command: Callable) -> Callable:
    """`--method`, one of those that score states from parameters alone."""
    known = sorted(name for name, method in lastax.METHODS.items() if not method.measured)
    return click.option(
        "--method",
        type=click.Choice(known),
        default="last",
        help="How states are scored and chosen.",
    )(command)


def seed_option(command: Callable) -> Callable:
    """`--seed`, for the methods that draw."""
    return click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        help="Seed of random pruning, and of which sequences calibrate.",
    )(command)


def pruning_key(seed: int, config: lastax.training.RunConfig) -> jax.Array:
    """The key for methods that draw: another one for each run, so that means are over draws."""
    return jax.random.fold_in(jax.random.key(seed), config.seed)


def run_argument(command: Callable) -> Callable:
    """RUN, which may be left out: the newest trained run then."""
    return click.argument("run", type=click.Path(path_type=Path), required=False)(command)


def resolve_run(run: Path | None) -> Path:
    """The run that was named, or the newest trained one below `runs/`."""
    if run is not None:
        # `.` has no name of its own, but what is written beside the run is named after it.
        return run if run.name else run.resolve()
    found = lastax.training.find_runs(RUNS)
    if not found:
        raise lastax.serialization.RunError(f"no run below {RUNS}/ yet: lastax train --task speech makes one")
    err.print(f"run: {found[-1]}")
    return found[-1]


def unstable_states(systems: Sequence[lastax.ssm.AnySystem]) -> list[list[int]]:
    """The states of each layer that have no finite norm."""
    return [np.flatnonzero(np.abs(system.lam) >= 1).tolist() for system in systems]


def report_unstable(systems: Sequence[lastax.ssm.AnySystem], where: str = "") -> None:
    """Name the states on or outside the unit circle, if there are any."""
    for layer, states in enumerate(unstable_states(systems)):
        if states:
            err.print(
                f"{where}layer {layer}: states {states} have |lam| >= 1, no finite norm: kept"
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
    """An accuracy as people read it."""
    return f"{100 * share:.2f} %"


def fail(message: str, status: int) -> int:
    """One line on stderr, and the exit status to end with."""
    print("lastax: " + " ".join(message.split()), file=sys.stderr)
    return status
