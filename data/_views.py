"""Data sets restricted to some records, or to some steps per record."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from lastax.data._data_set import Data
from lastax.data._pipeline import Example, Source
from lastax.data._selection import some
from lastax.data._stream_features import StreamFeatures


def first_steps(data: Data, count: int) -> Data:
    """`data` with only the first `count` steps of each record.

    Raises:
        ValueError: if records have fewer steps.
    """
    if count > data.length:
        raise ValueError(
            f"length must be at most {data.length}, the length of the records; got {count}"
        )
    return _stepped(data, slice(0, count, 1))


def every_step(data: Data, every: int) -> Data:
    """`data` at a lower sampling rate: steps 0, `every`, 2 `every`, ... of each record."""
    return _stepped(data, slice(0, data.length, every))


def some_records(data: Data, limit: int) -> Data:
    """`data` with at most `limit` records per split, in order. The choice is deterministic."""
    sources = {split: some(source, limit) for split, source in data.sources.items()}
    return dataclasses.replace(data, sources=sources)


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """The records of `source` with only the steps `0:stop:step` along one axis of `x`."""

    source: Source
    stop: int
    step: int
    axis: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> Example:
        record = self.source[index.__index__()]
        x = np.asarray(record["x"])
        # Contiguous, because a view would keep the other steps in memory.
        kept = np.moveaxis(np.moveaxis(x, self.axis, 0)[: self.stop : self.step], 0, self.axis)
        fewer = {**record, "x": np.ascontiguousarray(kept)}
        if "length" in record:
            fewer["length"] = self._count(np.asarray(record["length"]))
        return fewer

    def _count(self, length: Int[np.ndarray, "*pair"]) -> Int[np.ndarray | np.generic, "*pair"]:
        """Number of remaining steps of sequences with the given lengths."""
        return (-(-np.minimum(length, self.stop) // self.step)).astype(length.dtype)


def _stepped(data: Data, steps: slice) -> Data:
    # Tokens are scalars, other steps are vectors.
    axis = -1 if data.vocabulary else -2
    return dataclasses.replace(
        data,
        sources={
            split: Steps(source, steps.stop, steps.step, axis)
            for split, source in data.sources.items()
        },
        read_file=functools.partial(_stepped_file, data.read_file, steps, axis)
        if data.read_file is not None
        else None,
        stream_features=functools.partial(_stepped_features, data.stream_features, steps.step)
        if data.stream_features is not None
        else None,
        length=len(range(data.length)[steps]),
    )


def _stepped_features(make: Callable[[], StreamFeatures], step: int) -> StreamFeatures:
    features = make()
    return dataclasses.replace(features, every=features.every * step)


def _stepped_file(
    read_file: Callable[[Path], Source], steps: slice, axis: int, path: Path
) -> Source:
    return Steps(read_file(path), steps.stop, steps.step, axis)
