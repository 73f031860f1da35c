"""`lastax data check`."""

import dataclasses
from pathlib import Path
from typing import Any

import click
from rich.progress import TaskID
from rich.table import Table

from lastax.cmd._console import emit, err, out, progress_bar
from lastax.cmd._flags import setting_options
from lastax.cmd._options import debug_option, json_option, root_option, task_argument
from lastax.cmd.data._settings import given_settings
from lastax.data import DataReport, check_data
from lastax.training import TASKS, DataConfig


@click.command()
@task_argument
@root_option
@click.option("--any-size", is_flag=True, help="Accept any number of records.")
@json_option
@debug_option
@setting_options(DataConfig)
def check(task: str, root: Path | None, any_size: bool, as_json: bool, **settings: Any) -> None:
    """Read all records of TASK and report problems.

    Reports missing and damaged records, and invalid labels, lengths, tokens and values. The exit
    status is 1 if there is a problem.
    """
    given = given_settings(task, settings)
    with progress_bar(task) as bar:
        shown: dict[str, TaskID] = {}

        def on_record(split: str, done: int, total: int) -> None:
            if split not in shown:
                shown[split] = bar.add_task(split, total=total, note="")
            bar.update(shown[split], completed=done)

        published: dict[str, int] | None = {} if any_size else None
        report = check_data(
            TASKS[task].data, root, published=published, on_record=on_record, **given
        )
    if as_json:
        emit(
            {
                "task": task,
                "ok": not report.problems,
                "damaged": report.damaged,
                "first_damage": report.first_damage,
                "skipped": report.data.skipped,
                "left_out": dict(report.data.left_out),
                "notes": report.data.notes,
                "splits": {name: dataclasses.asdict(it) for name, it in report.splits.items()},
            }
        )
    else:
        out.print(_table(task, report))
        for line in (
            *report.data.notes,
            *report.problems,
            "problems found" if report.problems else "no problems",
        ):
            out.print(line)
    if report.problems:
        if (
            not as_json
            and published is None
            and any(" of the published " in line for line in report.problems)
        ):
            err.print("--any-size accepts any number of records")
        raise click.exceptions.Exit(1)


def _table(task: str, report: DataReport) -> Table:
    data, splits = report.data, report.splits
    size = f"{data.length:,} steps of {data.input_size}"
    table = Table(title=f"{task}: {len(data.classes)} classes, {size}")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    table.add_row("records", *(f"{split.records:,}" for split in splits.values()))
    published = [split.published for split in splits.values()]
    if any(published):
        table.add_row("published", *("" if n is None else f"{n:,}" for n in published))
    for index, what in enumerate(("shortest", "median", "longest")):
        table.add_row(what, *(f"{split.lengths[index]:,}" for split in splits.values()))
    table.add_section()
    for name in data.classes:
        table.add_row(name, *(f"{100 * split.shares[name]:.2f} %" for split in splits.values()))
    return table
