"""Second moments of layers and linear maps, accumulated over calibration data."""

from __future__ import annotations

from collections.abc import Iterable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from lastax._typing import Array
from lastax.calibration._blockwise_pass import AnyArray, layer_input, layer_of, layer_output
from lastax.calibration._chunk_moments import chunk_moments, row_groups
from lastax.calibration._features import RegressionSystem
from lastax.calibration._moments import Moments
from lastax.nn._blockwise import BlockwiseForward, HiddenStates
from lastax.ssm._precision import at_least_float32, exact_products
from lastax.surgery._reading import float32_system


def layer_moments(
    name: str,
    forward: BlockwiseForward,
    block: PyTree,
    inputs: Iterable[HiddenStates],
    targets: Iterable[Float[np.ndarray, "_n _L H"]] | None = None,
    *,
    system: RegressionSystem | None = None,
) -> Moments:
    """Moments of a layer's regression over all valid steps.

    Args:
        name: how error messages call the layer.
        forward: block-wise forward pass of the model.
        block: the block that holds the layer.
        inputs: hidden states before the block, one entry per chunk.
        targets: outputs that the layer should have, one array `(n, L, H)` per chunk. Default: the
            outputs that it has.
        system: a system whose states give the features. Default: the system of the layer.

    Raises:
        ValueError: if a moment is not finite, because a state or an output grows without bound.
    """
    system = float32_system(layer_of(block)) if system is None else system
    total: Moments | None = None
    wanted = iter(targets) if targets is not None else None
    for states in inputs:
        u = at_least_float32(layer_input(forward, block, states))
        y = np.asarray(layer_output(forward, block, states)) if wanted is None else next(wanted)
        part = chunk_moments(system, u, y, np.asarray(states.valid))
        if part is not None:
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


@eqx.filter_jit
@exact_products
def _linears_input(forward: BlockwiseForward, block: PyTree, y: AnyArray) -> Array:
    return forward.linears_input(block, jnp.asarray(y))


@eqx.filter_jit
@exact_products
def _linear_outputs(forward: BlockwiseForward, block: PyTree, y: AnyArray) -> list[Array]:
    x = forward.linears_input(block, jnp.asarray(y))
    return [linear(x) for linear in forward.linears(block)]
