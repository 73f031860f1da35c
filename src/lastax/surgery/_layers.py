"""Find and replace the state-space layers of any PyTree.

A layer is any node that has the three methods of `lastax.Layer`. Layers need no base class and no
registration.
"""

from collections.abc import Sequence
from typing import TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lastax._typing import Model
from lastax.nn._layer import Layer
from lastax.ssm._multi_siso import AnySystem


class UnstableStatesWarning(UserWarning):
    """Some states have `|lam| >= 1` and no finite norm. They are kept."""


def find_layers(model: PyTree) -> list[Layer]:
    """All layers of a PyTree, in the order in which JAX flattens it.

    Raises:
        ValueError: if the model has no layer.
    """
    layers = [node for node in jax.tree.leaves(model, is_leaf=_is_layer) if _is_layer(node)]
    if not layers:
        raise ValueError(
            f"no state-space layer in this {type(model).__name__}: a layer is a node of the PyTree "
            "with the methods system(), keep(mask) and __call__(u)"
        )
    return layers


def state_counts(model: PyTree) -> list[int]:
    """The number of states of each layer, in the order of `find_layers`."""
    return [layer.system().states for layer in find_layers(model)]


def systems(model: PyTree) -> list[AnySystem]:
    """The systems of all layers, discretized in float64, as NumPy arrays on the host.

    In float32, most digits of `1 - |lam|` of a slow state are rounding errors.
    """
    return [host_system(layer) for layer in find_layers(model)]


# Foreign layers may have systems of their own class, so the result is any PyTree.
def host_system(layer: Layer) -> PyTree:
    """The system of one layer, discretized in float64, as NumPy arrays on the host."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _in_float64(layer).system())


def replace_layers(model: Model, layers: Sequence[Layer]) -> Model:
    """A copy of the model with new layers.

    Args:
        model: any PyTree that contains layers.
        layers: one layer for each layer of the model, in the order of `find_layers`.

    Raises:
        ValueError: if the number of layers differs.
    """
    present = find_layers(model)
    if len(layers) != len(present):
        raise ValueError(
            f"replace_layers: got {len(layers)} layers for a model with {len(present)} layers"
        )
    new = iter(layers)
    return jax.tree.map(
        lambda node: next(new) if _is_layer(node) else node, model, is_leaf=_is_layer
    )


def _is_layer(node: object) -> TypeGuard[Layer]:
    return isinstance(node, Layer) and not isinstance(node, type)


def _in_float64(layer: Layer) -> Layer:
    def widen(leaf: PyTree) -> PyTree:
        if not eqx.is_inexact_array(leaf):
            return leaf
        dtype = jnp.complex128 if jnp.iscomplexobj(leaf) else jnp.float64
        return jnp.asarray(np.asarray(leaf), dtype)

    return jax.tree.map(widen, layer)
