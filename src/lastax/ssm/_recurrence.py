"""The recurrence of every diagonal layer, `x_k = lam * x_{k-1} + b_k`.

Internally, complex sequences `(L, P)` are real arrays `(L, 2 P)`: all real parts first, then all
imaginary parts. The products of a layer with `B` and `C` are then real matrix products, and both
directions of time read the same array.
"""

from collections.abc import Sequence
from typing import cast, get_args

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Complex, Float, Int

from lastax._typing import Array, Size
from lastax.ssm._output_primitive import SCAN_OUTPUT
from lastax.ssm._primitive import apply
from lastax.ssm._scan_methods import ScanMethod, split_halves
from lastax.ssm._scan_primitive import SCAN
from lastax.ssm._varying_scan import varying_scan


def diagonal_scan(
    lam: Complex[Array, " P"] | Complex[Array, "L P"],
    b: Complex[Array, "L P"],
    *,
    initial: Complex[Array, " P"] | None = None,
    reverse: bool = False,
    method: ScanMethod | None = None,
) -> tuple[Complex[Array, "L P"], Complex[Array, " P"]]:
    """All states of the recurrence `x_k = lam * x_{k-1} + b_k`.

    Derivatives of every order work, in forward and reverse mode. The reverse-mode derivative stores
    only the states. It is one recurrence in the opposite direction.

    Args:
        lam: eigenvalues, shape `(P,)`, or one set per step, shape `(L, P)`.
        b: driving input of each state at each step, shape `(L, P)`.
        initial: state before the first step, shape `(P,)`; zero by default.
        reverse: run from the last step to the first, `x_k = lam * x_{k+1} + b_k`. `initial` is then
            the state after the last step.
        method: how the states are computed. The default depends on the device that the program is
            compiled for: `pallas` on NVIDIA GPUs; on a CPU `sequential` up to 128 steps and
            `chunked` beyond; `associative` elsewhere. Programs that are exported or that run
            on several devices use `associative` instead of `pallas`.

            - `associative`: all steps in parallel with `jax.lax.associative_scan`.
            - `chunked`: a loop over the steps of a chunk, for all chunks of up to 128 steps in
              parallel, then a recurrence over the last states of the chunks.
            - `sequential`: a loop over all steps. It does the least arithmetic.
            - `pallas`: GPU kernels for NVIDIA and AMD, with chunks of 64 steps. Any other device
              interprets the kernels, which is slow and meant for tests.

            In float32, the error of each method is below 1e-4 of the largest state for up to
            16,384 steps and `1 - |lam| >= 1e-6`.

            A symbolic length, as in `jax.export`, always takes `chunked`.

            With one set of eigenvalues per step, every method computes the steps of each piece of
            128 steps in parallel, and the pieces in order.

    Returns:
        The states in the order of `b`, shape `(L, P)`, and the last state computed, shape `(P,)`.
        Pass the last state as `initial` to continue the recurrence in another call. After no steps,
        the last state is `initial`.

    Raises:
        ValueError: if `method` is unknown.
    """
    lam, b = jnp.asarray(lam), jnp.asarray(b)
    if b.shape[0] == 0:
        return b, jnp.zeros(b.shape[1:], b.dtype) if initial is None else jnp.asarray(initial)
    _checked_method(method, b.shape[0])
    if lam.ndim == 2:
        order = slice(None, None, -1 if reverse else 1)
        states = varying_scan(lam[order], b[order], initial=initial)[order]
        return states, states[0 if reverse else -1]
    if initial is not None:
        first = -1 if reverse else 0
        b = b.at[first].add(lam * initial)
    split = jnp.concatenate([b.real, b.imag], axis=1)
    states = jax.lax.complex(*split_halves(scan_split(lam, split, (reverse,), method=method)[0]))
    return states, states[0 if reverse else -1]


def diagonal_step(
    lam: Complex[Array, " P"], state: Complex[Array, " P"], b: Complex[Array, " P"]
) -> Complex[Array, " P"]:
    """One step of the recurrence, `lam * state + b`. All arrays have shape `(P,)`."""
    return lam * state + b


def state_after(
    steps: Int[Array, ""], states: Complex[Array, "L P"], initial: Complex[Array, " P"] | None
) -> Complex[Array, " P"]:
    """The state after `steps` steps of a forward recurrence, given all its states."""
    before = jnp.zeros(states.shape[1:], states.dtype) if initial is None else initial
    if states.shape[0] == 0:
        return before
    return jnp.where(steps > 0, states[jnp.maximum(steps, 1) - 1], before)


def scan_split(
    lam: Complex[Array, " P"],
    b: Float[Array, "L Q"],
    directions: tuple[bool, ...],
    *,
    method: ScanMethod | None = None,
) -> tuple[Float[Array, "L Q"], ...]:
    """The states of one recurrence per direction, all driven by the same input, from zero.

    All recurrences run in the same loop. Methods and derivative are those of `diagonal_scan`.

    Args:
        lam: eigenvalues, shape `(P,)`.
        b: driving input with split real and imaginary parts, shape `(L, Q)` with `Q = 2 P`.
        directions: for each recurrence, whether it runs in reverse.
        method: as in `diagonal_scan`.

    Returns:
        The states of each recurrence, in the layout of `b`.

    Raises:
        ValueError: if `method` is unknown.
    """
    b = jnp.asarray(b, jnp.result_type(b, lam.real))
    # The gradients of both have the precision of the states.
    lam = jnp.asarray(lam, jnp.result_type(lam, b))
    method = _checked_method(method, b.shape[0])
    if b.size == 0:
        return (b,) * len(directions)
    return tuple(apply(SCAN, lam, b, method=method, directions=directions))


def scan_output(
    lam: Complex[Array, " P"],
    b: Float[Array, "L Q"],
    weights: Sequence[Float[Array, "Q H"]],
    directions: tuple[bool, ...],
    *,
    method: ScanMethod | None = None,
) -> Float[Array, "L H"]:
    """The sum of the products of the states of `scan_split` with one matrix per recurrence.

    On a GPU, one matrix product reads the states of all recurrences.

    Args:
        lam: eigenvalues, shape `(P,)`.
        b: driving input with split real and imaginary parts, shape `(L, 2 P)`.
        weights: for each recurrence, the matrix for its states, shape `(2 P, H)`.
        directions: for each recurrence, whether it runs in reverse.
        method: as in `diagonal_scan`.

    Returns:
        The sum of the products, shape `(L, H)`.

    Raises:
        ValueError: if `method` is unknown.
    """
    dtype = jnp.result_type(b, lam.real, *weights)
    b, *weights = (jnp.asarray(x, dtype) for x in (b, *weights))
    lam = jnp.asarray(lam, jnp.result_type(lam, dtype))
    method = _checked_method(method, b.shape[0])
    if b.size == 0:
        return jnp.zeros((b.shape[0], weights[0].shape[1]), dtype)
    return apply(
        SCAN_OUTPUT,
        lam,
        b,
        *weights,
        method=method,
        directions=directions,
        precision=jax.default_matmul_precision.value,
        with_states=False,
    )[0]


def _checked_method(method: str | None, length: Size) -> ScanMethod | None:
    methods = get_args(ScanMethod)
    if method is not None and method not in methods:
        raise ValueError(
            f"diagonal_scan: method must be one of {', '.join(methods)}, got {method!r}"
        )
    # `chunked` needs no length, and it is fast on every device.
    return "chunked" if is_symbolic_dim(length) else cast(ScanMethod | None, method)
