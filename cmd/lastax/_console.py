"""What all commands share: where words go, how failures end, how a run is found."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lastax import TASKS, RunConfig, RunError, find_runs
from lastax.data import DATASETS, DataSet, cache_folder

RUNS = Path("runs")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

EVALUATION_BATCH = 128


def emit(answer: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(answer, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def keep_compiled_programs() -> None:
    """Compile a program once a machine: later commands find it in the cache folder."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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


def run_argument(command: Callable) -> Callable:
    """RUN, which may be left out: the newest trained run then."""
    return click.argument("run", type=click.Path(path_type=Path), required=False)(command)


def resolve_run(run: Path | None) -> Path:
    """The run that was named, or the newest trained one below `runs/`."""
    if run is not None:
        # `.` has no name of its own, but what is written beside the run is named after it.
        return run if run.name else run.resolve()
    found = find_runs(RUNS)
    if not found:
        raise RunError(f"no run below {RUNS}/ yet: lastax train --task speech makes one")
    err.print(f"run: {found[-1]}", soft_wrap=True)
    return found[-1]


def open_data(config: RunConfig) -> DataSet:
    """The data set of a run's task."""
    if config.task not in TASKS:
        raise RunError(f"the run is of task {config.task!r}; there are {', '.join(TASKS)}")
    return DATASETS[TASKS[config.task].data]


def use_devices(count: int | None) -> list[jax.Device]:
    """The first `count` devices, or all.

    Raises:
        click.UsageError: if there are not so many.
    """
    present = jax.devices()
    if count is not None and not 1 <= count <= len(present):
        raise click.UsageError(
            f"--devices {count}: there are {len(present)} ({present[0].platform}); "
            f"choose 1 to {len(present)}"
        )
    return present[:count]


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
