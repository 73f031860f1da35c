"""`lastax data show`."""

import io
from pathlib import Path
from typing import Any

import click

from lastax.cmd._console import emit, err, out
from lastax.cmd._flags import setting_options
from lastax.cmd._options import debug_option, json_option, root_option, task_argument
from lastax.cmd.data._settings import given_settings
from lastax.data import DATASETS, balanced_records, draw_data, open_data
from lastax.serialization import RunError, write_atomically
from lastax.training import TASKS, DataConfig


@click.command()
@task_argument
@root_option
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    help="Split of the records.",
)
@click.option("--count", type=click.IntRange(1, 64), default=8, help="Number of records.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of the choice of records."
)
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: TASK.png]",
)
@json_option
@debug_option
@setting_options(DataConfig)
def show(
    task: str,
    root: Path | None,
    split: str,
    count: int,
    seed: int,
    path: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Draw records of TASK and the shares of the classes."""
    path = path or Path(f"{task}.png")
    if path.exists():
        raise RunError(f"{path} already exists: pass another --out, or remove it")
    given = given_settings(task, settings)
    with err.status(f"opening {task}; new data are prepared once"):
        data = open_data(TASKS[task].data, root, **given)
    records = balanced_records(data, split, count, seed=seed)
    figure = draw_data(data, DATASETS[task].kind, split=split, records=records, title=task)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture.getvalue())
    if as_json:
        emit({"task": task, "picture": str(path), "split": split, "records": records})
    else:
        out.print(path)
