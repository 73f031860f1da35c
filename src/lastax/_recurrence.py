"""The recurrence of every diagonal layer, `x_k = lam * x_{k-1} + b_k`, whole or step by step."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Complex

from lastax._typing import Array


def diagonal_scan(
    lam: Complex[Array, " P"],
    b: Complex[Array, "L P"],
    *,
    initial: Complex[Array, " P"] | None = None,
    reverse: bool = False,
) -> tuple[Complex[Array, "L P"], Complex[Array, " P"]]:
    """All states of `x_k = lam * x_{k-1} + b_k`, in parallel over time.

    Args:
        lam: eigenvalues, one a state.
        b: what enters each state at each step.
        initial: the state before the first step; zero if left out.
        reverse: run from the last step to the first, `x_k = lam * x_{k+1} + b_k`; `initial` then
            is the state after the last step.

    Returns:
        The states in the order of `b`, and the state that the recurrence ended with, from which
        a later call can go on. Cost O(L P) work, O(log L) depth; the derivative keeps the states
        alone and is one recurrence in the other direction.
    """
    if initial is not None:
        first = -1 if reverse else 0
        b = b.at[first].add(lam * initial)
    states = _scan(reverse, lam, b)
    return states, states[0 if reverse else -1]


def diagonal_step(
    lam: Complex[Array, " P"], state: Complex[Array, " P"], b: Complex[Array, " P"]
) -> Complex[Array, " P"]:
    """One step of the recurrence, for streams: the state after `state` when `b` enters."""
    return lam * state + b


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(reverse: bool, lam: Array, b: Array) -> Array:
    def combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, state = earlier
        next_factor, next_state = later
        return next_factor * factor, next_factor * state + next_state

    # Factors do not depend on the batch: under `vmap` they are computed once.
    factors = jnp.broadcast_to(lam[None, :], b.shape)
    return jax.lax.associative_scan(combine, (factors, b), reverse=reverse)[1]


def _scan_forward(reverse: bool, lam: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    states = _scan(reverse, lam, b)
    return states, (lam, states)


def _scan_backward(
    reverse: bool, residuals: tuple[Array, Array], states_bar: Array
) -> tuple[Array, Array]:
    # Differentiating the associative scan itself would keep every one of its levels. The adjoint
    # is the same recurrence run the other way, and d x_k / d lam = x_{k-1} (JAX's cotangents are
    # not conjugated).
    lam, states = residuals
    b_bar = _scan(not reverse, lam, states_bar)
    if reverse:
        lam_bar = jnp.sum(b_bar[:-1] * states[1:], axis=0)
    else:
        lam_bar = jnp.sum(b_bar[1:] * states[:-1], axis=0)
    return lam_bar, b_bar


_scan.defvjp(_scan_forward, _scan_backward)
