"""Checks of complete data sets: counts, lengths, shares of the classes, invalid records."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lastax.data._data_set import Data
from lastax.data._errors import DataError
from lastax.data._open import open_data
from lastax.data._pipeline import Example
from lastax.data._registry import DATASETS
from lastax.training import DataConfig

OnRecord = Callable[[str, int, int], None]


def _ignore(split: str, done: int, total: int) -> None:
    del split, done, total


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """Result of `check_split`.

    Attributes:
        records: number of records.
        published: published number of records; None if unknown.
        lengths: minimum, median and maximum of the number of steps without padding.
        shares: share of each class, 0 to 1.
        problems: descriptions of what is wrong; empty if nothing is.
    """

    records: int
    published: int | None
    lengths: tuple[int, int, int]
    shares: dict[str, float]
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DataReport:
    """Result of `check_data`.

    Attributes:
        data: the opened data set.
        splits: the report of each split.
        damaged: number of damaged items.
        first_damage: description of the first damaged item; None if there is none.
    """

    data: Data
    splits: Mapping[str, SplitReport]
    damaged: int
    first_damage: str | None

    @property
    def problems(self) -> tuple[str, ...]:
        """Descriptions of everything that is wrong; empty if nothing is."""
        damage = [f"{self.damaged} damaged items, the first: {self.first_damage}"]
        return (
            *(damage if self.first_damage is not None else []),
            *(
                f"{name}: {problem}"
                for name, report in self.splits.items()
                for problem in report.problems
            ),
        )


def check_data(
    config: DataConfig | str,
    root: str | Path | None = None,
    *,
    published: Mapping[str, int] | None = None,
    on_record: OnRecord = _ignore,
    **settings: Any,
) -> DataReport:
    """Read every record of a data set and report what is wrong.

    Args:
        config: as for `open_data`.
        root: as for `open_data`.
        published: expected number of records per split. Default: those of the data set; pass an
            empty mapping to accept any number.
        on_record: called with a split, the number of its records read, and their total.
        settings: as for `open_data`. With `skip_bad=True`, damaged items are not reported.

    Raises:
        DataError: if the data set is unknown or missing.
        ValueError: if a setting is unknown or out of range.
    """
    if isinstance(config, str):
        config = DataConfig(config)
    first_damage = None
    try:
        data = open_data(config, root, **settings)
    except DataError as error:
        if settings.get("skip_bad", config.skip_bad):
            raise
        first_damage = str(error)
        try:
            data = open_data(config, root, **{**settings, "skip_bad": True})
        except DataError as other:
            # If the data set is missing, this is the same error again.
            if str(other) == first_damage:
                raise
            raise DataError(f"{first_damage}; without bad items: {other}") from None
    if published is None:
        published = DATASETS[config.name].expected
    splits = {
        split: check_split(data, split, published=published.get(split), on_record=on_record)
        for split in data.sources
    }
    damaged = 0 if first_damage is None else data.skipped - sum(data.left_out.values())
    return DataReport(data, MappingProxyType(splits), damaged, first_damage)


def check_split(
    data: Data, split: str, *, published: int | None = None, on_record: OnRecord = _ignore
) -> SplitReport:
    """Read every record of a split and report what is wrong.

    Args:
        data: the data set.
        split: "train", "validation" or "test".
        published: expected number of records; None accepts any number.
        on_record: called with the split, the number of its records read, and their total.
    """
    source = data.sources[split]
    labels = np.zeros(len(source), np.int64)
    lengths = np.zeros((len(source), 2 if data.pairs else 1), np.int64)
    first: dict[str, int] = {}
    for number in range(len(source)):
        record = source[number]
        labels[number] = record["label"]
        lengths[number] = record.get("length", data.length)
        for problem in _problems(record, data):
            first.setdefault(problem, number)
        on_record(split, number + 1, len(source))
    found = [f"{problem}, first in record {number}" for problem, number in first.items()]
    if published is not None and len(source) != published:
        found.insert(0, f"{len(source):,} records instead of the published {published:,}")
    counts = np.bincount(
        labels[(labels >= 0) & (labels < len(data.classes))], minlength=len(data.classes)
    )
    missing = [name for name, count in zip(data.classes, counts, strict=True) if not count]
    # A class without records in an evaluation split is only not evaluated.
    if missing and split == "train":
        found.append(f"no record of {', '.join(missing)}")
    shares = counts / max(len(source), 1)
    return SplitReport(
        records=len(source),
        published=published,
        lengths=(int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        shares=dict(zip(data.classes, shares.tolist(), strict=True)),
        problems=tuple(found),
    )


def _problems(record: Example, data: Data) -> list[str]:
    x, label = np.asarray(record["x"]), int(record["label"])
    length = np.asarray(record.get("length", data.length))
    pair = (2,) if data.pairs else ()
    expected: tuple[int, ...] = (*pair, data.length)
    found = []
    if data.vocabulary:
        if x.size and not 0 <= x.min() <= x.max() < data.input_size:
            found.append(f"tokens beyond the vocabulary of {data.input_size}")
    else:
        expected = (*expected, data.input_size)
        if not np.isfinite(x).all():
            found.append("values that are not finite")
    if x.shape != expected:
        found.append(f"shape {x.shape} instead of {expected}")
    if not (length >= 1).all() or not (length <= data.length).all():
        found.append(f"lengths out of 1..{data.length}")
    if not 0 <= label < len(data.classes):
        found.append(f"labels out of 0..{len(data.classes) - 1}")
    return found
