"""The recurrence of every diagonal layer, `x_k = lam * x_{k-1} + b_k`, whole or step by step."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Complex

from lastax._typing import Array

ScanMethod = Literal["associative", "sequential"]


def diagonal_scan(
    lam: Complex[Array, " P"],
    b: Complex[Array, "L P"],
    *,
    initial: Complex[Array, " P"] | None = None,
    reverse: bool = False,
    method: ScanMethod | None = None,
) -> tuple[Complex[Array, "L P"], Complex[Array, " P"]]:
    """All states of `x_k = lam * x_{k-1} + b_k`.

    Args:
        lam: eigenvalues, one a state.
        b: what enters each state at each step.
        initial: the state before the first step; zero if left out.
        reverse: run from the last step to the first, `x_k = lam * x_{k+1} + b_k`; `initial` then
            is the state after the last step.
        method: `associative`, parallel over time with `jax.lax.associative_scan`: depth O(log L),
            for accelerators. `sequential`, step after step with `jax.lax.scan`: the least
            arithmetic and memory traffic, for CPUs. Left out: by the default backend, `sequential`
            on a CPU and `associative` elsewhere. They agree within rounding, which in float32 is
            about 1e-4 of the largest state at 16,384 steps and `1 - |lam| = 1e-6`: the associative
            scan squares `lam` again and again.

    Returns:
        The states in the order of `b`, and the state that the recurrence ended with, from which
        a later call can go on. The derivative (reverse mode) keeps the states alone and is one
        recurrence in the other direction.

    Raises:
        ValueError: if there is no such method.
    """
    lam, b = jnp.asarray(lam), jnp.asarray(b)
    if method is None:
        method = "sequential" if jax.default_backend() == "cpu" else "associative"
    if method not in _METHODS:
        raise ValueError(
            f"diagonal_scan: method must be one of {', '.join(_METHODS)}; got {method!r}"
        )
    if initial is not None:
        first = -1 if reverse else 0
        b = b.at[first].add(lam * initial)
    states = _scan(method, reverse, lam, b)
    return states, states[0 if reverse else -1]


def diagonal_step(
    lam: Complex[Array, " P"], state: Complex[Array, " P"], b: Complex[Array, " P"]
) -> Complex[Array, " P"]:
    """One step of the recurrence, for streams: the state after `state` when `b` enters."""
    return lam * state + b


def _associative(lam: Array, b: Array, reverse: bool) -> Array:
    def combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, state = earlier
        next_factor, next_state = later
        return next_factor * factor, next_factor * state + next_state

    # Factors do not depend on the batch: under `vmap` they are computed once.
    factors = jnp.broadcast_to(lam[None, :], b.shape)
    return jax.lax.associative_scan(combine, (factors, b), reverse=reverse)[1]


def _sequential(lam: Array, b: Array, reverse: bool) -> Array:
    def advance(state: Array, entering: Array) -> tuple[Array, Array]:
        state = lam * state + entering
        return state, state

    return jax.lax.scan(advance, jnp.zeros_like(b[0]), b, reverse=reverse)[1]


_METHODS: Mapping[str, Callable[[Array, Array, bool], Array]] = MappingProxyType(
    {"associative": _associative, "sequential": _sequential}
)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(method: ScanMethod, reverse: bool, lam: Array, b: Array) -> Array:
    return _METHODS[method](lam, b, reverse)


def _scan_forward(
    method: ScanMethod, reverse: bool, lam: Array, b: Array
) -> tuple[Array, tuple[Array, Array]]:
    states = _scan(method, reverse, lam, b)
    return states, (lam, states)


def _scan_backward(
    method: ScanMethod, reverse: bool, residuals: tuple[Array, Array], states_bar: Array
) -> tuple[Array, Array]:
    # Differentiating the recurrence itself would keep all its intermediate values. The adjoint is
    # the same recurrence run the other way, and d x_k / d lam = x_{k-1} (JAX's cotangents are not
    # conjugated).
    lam, states = residuals
    b_bar = _scan(method, not reverse, lam, states_bar)
    if reverse:
        lam_bar = jnp.sum(b_bar[:-1] * states[1:], axis=0)
    else:
        lam_bar = jnp.sum(b_bar[1:] * states[:-1], axis=0)
    return lam_bar, b_bar


_scan.defvjp(_scan_forward, _scan_backward)
