"""Taking states out of any model that holds layers: arrays shrink, no mask is left.

A layer is whatever has the three methods of `Layer`. There is nothing to register and no class to
inherit from; the model may be any PyTree.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from lastax._multi_siso import AnySystem, MultiSISO
from lastax._typing import Array, Scalar

Model = TypeVar("Model")


class UnstableStatesWarning(UserWarning):
    """Some states have `|lam| >= 1`: no finite norm. They are kept."""


@runtime_checkable
class Layer(Protocol):
    """What scoring and surgery ask of a layer."""

    def system(self, step_rescale: Scalar = 1.0) -> AnySystem:
        """The discretized system that the layer applies."""

    def __call__(self, u: Array, *, step_rescale: Scalar = 1.0) -> Array:
        """The layer's answer to one sequence `(L, H)`."""

    def keep(self, mask: np.ndarray) -> "Layer":
        """A layer of the same kind with only the states where `mask` holds."""


@runtime_checkable
class WritableLayer(Layer, Protocol):
    """A layer into which a system can be written: what methods ask that change states."""

    def with_system(self, system: Any) -> "WritableLayer":
        """A layer of the same kind that applies the given system, of as many states."""


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


def keep_states(model: Model, keep: Sequence[Bool[np.ndarray, " _"]]) -> Model:
    """A model of the same kind whose layers have only the states where their masks hold.

    Args:
        model: any PyTree.
        keep: one mask a layer, in the order of `find_layers`.

    Raises:
        ValueError: if number or lengths of the masks do not fit, or a layer would lose all.
    """
    layers = find_layers(model)
    counts = [layer.system().states for layer in layers]
    lengths = [len(mask) for mask in keep]
    if lengths != counts:
        raise ValueError(
            f"keep_states: the layers have {counts} states, but the masks are for {lengths}"
        )
    empty = [index for index, mask in enumerate(keep) if not np.any(mask)]
    if empty:
        raise ValueError(f"keep_states: layers {empty} would lose all their states")
    return replace_layers(
        model, [layer.keep(mask) for layer, mask in zip(layers, keep, strict=True)]
    )


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


def with_full_D(model: Model) -> Model:
    """The same function, with every layer's `D` a whole matrix where it is a diagonal.

    Raises:
        ValueError: if a layer has no `D`, or one that cannot be a matrix.
    """
    layers: list[Any] = find_layers(model)
    for layer in layers:
        if isinstance(layer.system(), MultiSISO) or not hasattr(layer, "D"):
            raise ValueError(f"with_full_D: the D of a {type(layer).__name__} cannot be a matrix")
    whole = [
        dataclasses.replace(layer, D=layer.D if layer.D.ndim == 2 else jnp.diag(layer.D))
        for layer in layers
    ]
    return replace_layers(model, whole)


def write_systems(model: Model, found: Sequence[AnySystem]) -> Model:
    """A model of the same kind whose layers apply the given systems, of as many states each.

    Raises:
        ValueError: if a layer has no method `with_system`.
    """
    written: list[Layer] = []
    for layer, system in zip(find_layers(model), found, strict=True):
        if not isinstance(layer, WritableLayer):
            raise ValueError(
                f"no system can be written into a {type(layer).__name__}: it has no with_system()"
            )
        written.append(layer.with_system(system))
    return replace_layers(model, written)


def _is_layer(node: Any) -> bool:
    return isinstance(node, Layer) and not isinstance(node, type)


def _in_float64(layer: Layer) -> Layer:
    def widen(leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        kind = jnp.complex128 if jnp.iscomplexobj(leaf) else jnp.float64
        return jnp.asarray(np.asarray(leaf), kind)

    return jax.tree.map(widen, layer)
