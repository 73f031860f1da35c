"""One pass over all records of a data set: what they are, and what is wrong with them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from lastax.data import Data, Example


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


def as_answer(split: Split) -> dict[str, Any]:
    """A split's findings, fit for JSON."""
    return dataclasses.asdict(split)
