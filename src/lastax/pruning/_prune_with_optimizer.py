"""Prune a model together with the state of its optimizer, to continue training."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lastax._typing import Array, Model, PRNGKeyArray
from lastax.nn._blockwise import BlockwiseForward
from lastax.pruning._methods import Method, find_method
from lastax.pruning._reducer import CalibrationData, Reducer, Reduction
from lastax.surgery._counts import Ratio
from lastax.surgery._layers import layer_nodes
from lastax.surgery._optimizer import keep_states_with_optimizer


def prune_with_optimizer(
    model: Model,
    optimizer_state: PyTree,
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    method: str | Method = "aire",
    length: int | None = None,
    key: PRNGKeyArray | None = None,
    calibration: CalibrationData | None = None,
    forward: BlockwiseForward | None = None,
) -> tuple[Reduction, PyTree]:
    """Remove states during training: `prune`, with an optimizer state that fits the result.

    Moments of removed states are removed, and all others stay. Methods that create new states
    (`balanced`) set the moments of all parameters of the layers to zero, because the moments of the
    old states do not apply to the new ones. Call it between two training steps; the next step is
    compiled again, because shapes change.

    Args:
        model: any PyTree that contains layers (`find_layers`).
        optimizer_state: state of an Optax optimizer for the parameters of `model`, as in
            `keep_states_with_optimizer`.
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in total.
        method: a name in `METHODS`, or a `Method`.
        length: number of steps of the task's sequences, for "last-finite-horizon".
        key: random key, for "random".
        calibration: unlabeled data, for methods that use them.
        forward: as for `prune`.

    Returns:
        The reduction, whose `model` is the smaller model, and the optimizer state for it.

    Raises:
        ValueError: as `prune` and `keep_states_with_optimizer`.
    """
    function = "prune_with_optimizer"
    chosen = find_method(function, method)
    reducer = Reducer(
        model, calibration, length=length, key=key, forward=forward, function=function
    )
    reduction = reducer.reduce(chosen, ratio=ratio, states=states)
    _, small = keep_states_with_optimizer(model, optimizer_state, reduction.keep)
    if chosen.reduce is not None and reduction.states_after != reduction.states_before:
        small = _without_moments(reduction.model, small)
    return reduction, small


def _without_moments(model: PyTree, optimizer_state: PyTree) -> PyTree:
    """The optimizer state, with zeros for all parameters of the layers of the model."""
    layers = {
        (*place, *path)
        for place, layer in layer_nodes(model)
        for path, _ in jax.tree_util.tree_leaves_with_path(layer)
    }

    def clear(path: tuple[object, ...], leaf: Array) -> Array:
        owned = any(path[start:] in layers for start in range(len(path)))
        return jnp.zeros_like(leaf) if owned else leaf

    return jax.tree_util.tree_map_with_path(clear, optimizer_state)
