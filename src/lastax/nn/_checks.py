"""Checks of modules and of inputs, before JAX meets them."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from lastax._typing import Array

# Records of a batch are JAX or NumPy arrays.
Values = Shaped[Array, "*shape"] | Shaped[np.ndarray, "*shape"]
Lengths = int | np.integer | Shaped[Array, "*lengths"] | Shaped[np.ndarray, "*lengths"]


def check_sizes(function: str, **sizes: int) -> None:
    """Check that sizes are positive.

    Args:
        function: what the caller called, for the error message.
        sizes: sizes by the names of the caller's arguments.

    Raises:
        ValueError: if a size is not positive.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{function}: {name} must be at least 1, got {size}")


def check_complete(module: eqx.Module) -> None:
    """Check that no parameter is missing, as in the parts of `equinox.filter` and `partition`.

    Raises:
        ValueError: if a field is None, unless its annotation allows it.
    """
    for field in dataclasses.fields(module):
        if getattr(module, field.name, None) is None and "None" not in str(field.type):
            raise ValueError(
                f"{type(module).__name__}: {field.name} is None, so this is one part of a filtered "
                "or partitioned model; join the parts with equinox.combine"
            )


def check_input(
    function: str,
    weight: Array,
    tokens: bool,
    x: Values,
    length: Lengths | None,
    *,
    leading: tuple[int | None, ...] = (),
) -> None:
    """Check the input of a network.

    Args:
        function: what the caller called, for the error message.
        weight: weight of the embedding, shape `(d, H)`.
        tokens: whether the network reads tokens instead of features.
        x: features, shape `(*leading, L, d)`, or tokens, shape `(*leading, L)`.
        length: numbers of valid steps, shape `leading`. Traced values are not checked.
        leading: sizes of the axes before the axis of steps; None for the axis of a batch.

    Raises:
        ValueError: if a shape, a dtype or a length does not fit the network.
    """
    if weight.ndim != 2:
        raise ValueError(
            f"{function}: the embedding has shape {weight.shape}, so this is a stack of networks; "
            "apply it by equinox.filter_vmap"
        )
    x_dtype, shape = jnp.result_type(x), np.shape(x)
    integers = jnp.issubdtype(x_dtype, jnp.integer)
    numbers = (
        integers or jnp.issubdtype(x_dtype, jnp.floating) or jnp.issubdtype(x_dtype, jnp.bool_)
    )
    expected = (*leading, None) if tokens else (*leading, None, weight.shape[0])
    fits = len(shape) == len(expected) and all(
        size in (None, given) for size, given in zip(expected, shape, strict=True)
    )
    if not fits or not (integers if tokens else numbers):
        kind = "integer token ids" if tokens else "real features"
        if len(shape) > len(expected) and None not in leading:
            hint = "; for a batch use lastax.predict or jax.vmap"
        elif integers and not tokens:
            hint = "; for token ids build the network with tokens=True"
        elif numbers and tokens and not integers:
            hint = "; for features build the network with tokens=False"
        else:
            hint = ""
        raise ValueError(
            f"{function}: x must be {kind} of shape {_described(expected, len(leading))}, got "
            f"{x_dtype} of shape {shape}{hint}"
        )
    steps = shape[len(leading)]
    if steps == 0:
        raise ValueError(f"{function}: x must have at least one step, got shape {shape}")
    if length is None:
        return
    sizes = np.shape(length)
    if sizes != shape[: len(leading)] or not jnp.issubdtype(jnp.result_type(length), jnp.integer):
        raise ValueError(
            f"{function}: length must be integers of shape {shape[: len(leading)]}, got "
            f"{jnp.result_type(length)} of shape {sizes}"
        )
    if isinstance(length, jax.core.Tracer):
        return
    outside = np.ravel(length)[(np.ravel(length) < 0) | (np.ravel(length) > steps)]
    if outside.size:
        raise ValueError(
            f"{function}: length must be between 0 and the {steps} steps of x, got {outside[0]}"
        )


def _described(expected: tuple[int | None, ...], leading: int) -> str:
    names = [
        str(size) if size is not None else "n" if axis < leading else "L"
        for axis, size in enumerate(expected)
    ]
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"
