"""`lastax data`: what there is, getting it, making it, checking it, looking at it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lastax.cmd._check import check
from lastax.cmd._console import debug_option, emit, err, json_option, out
from lastax.cmd._make import make
from lastax.cmd._open import root_option, task_argument
from lastax.cmd._show import show
from lastax.data import DATASETS, DataSet, data_folder
from lastax.data._fetch import fetch


@click.group()
def data() -> None:
    """Data sets: list, fetch, make, check and show them."""


for command in (make, check, show):
    data.add_command(command)


@data.command("list")
@root_option
@json_option
@debug_option
def list_data(root: Path | None, as_json: bool) -> None:
    """What each task's data are, whether they are here, and how to get them."""
    folder = data_folder(root)
    rows = [_listed(data_set, folder) for data_set in DATASETS.values()]
    if as_json:
        emit({"root": str(folder), "tasks": rows})
        return
    table = Table(title=f"data below {folder}")
    for name in ("task", "here", "get it by", "size", "license"):
        table.add_column(name, overflow="fold")
    for row in rows:
        here = {True: "yes", False: "no", None: ""}[row["present"]]
        table.add_row(row["task"], here, row["get_it_by"], row["size"], row["license"])
    out.print(table)
    for row in rows:
        if not row["present"]:
            out.print(f"{row['task']}: {row['needs']}")


def _listed(data_set: DataSet, folder: Path) -> dict[str, Any]:
    own = "data" in data_set.options
    ways = {
        "--data": own,
        "fetch": bool(data_set.remotes),
        "make": data_set.generate is not None,
    }
    return {
        "task": data_set.name,
        "present": None if own else data_set.present(folder),
        "get_it_by": ", ".join(way for way, there in ways.items() if there),
        "needs": data_set.needs,
        "size": data_set.size,
        "license": data_set.license,
        "citation": data_set.citation,
        "records": dict(data_set.expected),
    }


@data.command("fetch")
@task_argument
@root_option
@json_option
@debug_option
def fetch_data(task: str, root: Path | None, as_json: bool) -> None:
    """Download the data of TASK from their publisher, check them and unpack them.

    What broke off is gone on with.
    """
    data_set, folder = DATASETS[task], data_folder(root)
    if not data_set.remotes:
        raise click.UsageError(f"{task} is not offered for download; it needs {data_set.needs}")
    made = []
    for remote in data_set.remotes:
        with _bytes_bar(remote.unpacks_to) as bar:
            made.append(
                fetch(
                    remote,
                    folder,
                    on_progress=_advance(bar, "downloading"),
                    on_unpack=_advance(bar, "unpacking"),
                )
            )
    if as_json:
        emit({"task": task, "files": [str(path) for path in made]})
    else:
        out.print(f"{task}: {', '.join(map(str, made))}")


def _bytes_bar(name: str) -> Progress:
    return Progress(
        TextColumn(name + " {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _advance(bar: Progress, what: str) -> Callable[[int, int], None]:
    """A bar that appears when there is something to tell."""
    shown: list[Any] = []

    def advance(done: int, total: int) -> None:
        if not shown:
            shown.append(bar.add_task(what, total=total))
        bar.update(shown[0], completed=done, total=total)

    return advance
