"""Calibration data, divided into chunks that fit on the device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Int, Shaped

from lastax._typing import Batch

# Single-precision values of one layer's states and channels that the device computes at once.
MAX_DEVICE_VALUES = 2**25

AnyArray = jax.Array | np.ndarray

# Calibration data: one batch or several. An array stands for a batch `{"x": array}`.
CalibrationBatches = Batch | AnyArray | Iterable[Batch | AnyArray]

_Records = tuple[np.ndarray, np.ndarray | None]


_EXPECTED = 'a mapping {"x": inputs}, an array of inputs, or an iterable of such batches'


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Records of one shape.

    Attributes:
        x: inputs.
        length: lengths of the sequences; None if there is no padding.
        real: false for copies of a record that only fill the chunk up to its size.
        sharding: how the records are divided among devices; None on one device.
    """

    x: Shaped[np.ndarray, "records ..."]
    length: Int[np.ndarray, "records ..."] | None
    real: Bool[np.ndarray, " records"]
    sharding: NamedSharding | None = None

    @property
    def batch(self) -> Batch:
        """The same records as a batch, with weight 0 for copies."""
        lengths = {} if self.length is None else {"length": self.length}
        return {"x": self.x, "weight": self.real.astype(np.float32), **lengths}


def calibration_chunks(
    function: str, batches: CalibrationBatches, *, values_per_step: int = 1
) -> list[Chunk]:
    """Collect the records of all batches in chunks of bounded size.

    Records of one shape form chunks of one shape, so that one program is compiled per shape. If the
    rows of the first batch are divided among devices, the rows of all chunks are, too.

    Args:
        function: name of the function that the user called, for error messages.
        batches: one batch, or one pass over the data. Keys: `x`; `length` if sequences are padded;
            `weight`, 0 for rows that only fill a batch up. An array stands for `{"x": array}`.
        values_per_step: number of values that the widest layer computes per step.

    Raises:
        ValueError: if a batch is neither a mapping with `x` nor an array, if batches have different
            numbers of axes, if there is no record, if a value is not finite, if a length is out of
            range, or if `length` or `weight` has another number of rows than `x`.
    """
    shapes: dict[tuple[object, ...], list[_Records]] = {}
    count, sharding = 0, None
    for batch in _each_batch(function, batches):
        sharding = sharding or _sharding_of_rows(batch["x"])
        x = np.asarray(batch["x"])
        _check_entries(function, batch, len(x))
        real = np.asarray(batch.get("weight", np.ones(len(x)))) > 0
        length = None if "length" not in batch else np.asarray(batch["length"])[real]
        x = x[real]
        if not len(x):
            continue
        _check_records(function, x, length, count)
        count += len(x)
        key = (x.shape[1:], x.dtype, None if length is None else length.shape[1:])
        shapes.setdefault(key, []).append((x, length))
    if count == 0:
        raise ValueError(
            f"{function}: the calibration data hold no sequence; pass at least one (16 to 64 are "
            "usual)"
        )
    axes = sorted({parts[0][0].ndim for parts in shapes.values()})
    if len(axes) > 1:
        raise ValueError(
            f"{function}: batches of calibration data have different numbers of axes, {axes}; "
            "pass inputs only, without labels"
        )
    chunks: list[Chunk] = []
    for parts in shapes.values():
        x = np.concatenate([x for x, _ in parts])
        lengths = [length for _, length in parts if length is not None]
        length = np.concatenate(lengths) if lengths else None
        chunks.extend(_cut(x, length, values_per_step, sharding))
    return chunks


def _each_batch(function: str, batches: CalibrationBatches) -> Iterator[Batch]:
    several = [batches] if isinstance(batches, Mapping | AnyArray) else batches
    try:
        each = iter(several)
    except TypeError:
        raise ValueError(
            f"{function}: calibration data must be {_EXPECTED}; got {type(batches).__name__}"
        ) from None
    for batch in each:
        if isinstance(batch, AnyArray):
            yield {"x": batch}
        elif isinstance(batch, Mapping) and "x" in batch:
            yield batch
        else:
            keys = f" with keys {list(batch)}" if isinstance(batch, Mapping) else ""
            raise ValueError(
                f"{function}: calibration data must be {_EXPECTED}; got a batch that is a "
                f"{type(batch).__name__}{keys}"
            )


def _check_entries(function: str, batch: Batch, records: int) -> None:
    for name in ("length", "weight"):
        if name in batch and np.shape(batch[name])[:1] != (records,):
            raise ValueError(
                f"{function}: {name} has shape {np.shape(batch[name])}, but x has {records} "
                "sequences; pass one entry per sequence"
            )


def _check_records(function: str, x: np.ndarray, length: np.ndarray | None, before: int) -> None:
    if np.issubdtype(x.dtype, np.inexact):
        bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{function}: calibration records {(bad[:5] + before).tolist()} hold values that "
                "are not finite; remove these records"
            )
    if length is not None:
        steps = x.shape[length.ndim]
        bad = np.flatnonzero(((length < 1) | (length > steps)).reshape(len(x), -1).any(axis=1))
        if len(bad):
            raise ValueError(
                f"{function}: calibration records {(bad[:5] + before).tolist()} have a length "
                f"outside 1 to {steps}"
            )


def _sharding_of_rows(x: AnyArray) -> NamedSharding | None:
    """How the rows of an array are divided among devices."""
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.spec[0] is None:
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))


def _shard_count(sharding: NamedSharding | None) -> int:
    if sharding is None:
        return 1
    axes = sharding.spec[0]
    return math.prod(sharding.mesh.shape[axis] for axis in np.atleast_1d(axes))


def _cut(
    x: np.ndarray, length: np.ndarray | None, values_per_step: int, sharding: NamedSharding | None
) -> Iterator[Chunk]:
    documents = 1 if length is None else int(np.prod(length.shape[1:]))
    steps = x[0].size if np.issubdtype(x.dtype, np.integer) else x[0].size // x.shape[-1]
    fitting = max(1, MAX_DEVICE_VALUES // max(1, max(steps, documents) * values_per_step))
    # Each device computes an equal share of a chunk.
    shards = _shard_count(sharding)
    size = shards * min(fitting, -(-len(x) // shards))
    for start in range(0, len(x), size):
        # The last chunk repeats a record, since each shape is compiled separately.
        rows = np.arange(start, start + size)
        index = np.minimum(rows, len(x) - 1)
        lengths = None if length is None else length[index]
        yield Chunk(x[index], lengths, rows < len(x), sharding)
