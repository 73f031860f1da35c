"""TODO calibration._records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from lastax._typing import Batch

# Numbers of one layer's states and channels that the device gives at once, in single precision.
_DEVICE_VALUES = 2**25


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A few records of one shape; `real` is false for copies that only fill it up."""

    x: np.ndarray
    length: np.ndarray | None
    real: Bool[np.ndarray, " records"]


def calibration_chunks(
    batches: Batch | Iterable[Batch], *, values_per_step: int = 1
) -> list[Chunk]:
    """The records of all batches in chunks of bounded size, those of one shape in chunks of one.

    Args:
        batches: one pass over the data: `x`, where sequences are padded `length`, and where rows
            only fill a batch up `weight`. One batch alone will do.
        values_per_step: of the largest thing computed for each step.

    Raises:
        ValueError: if there is no record, or one has a value that is not finite or a length of
            none or more than all of its steps.
    """
    shapes: dict[Any, list[tuple[np.ndarray, np.ndarray | None]]] = {}
    count = 0
    for batch in [batches] if isinstance(batches, Mapping) else batches:
        x = np.asarray(batch["x"])
        real = np.asarray(batch.get("weight", np.ones(len(x)))) > 0
        length = None if "length" not in batch else np.asarray(batch["length"])[real]
        x = x[real]
        if not len(x):
            continue
        _check_records(x, length, count)
        count += len(x)
        key = (x.shape[1:], x.dtype, None if length is None else length.shape[1:])
        shapes.setdefault(key, []).append((x, length))
    if count == 0:
        raise ValueError("calibration: no sequence was given; one is the least, 16 to 64 are usual")
    chunks: list[Chunk] = []
    for parts in shapes.values():
        x = np.concatenate([x for x, _ in parts])
        length = None if parts[0][1] is None else np.concatenate([part for _, part in parts])
        chunks.extend(_cut(x, length, values_per_step))
    return chunks


def _check_records(x: np.ndarray, length: np.ndarray | None, before: int) -> None:
    if np.issubdtype(x.dtype, np.inexact):
        bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
        if len(bad):
            raise ValueError(
                f"calibration: records {(bad[:5] + before).tolist()} hold values that are not "
                "finite; leave them out"
            )
    if length is not None:
        steps = x.shape[length.ndim]
        bad = np.flatnonzero(((length < 1) | (length > steps)).reshape(len(x), -1).any(axis=1))
        if len(bad):
            raise ValueError(
                f"calibration: records {(bad[:5] + before).tolist()} have a length that is not "
                f"in 1 to {steps}"
            )


def _cut(x: np.ndarray, length: np.ndarray | None, values_per_step: int) -> Iterator[Chunk]:
    documents = 1 if length is None else int(np.prod(length.shape[1:]))
    steps = x[0].size if np.issubdtype(x.dtype, np.integer) else x[0].size // x.shape[-1]
    fitting = max(1, _DEVICE_VALUES // max(1, max(steps, documents) * values_per_step))
    size = min(fitting, len(x))
    for start in range(0, len(x), size):
        # All of one shape, as each is compiled anew.
        rows = np.arange(start, start + size)
        index = np.minimum(rows, len(x) - 1)
        yield Chunk(x[index], None if length is None else length[index], rows < len(x))
