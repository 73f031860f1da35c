"""Taking states out of any model that holds layers: arrays shrink, no mask is left.

A layer is whatever has the three methods of `Layer`. There is nothing to register and no class to
inherit from; the model may be any PyTree.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lastax._typing import Model
from lastax.nn._layer import Layer
from lastax.ssm._multi_siso import AnySystem


class UnstableStatesWarning(UserWarning):
    """Some states have `|lam| >= 1`: no finite norm. They are kept."""


def find_layers(model: Any) -> list[Layer]:
    """All layers of a PyTree, in the order in which JAX flattens it.

    Raises:
        ValueError: if there is none.
    """
    layers = [node for node in jax.tree.leaves(model, is_leaf=_is_layer) if _is_layer(node)]
    if not layers:
        raise ValueError(
            f"no state-space layer in this {type(model).__name__}: a layer is a node of the PyTree "
            "with the methods system(), keep(mask) and __call__(u)"
        )
    return layers


def state_counts(model: Any) -> list[int]:
    """Number of states of each layer."""
    return [layer.system().states for layer in find_layers(model)]


def systems(model: Any) -> list[AnySystem]:
    """The systems of all layers, discretized in float64, as numpy arrays.

    In float32 `1 - |lam|` of slow states is mostly rounding.
    """
    return [host_system(layer) for layer in find_layers(model)]


def host_system(layer: Layer) -> Any:
    """The system of one layer, discretized in float64, as numpy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _in_float64(layer).system())


def replace_layers(model: Model, layers: Sequence[Layer]) -> Model:
    """The model with other layers in place of its own, in the order of `find_layers`.

    Raises:
        ValueError: if the numbers of layers differ.
    """
    found = find_layers(model)
    if len(layers) != len(found):
        raise ValueError(f"replace_layers: {len(layers)} layers, for a model that has {len(found)}")
    new = iter(layers)
    return jax.tree.map(
        lambda node: next(new) if _is_layer(node) else node, model, is_leaf=_is_layer
    )


def _is_layer(node: Any) -> bool:
    return isinstance(node, Layer) and not isinstance(node, type)


def _in_float64(layer: Layer) -> Layer:
    def widen(leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        kind = jnp.complex128 if jnp.iscomplexobj(leaf) else jnp.float64
        return jnp.asarray(np.asarray(leaf), kind)

    return jax.tree.map(widen, layer)
