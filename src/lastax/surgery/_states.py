"""Remove and restore states in all layers of a model, and write systems into its layers."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, PyTree

from lastax._typing import Model
from lastax.nn._layer import WritableLayer
from lastax.ssm._multi_siso import AnySystem, MultiSISO
from lastax.surgery._layers import find_layers, replace_layers
from lastax.surgery._reading import (
    float32_system,
    layer_counts,
    system_shape,
    with_shapes,
    write_system,
)


def keep_states(model: Model, keep: Sequence[Bool[np.ndarray, " _"]]) -> Model:
    """Remove the states of all layers for which `keep` is false. Arrays shrink; no mask remains.

    Under `jit` and `eval_shape` the masks must be constants. If the model holds shapes
    (`jax.ShapeDtypeStruct`), the result holds the smaller shapes: a template for `load`.

    Args:
        model: any PyTree that contains layers.
        keep: one mask per layer, in the order of `find_layers`. A layer that is used in several
            places has one mask.

    Returns:
        A smaller model of the same type.

    Raises:
        ValueError: if the number or a length of the masks is wrong, or if a layer would lose all of
            its states.
    """
    if any(isinstance(mask, jax.core.Tracer) for mask in keep):
        raise ValueError(
            "keep_states: the masks must have values, because they determine shapes; with jit and "
            "eval_shape write lambda model: keep_states(model, keep)"
        )
    layers = find_layers(model)
    counts = layer_counts("keep_states", layers)
    lengths = [len(mask) for mask in keep]
    if lengths != counts:
        raise ValueError(
            f"keep_states: the layers have {counts} states, but the masks have lengths {lengths}"
        )
    empty = [index for index, mask in enumerate(keep) if not np.any(mask)]
    if empty:
        raise ValueError(
            f"keep_states: layers {empty} would lose all their states; keep at least one per layer"
        )
    return replace_layers(
        model,
        [
            with_shapes(operator.methodcaller("keep", mask), layer)
            for layer, mask in zip(layers, keep, strict=True)
        ],
    )


def with_dense_feedthrough(model: Model) -> Model:
    """The same function, with the `D` of every layer stored as a dense matrix.

    Args:
        model: any PyTree that contains layers.

    Raises:
        ValueError: if a layer has no `D`, or has independent channels (`MultiSISO`).
    """
    layers: list[Any] = find_layers(model)
    for layer in layers:
        if isinstance(system_shape(layer), MultiSISO) or not hasattr(layer, "D"):
            raise ValueError(
                f"with_dense_feedthrough: the D of a {type(layer).__name__} layer cannot be a "
                "dense matrix"
            )
    dense = [
        dataclasses.replace(layer, D=layer.D if layer.D.ndim == 2 else jnp.diag(layer.D))
        for layer in layers
    ]
    return replace_layers(model, dense)


def write_systems(model: Model, systems: Sequence[AnySystem]) -> Model:
    """A model of the same type whose layers apply the given systems.

    Args:
        model: any PyTree that contains layers.
        systems: one per layer, with the same number of states, in the order of `find_layers`.

    Raises:
        ValueError: if a layer has no method `with_system`.
    """
    layers = writable_layers("write_systems", model)
    return replace_layers(
        model, [write_system(layer, system) for layer, system in zip(layers, systems, strict=True)]
    )


def expand_to_original(
    model: PyTree, small: Model, keep: Sequence[Bool[np.ndarray, " _"]]
) -> Model:
    """`small` with the array shapes of the original model.

    The removed states come back with zero output weights, so the outputs change only by rounding.
    Many reduced networks can then share one compiled program.

    Args:
        model: original model.
        small: model with some states of `model` removed.
        keep: one mask per layer of `model`: the states that `small` has.

    Raises:
        ValueError: if a layer has no method `with_system`.
    """
    layers = writable_layers("expand_to_original", model)
    expanded = [
        write_system(layer, _expanded_system(float32_system(layer), float32_system(smaller), mask))
        for layer, smaller, mask in zip(layers, find_layers(small), keep, strict=True)
    ]
    return replace_layers(small, expanded)


def writable_layers(function: str, model: PyTree) -> list[WritableLayer]:
    """All layers of a model, if systems can be written into them.

    Raises:
        ValueError: in the words of `function`, if a layer has no method `with_system`.
    """
    layers: list[WritableLayer] = []
    for layer in find_layers(model):
        if not isinstance(layer, WritableLayer):
            raise ValueError(
                f"{function}: {type(layer).__name__} has no method with_system(system), which "
                "methods that compute new parameters need; add it (lastax.nn.WritableLayer), or "
                "choose a method that only removes states, for example last"
            )
        layers.append(layer)
    return layers


def _expanded_system(
    system: AnySystem, small: AnySystem, mask: Bool[np.ndarray, " P"]
) -> AnySystem:
    def expand(name: str, axis: int, removed_scale: float) -> np.ndarray | None:
        original = getattr(system, name)
        if original is None:
            return None
        full = np.moveaxis(np.array(original), axis, 0)
        full[mask] = np.moveaxis(np.asarray(getattr(small, name)), axis, 0)
        full[~mask] *= removed_scale
        return np.moveaxis(full, 0, axis)

    last = np.ndim(system.C) - 1
    # The annotations of the fields name JAX arrays for static checkers, see `_typing`.
    arrays: dict[str, Any] = {
        "lam": expand("lam", 0, 1.0),
        "B": expand("B", 0, 1.0),
        "C": expand("C", last, 0.0),
        "C_reverse": expand("C_reverse", last, 0.0),
    }
    return dataclasses.replace(system, D=small.D, **arrays)
