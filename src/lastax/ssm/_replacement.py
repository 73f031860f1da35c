"""Helpers of the layers for writing another system into their parameters."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from lastax._typing import Array
from lastax.ssm._multi_siso import AnySystem

# Differences of this size between two discretizations in float64 are rounding errors.
_ROUNDING = 1e-13


def check_replacement(function: str, own: AnySystem, system: AnySystem) -> None:
    """Check that `system` can replace `own`, the system of a layer.

    Only the shape of `D` may differ: it may be a diagonal in one and a matrix in the other.

    Args:
        function: name of the function that the caller called, for the error message.
        own: the present system of the layer.
        system: its replacement.

    Raises:
        ValueError: if the states, the channels, the directions or `conj_sym` differ.
    """
    if _signature(own) != _signature(system):
        raise ValueError(
            f"{function}: the layer has {own.states} states and B of shape {own.B.shape}, the "
            f"system {system.states} states and B of shape {system.B.shape}; states, channels, "
            "directions and conj_sym must agree"
        )


def unchanged_states(
    own: AnySystem, exact: AnySystem, system: AnySystem
) -> tuple[Bool[np.ndarray, " P"], Bool[np.ndarray, " P"]]:
    """Masks of the states with the same `lam`, and with the same `lam` and `B`.

    Args:
        own: the present system of a layer. A state is the same if it is bitwise equal.
        exact: the same system, discretized in float64. A state is also the same if it is equal up
            to the rounding of float64.
        system: the replacement.
    """
    lam = np.asarray(system.lam)
    # One row per state, also if B is a vector.
    shape = len(lam), math.prod(np.shape(system.B)[1:])
    own_B, exact_B, B = (np.asarray(one.B).reshape(shape) for one in (own, exact, system))
    same_lam = (np.asarray(own.lam) == lam) | (np.abs(np.asarray(exact.lam) - lam) <= _ROUNDING)
    largest = np.abs(B).max(axis=1, keepdims=True, initial=0)
    rounded = np.abs(exact_B - B) <= _ROUNDING * largest
    same_B = ((own_B == B) | rounded).all(axis=1)
    return same_lam, same_lam & same_B


def update_changed(same: Bool[np.ndarray, " P"], old: Array, new: np.ndarray) -> Array:
    """A parameter of each state: the old value where `same` is true, else the new one."""
    return jnp.where(same, old, jnp.asarray(new, old.dtype))


def _signature(system: AnySystem) -> tuple[object, ...]:
    arrays = (system.lam, system.B, system.C, system.C_reverse)
    shapes = tuple(None if array is None else array.shape for array in arrays)
    return *shapes, len(system.D), system.conj_sym
