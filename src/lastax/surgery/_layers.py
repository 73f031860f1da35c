"""Find and replace the state-space layers of any PyTree.

A layer is any node that has the three methods of `lastax.Layer`. Layers need no base class and no
registration. Layers of discretax count as layers of lastax with the same parameters (`adopted`).
"""

from collections.abc import Hashable, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np
from jaxtyping import PyTree

from lastax._typing import Model
from lastax.nn._layer import Layer
from lastax.ssm._multi_siso import AnySystem
from lastax.surgery._adoption import adopted
from lastax.surgery._reading import host_system, layer_counts


class UnstableStatesWarning(UserWarning):
    """Some states have `|lam| >= 1` and no finite norm. They are kept."""


def find_layers(model: PyTree) -> list[Layer]:
    """All layers of a PyTree, in the order in which JAX flattens it.

    A layer that is used in several places is listed once, in its first place. Layers are the same
    if they share all of their arrays.

    Raises:
        ValueError: if the model has no layer.
    """
    layers: dict[Hashable, Layer] = {}
    for _, layer in layer_nodes(model):
        layers.setdefault(layer_identity(layer), layer)
    if not layers:
        raise ValueError(
            f"no state-space layer in this {type(model).__name__}: a layer is a node of the PyTree "
            "with the methods system(), keep(mask) and __call__(u)"
        )
    return list(layers.values())


def state_counts(model: PyTree) -> list[int]:
    """The number of states of each layer, in the order of `find_layers`."""
    return layer_counts("state_counts", find_layers(model))


def systems(model: PyTree) -> list[AnySystem]:
    """The systems of all layers, discretized in float64, as NumPy arrays on the host.

    In float32, most digits of `1 - |lam|` of a slow state are rounding errors.
    """
    return systems_of("systems", model)


def systems_of(function: str, model: PyTree) -> list[AnySystem]:
    """`systems` on behalf of `function`, which errors name."""
    return [host_system(function, index, layer) for index, layer in enumerate(find_layers(model))]


def replace_layers(model: Model, layers: Sequence[Layer]) -> Model:
    """A copy of the model with new layers.

    A layer that is used in several places is replaced in all of them by the same new layer.

    Args:
        model: any PyTree that contains layers.
        layers: one layer for each layer of the model, in the order of `find_layers`.

    Raises:
        ValueError: if the number of layers differs.
    """
    model = adopted(model)
    present = find_layers(model)
    if len(layers) != len(present):
        raise ValueError(
            f"replace_layers: got {len(layers)} layers for a model with {len(present)} layers"
        )
    new = {layer_identity(old): layer for old, layer in zip(present, layers, strict=True)}
    return jax.tree.map(
        lambda node: new[layer_identity(node)] if _is_layer(node) else node,
        model,
        is_leaf=_is_layer,
    )


def layer_nodes(model: PyTree) -> list[tuple[tuple[Any, ...], Layer]]:
    """Every place of a layer in a PyTree: its path, and the layer."""
    nodes = jax.tree_util.tree_leaves_with_path(adopted(model), is_leaf=_is_layer)
    return [(path, node) for path, node in nodes if _is_layer(node)]


def _is_layer(node: object) -> TypeGuard[Layer]:
    return isinstance(node, Layer) and not isinstance(node, type)


def layer_identity(layer: Layer) -> Hashable:
    """A key that is equal for layers that share all of their arrays, as copies by JAX do."""
    leaves, structure = jax.tree.flatten(layer)
    if not any(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
        return id(layer)
    return structure, tuple(map(id, leaves))
