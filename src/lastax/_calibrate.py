"""Passing calibration data through a network, block by block, and what is measured on the way.

What is held at once is one number for each step and channel of the data, a few times over, and
what one layer's states give for a few sequences. Products are summed up in float64 on the host.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lastax._blocks import Block, Linear
from lastax._features import moments_of_rows, output_weights, state_features, state_slots
from lastax._networks import Network
from lastax._normalize import BatchNorm, RunningStatistics
from lastax._refit import Moments
from lastax._stages import NetworkStages, Stages, Stream
from lastax._surgery import Layer, find_layers

# Numbers of one layer's states and channels that the device gives at once, in single precision.
_DEVICE_NUMBERS = 2**25
# And those that the host multiplies at once, in double precision.
_HOST_NUMBERS = 2**22

Batch = Mapping[str, jax.Array | np.ndarray]
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A few records of one shape; `real` is false for copies that only fill it up."""

    x: np.ndarray
    length: np.ndarray | None
    real: Bool[np.ndarray, " records"]


def calibration_chunks(batches: Batch | Iterable[Batch], *, numbers_a_step: int = 1) -> list[Chunk]:
    """The records of all batches in chunks of bounded size, those of one shape in chunks of one.

    Args:
        batches: one pass over the data: `x`, where sequences are padded `length`, and where rows
            only fill a batch up `weight`. One batch alone will do.
        numbers_a_step: of the largest thing computed for each step.

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
        chunks.extend(_cut(x, length, numbers_a_step))
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


def _cut(x: np.ndarray, length: np.ndarray | None, numbers_a_step: int) -> Iterator[Chunk]:
    documents = 1 if length is None else int(np.prod(length.shape[1:]))
    steps = x[0].size if np.issubdtype(x.dtype, np.integer) else x[0].size // x.shape[-1]
    fitting = max(1, _DEVICE_NUMBERS // max(1, max(steps, documents) * numbers_a_step))
    size = min(fitting, len(x))
    for start in range(0, len(x), size):
        # All of one shape, as each is compiled anew.
        rows = np.arange(start, start + size)
        index = np.minimum(rows, len(x) - 1)
        yield Chunk(x[index], None if length is None else length[index], rows < len(x))


def numbers_a_step(model: Any) -> int:
    """How many numbers the widest layer of a model has for each step: states' and channels'."""
    systems = [layer.system() for layer in find_layers(model)]
    return max(output_weights(system)[..., 0].size + 2 * len(system.D) for system in systems)


def enter_all(stages: Stages, model: Any, chunks: Sequence[Chunk]) -> list[Stream]:
    """What goes into the first block, a stream a chunk, on the host; filling is not valid."""
    streams = []
    for chunk in chunks:
        stream = on_host(_enter(stages, model, chunk.x, chunk.length))
        real = np.repeat(chunk.real, len(stream.valid) // len(chunk.real))
        streams.append(stream._replace(valid=stream.valid & real[:, None]))
    return streams


def layer_of(block: Any) -> Layer:
    """The one layer of a block.

    Raises:
        ValueError: if there are several, or none.
    """
    layers = find_layers(block)
    if len(layers) != 1:
        raise ValueError(f"stages: each block must hold one layer; one has {len(layers)}")
    return layers[0]


def layer_outputs(stages: Stages, block: Any, stream: Stream) -> Float[np.ndarray, "n L H"]:
    """What the layer of a block answers."""
    return np.asarray(_answer(stages, block, stream))


def layer_moments(
    stages: Stages,
    block: Any,
    streams: Iterable[Stream],
    targets: Iterable[np.ndarray] | None = None,
) -> Moments:
    """Moments of a layer's regression over all valid steps of all streams.

    Args:
        stages: how data pass the model.
        block: the block that the layer is in.
        streams: what goes into the block.
        targets: what the layer should answer, `(n, L, H)` a stream; what it does answer if left
            out.

    Raises:
        ValueError: if a number is not finite: the layer's answer grows without bound.
    """
    slots = state_slots(layer_of(block).system())
    total: Moments | None = None
    wanted = iter(targets) if targets is not None else None
    for stream in streams:
        u, features, y = (np.asarray(part) for part in _observe(stages, block, stream))
        if wanted is not None:
            y = next(wanted)
        for rows in _row_groups(np.asarray(stream.valid), features[0, 0].size + 2 * u.shape[-1]):
            part = moments_of_rows(slots, features[rows], u[rows], y[rows])
            total = part if total is None else total + part
    if total is None or not np.isfinite(total.gram).all():
        raise ValueError(
            "calibration: what a layer's states give on these data is not finite; a state with "
            "|lam| >= 1 may grow without bound"
        )
    return total


def linear_gram(
    x: Float[np.ndarray, "R a"], t: Float[np.ndarray, "R b"]
) -> Float[np.ndarray, "Z Z"]:
    """Sum of `z z^T` over the rows `z = [x, 1, t]`, as `refit_linear` takes the mean of."""
    z = np.concatenate([x, np.ones((len(x), 1)), t], axis=1, dtype=np.float64)
    return z.T @ z


def linears_grams(
    stages: Stages,
    blocks: tuple[Any, Any],
    valid: Iterable[np.ndarray],
    answers: Iterable[tuple[np.ndarray, np.ndarray]],
) -> list[Float[np.ndarray, "Z Z"]]:
    """For each linear map behind a layer, the mean of `z z^T` with `z = [input, 1, target]`.

    Inputs come from the second block and its layer's answers, targets from what the first block's
    map makes of its own.
    """
    first, second = blocks
    maps = stages.linears(first)
    sums: list[Any] = [0.0] * len(maps)
    rows = 0
    for where, (y_first, y_second) in zip(valid, answers, strict=True):
        wanted = [np.asarray(t) for t in _linear_outputs(stages, first, y_first)]
        x = np.asarray(_linears_input(stages, second, y_second))
        for group in _row_groups(where, 2 * x.shape[-1]):
            rows += len(group[0])
            sums = [
                total + linear_gram(x[group], t[group])
                for total, t in zip(sums, wanted, strict=True)
            ]
    return [total / rows for total in sums]


def all_features(
    stages: Stages, model: Any, streams: Iterable[Stream], chunks: Sequence[Chunk]
) -> Float[np.ndarray, "records F"]:
    """What the head gets, for all records."""
    return np.concatenate(
        [
            np.asarray(_features(stages, model, stream))[chunk.real]
            for stream, chunk in zip(streams, chunks, strict=True)
        ]
    )


def pass_through(stages: Stages, block: Any, stream: Stream) -> Stream:
    """One whole block, on the host."""
    return on_host(block_output(stages, block, stream))


def pass_after(stages: Stages, block: Any, stream: Stream, y: np.ndarray) -> Stream:
    """What a block makes of its layer's answer `y`, on the host."""
    return on_host(_after(stages, block, stream, y))


