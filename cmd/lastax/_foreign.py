"""Importing a foreign checkpoint, which `lastax import` and `lastax prune` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import lastax
from lastax.cmd._console import RUNS, err
from lastax.cmd._options import Command, Name


def foreign_options(command: Command) -> Command:
    """`--task`, `--format` and `--prefix` of a foreign checkpoint."""
    task = click.option(
        "--task",
        type=Name("task", lambda: lastax.training.TASKS),
        help="Task of a foreign network (lastax data list).",
    )(command)
    prefix = click.option("--prefix", help="Path of the network inside a foreign file.")(task)
    return click.option(
        "--format",
        "file_format",
        type=Name("format", lambda: lastax.interop.FORMATS),
        help="Format of a foreign file.  [default: detected]",
    )(prefix)


def import_checkpoint(
    file: Path,
    folder: Path | None,
    *,
    task: str | None,
    file_format: str | None,
    prefix: str | None,
    root: Path | None,
    limit: int | None,
    data: Mapping[str, Any],
    options: Mapping[str, Any],
    reuse: bool = False,
) -> lastax.interop.ImportedRun:
    """Read a checkpoint, open its data, and write a run; notes go to stderr.

    Args:
        file: the checkpoint.
        folder: folder of the run; None for `runs/TASK/NAME`.
        task: the task.
        file_format: its format; None to recognize it.
        prefix: path of the network in the file.
        root: folder of all data sets.
        limit: number of records per split to evaluate on.
        data: fields of `DataConfig`.
        options: fields of `ImportOptions`.
        reuse: return an earlier import of the same file.

    Raises:
        click.UsageError: if there is no task.
    """
    imported = lastax.interop.read(file, format=file_format, prefix=prefix, **options)
    if task is None:
        tasks = ", ".join(lastax.training.TASKS)
        raise click.UsageError(f"{file} is a foreign checkpoint: pass --task, one of {tasks}")
    settings = lastax.data.data_settings(lastax.training.TASKS[task].data.name, data)
    config = lastax.interop.foreign_data_config(imported, task, **settings)
    err.print(f"{file}: {lastax.interop.FORMATS[imported.format].title}")
    for note in imported.notes:
        err.print(f"  {note}")
    if config.normalization is not None and "normalization" not in settings:
        err.print(f"  inputs are scaled by normalization={config.normalization!r}")
    with err.status(f"opening {config.name}") as status:
        return lastax.interop.import_run(
            imported,
            folder or RUNS / task / file.resolve().stem,
            lastax.data.open_data(config, root),
            task=task,
            data_config=config,
            limit=limit,
            reuse=reuse,
            on_progress=status.update,
        )
