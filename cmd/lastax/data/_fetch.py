"""`lastax data fetch`."""

from collections.abc import Callable
from pathlib import Path

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

import lastax.data
from lastax.cmd._console import emit, err, out
from lastax.cmd._options import debug_option, json_option, root_option, task_argument
from lastax.data import DATASETS, Remote, data_folder


@click.command()
@task_argument
@root_option
@json_option
@debug_option
def fetch(task: str, root: Path | None, as_json: bool) -> None:
    """Download, verify and unpack the data of TASK.

    Resumes interrupted downloads.
    """
    data_set, folder = DATASETS[task], data_folder(root)
    if not data_set.remotes:
        raise click.UsageError(f"{task} cannot be downloaded; it needs {data_set.needs}")
    made = [_fetch_one(remote, folder) for remote in data_set.remotes]
    if as_json:
        emit({"task": task, "files": [str(path) for path in made]})
    else:
        out.print(f"{task}: {', '.join(map(str, made))}")


def _fetch_one(remote: Remote, folder: Path) -> Path:
    with Progress(
        TextColumn(remote.unpacks_to + " {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bar:
        return lastax.data.fetch(
            remote,
            folder,
            on_progress=_updater(bar, "downloading"),
            on_unpack=_updater(bar, "unpacking"),
        )


def _updater(bar: Progress, what: str) -> Callable[[int, int], None]:
    """A callback that shows a line of the bar on its first call."""
    shown: list[TaskID] = []

    def update(done: int, total: int) -> None:
        if not shown:
            shown.append(bar.add_task(what, total=total))
        bar.update(shown[0], completed=done, total=total)

    return update