def on_host(tree: Tree) -> Tree:
    """The same PyTree with numpy arrays."""
    return jax.tree.map(np.asarray, tree)


def outputs_of(head: Linear | None, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n m"]:
    """Outputs of the head in float64."""
    wide = np.asarray(features, float)
    if head is None:
        return wide
    return wide @ np.asarray(head.weight, float) + np.asarray(head.bias, float)


def remeasure_statistics(model: Network, batches: Batch | Iterable[Batch]) -> Network:
    """The network with its batch norms' running statistics measured anew.

    After states were removed, what a norm sees has moved. Block by block, each fed by norms that
    have been measured already, mean and variance become those of all steps of `batches`, as if
    these were one batch of training without dropout; but training's own running statistics are
    averages over many batches. Layer norms have none. No label is used.

    Args:
        model: the network.
        batches: one pass over the data, as `refit` takes them.

    Raises:
        ValueError: as `calibration_chunks` does.
    """
    stages = NetworkStages()
    chunks = calibration_chunks(batches, numbers_a_step=numbers_a_step(model))
    streams = enter_all(stages, model, chunks)
    blocks: list[Block] = []
    for block in stages.blocks(model):
        if isinstance(block.norm, BatchNorm):
            seen = (_norm_input(stages, block, stream) for stream in streams)
            mean, variance = _statistics(seen, [_norm_rows(stream) for stream in streams])
            kind = block.norm.running.mean.dtype
            running = RunningStatistics(jnp.asarray(mean, kind), jnp.asarray(variance, kind))
            norm = dataclasses.replace(block.norm, running=running)
            block = dataclasses.replace(block, norm=norm)
        streams = [pass_through(stages, block, stream) for stream in streams]
        blocks.append(block)
    return eqx.tree_at(stages.blocks, model, tuple(blocks))


def _norm_input(stages: NetworkStages, block: Block, stream: Stream) -> np.ndarray:
    if block.prenorm:
        return np.asarray(stream.hidden)
    y = _answer(stages, block, stream)
    return np.asarray(eqx.filter_jit(stages.unnormalized)(block, stream, y))


def _norm_rows(stream: Stream) -> np.ndarray:
    """Steps that a norm takes statistics from; padding is among them unless it is masked."""
    valid = np.asarray(stream.valid)
    if stream.mask is not None:
        return valid
    return np.broadcast_to(valid.any(axis=1, keepdims=True), valid.shape)


def _statistics(
    seen: Iterable[np.ndarray], where: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    count, total, squares = 0, 0.0, 0.0
    for hidden, rows in zip(seen, where, strict=True):
        for group in _row_groups(rows, hidden.shape[-1]):
            wide = hidden[group].astype(np.float64)
            count += len(wide)
            total = total + wide.sum(axis=0)
            squares = squares + (wide**2).sum(axis=0)
    mean = np.asarray(total / count)
    return mean, np.maximum(np.asarray(squares / count) - mean**2, 0)


def _row_groups(
    valid: Bool[np.ndarray, "n L"], numbers_a_row: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (sequence, step) where `valid` holds, in groups that fit on the host."""
    sequence, step = np.nonzero(valid)
    size = max(1, _HOST_NUMBERS // max(1, numbers_a_row))
    for start in range(0, len(step), size):
        yield sequence[start : start + size], step[start : start + size]


# Blocks are arguments, so that equal ones share a program.


@eqx.filter_jit
def _enter(stages: Stages, model: Any, x: Any, length: Any) -> Stream:
    return stages.enter(model, jnp.asarray(x), length)


@eqx.filter_jit
def _observe(stages: Stages, block: Any, stream: Stream) -> tuple[Any, Any, Any]:
    layer, u = layer_of(block), stages.before(block, stream)
    features = functools.partial(state_features, layer.system())
    return u, jax.vmap(features)(u), jax.vmap(layer)(u)


@eqx.filter_jit
def _answer(stages: Stages, block: Any, stream: Stream) -> Any:
    return jax.vmap(layer_of(block))(stages.before(block, stream))


@eqx.filter_jit
def _after(stages: Stages, block: Any, stream: Stream, y: Any) -> Stream:
    return stages.after(block, stream, y)


@eqx.filter_jit
def block_output(stages: Stages, block: Any, stream: Stream) -> Stream:
    """One whole block, on the device."""
    y = jax.vmap(layer_of(block))(stages.before(block, stream))
    return stages.after(block, stream, y)


@eqx.filter_jit
def _features(stages: Stages, model: Any, stream: Stream) -> Any:
    return stages.features(model, stream)


@eqx.filter_jit
def _linears_input(stages: Stages, block: Any, y: Any) -> Any:
    return stages.linears_input(block, y)


@eqx.filter_jit
def _linear_outputs(stages: Stages, block: Any, y: Any) -> Any:
    x = stages.linears_input(block, y)
    return [map_(x) for map_ in stages.linears(block)]
