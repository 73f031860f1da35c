"""TODO surgery._states."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from lastax._typing import Model
from lastax.nn._layer import Layer, WritableLayer
from lastax.ssm._multi_siso import AnySystem, MultiSISO
from lastax.surgery._layers import find_layers, replace_layers


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


def with_dense_feedthrough(model: Model) -> Model:
    """The same function, with every layer's `D` a whole matrix where it is a diagonal.

    Raises:
        ValueError: if a layer has no `D`, or one that cannot be a matrix.
    """
    layers: list[Any] = find_layers(model)
    for layer in layers:
        if isinstance(layer.system(), MultiSISO) or not hasattr(layer, "D"):
            raise ValueError(
                f"with_dense_feedthrough: the D of a {type(layer).__name__} cannot be a matrix"
            )
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


def expand_to_original(model: Any, small: Model, keep: Sequence[Bool[np.ndarray, " _"]]) -> Model:
    """`small`, at the size of the `model` that it was made from: the rest is not heard.

    The same outputs but for rounding, in the shapes of `model`: one compiled program then evaluates
    many networks. `keep` tells where its states stand, a mask a layer.

    Raises:
        ValueError: if a layer has no method `with_system`.
    """
    pairs = zip(find_layers(model), find_layers(small), keep, strict=True)
    written: list[Layer] = []
    for layer, smaller, mask in pairs:
        if not isinstance(layer, WritableLayer):
            raise ValueError(f"expand_to_original: a {type(layer).__name__} has no with_system()")
        written.append(layer.with_system(_expanded_system(layer.system(), smaller.system(), mask)))
    return replace_layers(small, written)


def _expanded_system(
    system: AnySystem, small: AnySystem, mask: Bool[np.ndarray, " P"]
) -> AnySystem:
    def place(name: str, axis: int, others: float) -> Any:
        own = getattr(system, name)
        if own is None:
            return None
        full = np.moveaxis(np.array(own), axis, 0)
        full[mask] = np.moveaxis(np.asarray(getattr(small, name)), axis, 0)
        full[~mask] *= others
        return np.moveaxis(full, 0, axis)

    last = np.ndim(system.C) - 1
    return dataclasses.replace(
        system,
        lam=place("lam", 0, 1.0),
        B=place("B", 0, 1.0),
        C=place("C", last, 0.0),
        C_reverse=place("C_reverse", last, 0.0),
        D=small.D,
    )
