"""`lastax data list`."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from lastax.cmd._console import emit, out
from lastax.cmd._options import debug_option, json_option, root_option
from lastax.data import DATASETS, DataSet, data_folder


@click.command("list")
@root_option
@json_option
@debug_option
def list_data(root: Path | None, as_json: bool) -> None:
    """List the data sets and how to get them."""
    folder = data_folder(root)
    rows = [_row(data_set, folder) for data_set in DATASETS.values()]
    if as_json:
        emit({"root": str(folder), "tasks": rows})
        return
    table = Table(title=f"data sets in {folder}")
    for name in ("task", "present", "get it with", "size", "license"):
        table.add_column(name, overflow="fold")
    for row in rows:
        present = {True: "yes", False: "no", None: ""}[row["present"]]
        table.add_row(row["task"], present, row["get_it_with"], row["size"], row["license"])
    out.print(table)
    for row in rows:
        if not row["present"]:
            out.print(f"{row['task']}: {row['needs']}")


def _row(data_set: DataSet, folder: Path) -> dict[str, Any]:
    own = "data" in data_set.options
    ways = {
        "--data": own,
        "fetch": bool(data_set.remotes),
        "make": data_set.generate is not None,
    }
    return {
        "task": data_set.name,
        "present": None if own else data_set.present(folder),
        "get_it_with": ", ".join(way for way, offered in ways.items() if offered),
        "needs": data_set.needs,
        "size": data_set.size,
        "license": data_set.license,
        "citation": data_set.citation,
        "records": dict(data_set.expected),
    }
