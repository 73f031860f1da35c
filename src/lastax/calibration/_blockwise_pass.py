"""Passing calibration data through a network, block by block, and what is measured on the way.

What is held at once is one number for each step and channel of the data, a few times over, and
what one layer's states give for a few sequences. Products are summed up in float64 on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lastax.calibration._features import (
    moments_of_rows,
    output_weights,
    state_features,
    state_slots,
)
from lastax.calibration._moments import Moments
from lastax.calibration._records import Chunk
from lastax.nn._blocks import Linear
from lastax.nn._blockwise import BlockwiseForward, HiddenStates
from lastax.nn._layer import Layer
from lastax.surgery._layers import find_layers

# And those that the host multiplies at once, in double precision.
_HOST_VALUES = 2**22

Tree = TypeVar("Tree")


def values_per_step(model: Any) -> int:
    """How many numbers the widest layer of a model has for each step: states' and channels'."""
    systems = [layer.system() for layer in find_layers(model)]
    return max(output_weights(system)[..., 0].size + 2 * len(system.D) for system in systems)


def enter_all(forward: BlockwiseForward, model: Any, chunks: Sequence[Chunk]) -> list[HiddenStates]:
    """What goes into the first block, a stream a chunk, on the host; filling is not valid."""
    streams = []
    for chunk in chunks:
        stream = on_host(_enter(forward, model, chunk.x, chunk.length))
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
        raise ValueError(f"forward: each block must hold one layer; one has {len(layers)}")
    return layers[0]


def layer_outputs(
    forward: BlockwiseForward, block: Any, stream: HiddenStates
) -> Float[np.ndarray, "n L H"]:
    """What the layer of a block answers."""
    return np.asarray(layer_output_on_device(forward, block, stream))


def layer_moments(
    forward: BlockwiseForward,
    block: Any,
    streams: Iterable[HiddenStates],
    targets: Iterable[np.ndarray] | None = None,
) -> Moments:
    """Moments of a layer's regression over all valid steps of all streams.

    Args:
        forward: how data pass the model.
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
        u, features, y = (np.asarray(part) for part in _observe(forward, block, stream))
        if wanted is not None:
            y = next(wanted)
        for rows in row_groups(np.asarray(stream.valid), features[0, 0].size + 2 * u.shape[-1]):
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
    forward: BlockwiseForward,
    blocks: tuple[Any, Any],
    valid: Iterable[np.ndarray],
    answers: Iterable[tuple[np.ndarray, np.ndarray]],
) -> list[Float[np.ndarray, "Z Z"]]:
    """For each linear map behind a layer, the mean of `z z^T` with `z = [input, 1, target]`.

    Inputs come from the second block and its layer's answers, targets from what the first block's
    map makes of its own.
    """
    first, second = blocks
    maps = forward.linears(first)
    sums: list[Any] = [0.0] * len(maps)
    rows = 0
    for where, (y_first, y_second) in zip(valid, answers, strict=True):
        wanted = [np.asarray(t) for t in _linear_outputs(forward, first, y_first)]
        x = np.asarray(_linears_input(forward, second, y_second))
        for group in row_groups(where, 2 * x.shape[-1]):
            rows += len(group[0])
            sums = [
                total + linear_gram(x[group], t[group])
                for total, t in zip(sums, wanted, strict=True)
            ]
    return [total / rows for total in sums]


def all_features(
    forward: BlockwiseForward, model: Any, streams: Iterable[HiddenStates], chunks: Sequence[Chunk]
) -> Float[np.ndarray, "records F"]:
    """What the head gets, for all records."""
    return np.concatenate(
        [
            np.asarray(_features(forward, model, stream))[chunk.real]
            for stream, chunk in zip(streams, chunks, strict=True)
        ]
    )


def pass_through(forward: BlockwiseForward, block: Any, stream: HiddenStates) -> HiddenStates:
    """One whole block, on the host."""
    return on_host(block_output(forward, block, stream))


def pass_after(
    forward: BlockwiseForward, block: Any, stream: HiddenStates, y: np.ndarray
) -> HiddenStates:
    """What a block makes of its layer's answer `y`, on the host."""
    return on_host(_after(forward, block, stream, y))


def on_host(tree: Tree) -> Tree:
    """The same PyTree with numpy arrays."""
    return jax.tree.map(np.asarray, tree)


def outputs_of(head: Linear | None, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n m"]:
    """Outputs of the head in float64."""
    wide = np.asarray(features, float)
    if head is None:
        return wide
    return wide @ np.asarray(head.weight, float) + np.asarray(head.bias, float)


def row_groups(
    valid: Bool[np.ndarray, "n L"], values_per_row: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (sequence, step) where `valid` holds, in groups that fit on the host."""
    sequence, step = np.nonzero(valid)
    size = max(1, _HOST_VALUES // max(1, values_per_row))
    for start in range(0, len(step), size):
        yield sequence[start : start + size], step[start : start + size]


# Blocks are arguments, so that equal ones share a program.


@eqx.filter_jit
def _enter(forward: BlockwiseForward, model: Any, x: Any, length: Any) -> HiddenStates:
    return forward.enter(model, jnp.asarray(x), length)


@eqx.filter_jit
def _observe(forward: BlockwiseForward, block: Any, stream: HiddenStates) -> tuple[Any, Any, Any]:
    layer, u = layer_of(block), forward.before(block, stream)
    features = functools.partial(state_features, layer.system())
    return u, jax.vmap(features)(u), jax.vmap(layer)(u)


@eqx.filter_jit
def layer_output_on_device(forward: BlockwiseForward, block: Any, stream: HiddenStates) -> Any:
    return jax.vmap(layer_of(block))(forward.before(block, stream))


@eqx.filter_jit
def _after(forward: BlockwiseForward, block: Any, stream: HiddenStates, y: Any) -> HiddenStates:
    return forward.after(block, stream, y)


@eqx.filter_jit
def block_output(forward: BlockwiseForward, block: Any, stream: HiddenStates) -> HiddenStates:
    """One whole block, on the device."""
    y = jax.vmap(layer_of(block))(forward.before(block, stream))
    return forward.after(block, stream, y)


@eqx.filter_jit
def _features(forward: BlockwiseForward, model: Any, stream: HiddenStates) -> Any:
    return forward.features(model, stream)


@eqx.filter_jit
def _linears_input(forward: BlockwiseForward, block: Any, y: Any) -> Any:
    return forward.linears_input(block, y)


@eqx.filter_jit
def _linear_outputs(forward: BlockwiseForward, block: Any, y: Any) -> Any:
    x = forward.linears_input(block, y)
    return [map_(x) for map_ in forward.linears(block)]
