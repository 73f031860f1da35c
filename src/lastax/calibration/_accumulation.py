"""Second moments of layers and linear maps, accumulated over calibration data.

Products are computed in float64 on the host, over groups of steps that fit there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from lastax._typing import Array
from lastax.calibration._blockwise_pass import AnyArray, layer_of
from lastax.calibration._features import moments_of_rows, state_features, state_slots
from lastax.calibration._moments import Moments
from lastax.nn._blockwise import BlockwiseForward, HiddenStates
from lastax.surgery._reading import float32_system

# Double-precision values that the host multiplies at once.
MAX_HOST_VALUES = 2**23


def layer_moments(
    name: str,
    forward: BlockwiseForward,
    block: PyTree,
    inputs: Iterable[HiddenStates],
    targets: Iterable[Float[np.ndarray, "_n _L H"]] | None = None,
) -> Moments:
    """Moments of a layer's regression over all valid steps.

    Args:
        name: how error messages call the layer.
        forward: block-wise forward pass of the model.
        block: the block that holds the layer.
        inputs: hidden states before the block, one entry per chunk.
        targets: outputs that the layer should have, one array `(n, L, H)` per chunk. Default: the
            outputs that it has.

    Raises:
        ValueError: if a moment is not finite, because a state or an output grows without bound.
    """
    slots = state_slots(float32_system(layer_of(block)))
    total: Moments | None = None
    wanted = iter(targets) if targets is not None else None
    for states in inputs:
        u, features, y = (np.asarray(part) for part in _observe(forward, block, states))
        if wanted is not None:
            y = next(wanted)
        for rows in row_groups(np.asarray(states.valid), features[0, 0].size + 2 * u.shape[-1]):
            part = moments_of_rows(slots, features[rows], u[rows], y[rows])
            total = part if total is None else total + part
    if total is None or not np.isfinite(total.gram).all():
        raise ValueError(
            f"{name}: its states are not finite on the calibration data; states with |lam| >= 1 "
            "may grow without bound"
        )
    return total


def linear_grams(
    forward: BlockwiseForward,
    original: PyTree,
    reduced: PyTree,
    valid: Iterable[Bool[np.ndarray, "_n _L"]],
    layer_outputs: Iterable[tuple[np.ndarray, np.ndarray]],
) -> list[Float[np.ndarray, "_Z _Z"]]:
    """Moments of the linear maps that follow a layer.

    Args:
        forward: block-wise forward pass of the model.
        original: block whose linear maps give the targets.
        reduced: block whose linear maps are fitted.
        valid: valid steps, one array per chunk.
        layer_outputs: outputs of the layers of the two blocks, one pair per chunk.

    Returns:
        For each linear map the mean of `z z^T`, where `z = [input, 1, target]`.
    """
    grams = [np.zeros(()) for _ in forward.linears(original)]
    rows = 0
    for where, (y_original, y_reduced) in zip(valid, layer_outputs, strict=True):
        targets = [np.asarray(t) for t in _linear_outputs(forward, original, y_original)]
        x = np.asarray(_linears_input(forward, reduced, y_reduced))
        for group in row_groups(where, 2 * x.shape[-1]):
            rows += len(group[0])
            grams = [
                gram + linear_gram(x[group], t[group])
                for gram, t in zip(grams, targets, strict=True)
            ]
    return [gram / rows for gram in grams]


def linear_gram(
    x: Float[np.ndarray, "R a"], t: Float[np.ndarray, "R b"]
) -> Float[np.ndarray, "Z Z"]:
    """Sum of `z z^T` over the rows `z = [x, 1, t]`. `refit_linear` takes the mean."""
    z = np.concatenate([x, np.ones((len(x), 1)), t], axis=1, dtype=np.float64)
    return z.T @ z


def row_groups(
    valid: Bool[np.ndarray, "n L"], values_per_row: int
) -> Iterator[tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]]:
    """Indices (sequence, step) of valid steps, in groups of at most `MAX_HOST_VALUES` values."""
    sequence, step = np.nonzero(valid)
    size = max(1, MAX_HOST_VALUES // max(1, values_per_row))
    for start in range(0, len(step), size):
        yield sequence[start : start + size], step[start : start + size]


@eqx.filter_jit
def _observe(
    forward: BlockwiseForward, block: PyTree, states: HiddenStates
) -> tuple[Array, Array, Array]:
    """Input, state features and output of the layer of a block."""
    layer, u = layer_of(block), forward.before(block, states)
    features = functools.partial(state_features, float32_system(layer))
    return u, jax.vmap(features)(_at_least_float32(u)), jax.vmap(layer)(u)


def _at_least_float32(u: Array) -> Array:
    return u.astype(jnp.promote_types(u.dtype, jnp.float32))


@eqx.filter_jit
def _linears_input(forward: BlockwiseForward, block: PyTree, y: AnyArray) -> Array:
    return forward.linears_input(block, jnp.asarray(y))


@eqx.filter_jit
def _linear_outputs(forward: BlockwiseForward, block: PyTree, y: AnyArray) -> list[Array]:
    x = forward.linears_input(block, jnp.asarray(y))
    return [linear(x) for linear in forward.linears(block)]
