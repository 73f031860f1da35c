"""`lastax data check`: one pass over all records, what they are and what is wrong with them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import debug_option, emit, json_option, out, progress_bar
from lastax.cmd._flags import setting_options
from lastax.cmd._open import described_data, open_data, root_option, task_argument
from lastax.data import DATASETS, Data, DataError, Example


@dataclasses.dataclass(frozen=True)
class Split:
    """What one pass over a split found.

    Attributes:
        records: how many there are.
        published: how many there should be, None if that is not known.
        lengths: fewest, median and most steps that are not padding.
        shares: of each class, 0 to 1.
        problems: in words; empty if all is well.
    """

    records: int
    published: int | None
    lengths: tuple[int, int, int]
    shares: dict[str, float]
    problems: tuple[str, ...]


def check_split(
    data: Data, split: str, *, published: int | None, on_record: Callable[[], None]
) -> Split:
    """Read every record of a split once.

    Args:
        data: the data set.
        split: "train", "validation" or "test".
        published: the number of records to compare with.
        on_record: called after each record.
    """
    source = data.sources[split]
    labels = np.zeros(len(source), np.int64)
    lengths = np.zeros((len(source), 2 if data.pairs else 1), np.int64)
    problems: dict[str, int] = {}
    for number in range(len(source)):
        record = source[number]
        labels[number] = record["label"]
        lengths[number] = record.get("length", data.length)
        for problem in _problems(record, data):
            problems.setdefault(problem, number)
        on_record()
    found = [f"{problem}, first in record {number}" for problem, number in problems.items()]
    if published is not None and len(source) != published:
        found.insert(0, f"{len(source):,} records, {published:,} were published")
    counts = np.bincount(
        labels[(labels >= 0) & (labels < len(data.classes))], minlength=len(data.classes)
    )
    missing = [name for name, count in zip(data.classes, counts, strict=True) if not count]
    # What has no record in a split for testing is only not tested.
    if missing and split == "train":
        found.append(f"no record of {', '.join(missing)}")
    shares = counts / max(len(source), 1)
    return Split(
        records=len(source),
        published=published,
        lengths=(int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        shares=dict(zip(data.classes, shares.tolist(), strict=True)),
        problems=tuple(found),
    )


def _problems(record: Example, data: Data) -> list[str]:
    """What is wrong with one record."""
    x, label = np.asarray(record["x"]), int(record["label"])
    length = np.asarray(record.get("length", data.length))
    pair = (2,) if data.pairs else ()
    wanted: tuple[int, ...] = (*pair, data.length)
    found = []
    if data.vocabulary:
        if x.size and not 0 <= x.min() <= x.max() < data.input_size:
            found.append(f"tokens beyond the vocabulary of {data.input_size}")
    else:
        wanted = (*wanted, data.input_size)
        if not np.isfinite(x).all():
            found.append("values that are not finite")
    if x.shape != wanted:
        found.append(f"shape {x.shape} instead of {wanted}")
    if not (length >= 1).all() or not (length <= data.length).all():
        found.append(f"lengths out of 1..{data.length}")
    if not 0 <= label < len(data.classes):
        found.append(f"labels out of 0..{len(data.classes) - 1}")
    return found


@click.command()
@task_argument
@root_option
@click.option("--any-size", is_flag=True, help="Do not compare numbers of records.")
@json_option
@debug_option
@setting_options(lastax.training.DataConfig)
def check(task: str, root: Path | None, any_size: bool, as_json: bool, **settings: Any) -> None:
    """Read every record of TASK and compare with what is published.

    Exit status 1 if anything is wrong: records that are missing or damaged, labels, lengths,
    tokens or numbers that cannot be.
    """
    opened, damage = _open_whatever(described_data(task, settings), root)
    splits = _check_splits(task, opened, {} if any_size else DATASETS[task].expected)
    problems = [
        f"{name}: {problem}" for name, split in splits.items() for problem in split.problems
    ]
    if damage is not None:
        problems.insert(0, f"{opened.skipped} damaged, the first: {damage}")
    if as_json:
        found = {name: dataclasses.asdict(split) for name, split in splits.items()}
        damaged = {"damaged": opened.skipped, "first_damage": damage}
        emit({"task": task, "ok": not problems, **damaged, "splits": found})
    else:
        _print_check(task, opened, splits)
        for line in (*problems, "not as it should be" if problems else "all is well"):
            out.print(line)
    if problems:
        raise click.exceptions.Exit(1)


def _check_splits(task: str, opened: Data, published: Mapping[str, int]) -> dict[str, Split]:
    splits = {}
    with progress_bar(task) as bar:
        for name, source in opened.sources.items():
            shown = bar.add_task(name, total=len(source), note="")
            splits[name] = check_split(
                opened,
                name,
                published=published.get(name),
                on_record=functools.partial(bar.advance, shown),
            )
    return splits


def _open_whatever(config: lastax.training.DataConfig, root: Path | None) -> tuple[Data, str | None]:
    """The data, and what is wrong with the first damaged record if there is one."""
    try:
        return open_data(config, root), None
    except DataError as error:
        if config.skip_bad:
            raise
        # What is missing altogether fails again.
        return open_data(dataclasses.replace(config, skip_bad=True), root), str(error)


def _print_check(task: str, opened: Data, splits: dict[str, Split]) -> None:
    sizes = f"{opened.length:,} steps of {opened.input_size}"
    table = Table(title=f"{task}: {len(opened.classes)} classes, {sizes}")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    table.add_row("records", *(f"{split.records:,}" for split in splits.values()))
    known = [split.published for split in splits.values()]
    if any(known):
        table.add_row("published", *("" if n is None else f"{n:,}" for n in known))
    for index, what in enumerate(("shortest", "median", "longest")):
        table.add_row(what, *(f"{split.lengths[index]:,}" for split in splits.values()))
    table.add_section()
    for name in opened.classes:
        table.add_row(name, *(f"{100 * split.shares[name]:.2f} %" for split in splits.values()))
    out.print(table)
