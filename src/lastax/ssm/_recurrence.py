"""The recurrence of every diagonal layer, `x_k = lam * x_{k-1} + b_k`, and its derivative.

Internally, complex sequences `(L, P)` are real arrays `(L, 2 P)`: all real parts first, then all
imaginary parts. The products of a layer with `B` and `C` are then real matrix products, and both
directions of time read the same array.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jax.interpreters import ad
from jaxtyping import Complex, Float, Int

from lastax._typing import Array
from lastax.ssm._powers import multiply
from lastax.ssm._primitive import LinearOperand, apply, sequence_primitive, sum_to
from lastax.ssm._products import total
from lastax.ssm._scan_methods import (
    LONGEST_CHUNK,
    SCAN_METHODS,
    ScanMethod,
    join_halves,
    split_factor,
    split_halves,
)
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
        method: how the states are computed. By default, `associative` on accelerators; on a CPU
            `sequential` up to 128 steps and `chunked` beyond.

            - `associative`: all steps in parallel with `jax.lax.associative_scan`.
            - `chunked`: a loop over the steps of a chunk, for all chunks of up to 128 steps in
              parallel, then a recurrence over the last states of the chunks.
            - `sequential`: a loop over all steps. It does the least arithmetic.

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
    if is_symbolic_dim(b.shape[0]):
        # It needs no length, and it is fast on every device.
        method = "chunked"
    if method is None:
        method = _default_method(b.shape[0])
    if method not in SCAN_METHODS:
        raise ValueError(
            f"diagonal_scan: method must be one of {', '.join(SCAN_METHODS)}, got {method!r}"
        )
    b = jnp.asarray(b, jnp.result_type(b, lam.real))
    if b.size == 0:
        return (b,) * len(directions)
    return tuple(apply(_scan, lam, *[b] * len(directions), method=method, directions=directions))


def _default_method(length: int) -> ScanMethod:
    """The fastest method on the default backend for a sequence of `length` steps."""
    if jax.default_backend() != "cpu":
        return "associative"
    return "sequential" if length <= LONGEST_CHUNK else "chunked"


def _compute_scan(
    lam: Array, *inputs: Array, method: ScanMethod, directions: tuple[bool, ...]
) -> list[Array]:
    if lam.size > lam.shape[-1]:
        # The states depend on the batch axes of `lam` too.
        zeros = jnp.zeros_like(lam.real[..., None, :1])
        inputs = tuple(x + zeros for x in inputs)
    return list(SCAN_METHODS[method](directions, lam, inputs))


def _scan_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Array | ad.Zero],
    *,
    method: ScanMethod,
    directions: tuple[bool, ...],
) -> tuple[list[Array], list[Array]]:
    """The same recurrence, driven by `b_dot_k + lam_dot x_{k-1}`."""
    (lam, *inputs), (lam_dot, *dots) = primals, tangents
    states = _scan.bind(lam, *inputs, method=method, directions=directions)
    driven = [ad.instantiate_zeros(dot) for dot in dots]
    if not isinstance(lam_dot, ad.Zero):
        lagged = [
            _lagged_product.bind(lam_dot, x, reverse=reverse)
            for x, reverse in zip(states, directions, strict=True)
        ]
        driven = [
            change if isinstance(dot, ad.Zero) else dot + change
            for dot, change in zip(dots, lagged, strict=True)
        ]
    return states, _scan.bind(lam, *driven, method=method, directions=directions)


def _scan_to_inputs(
    states_bar: Sequence[Array | ad.Zero],
    lam: Array,
    *inputs: LinearOperand | Array,
    method: ScanMethod,
    directions: tuple[bool, ...],
) -> list[Array | None]:
    """The transpose is the same recurrence in the opposite direction, with conjugate factors."""
    bars: list[Array | None] = [None] * len(inputs)
    used = [i for i, bar in enumerate(states_bar) if not isinstance(bar, ad.Zero)]
    adjoints = _scan.bind(
        lam.conj(),
        *(states_bar[i] for i in used),
        method=method,
        directions=tuple(not directions[i] for i in used),
    )
    for i, adjoint in zip(used, adjoints, strict=True):
        if ad.is_undefined_primal(inputs[i]):
            bars[i] = sum_to(adjoint, inputs[i].aval)
    return [None, *bars]


def _compute_lagged_product(z: Array, x: Array, *, reverse: bool) -> Array:
    """`z x_{k-1}`, or `z x_{k+1}` in reverse. It is zero in the first step of the recurrence."""
    earlier = x[..., 1:, :] if reverse else x[..., :-1, :]
    product = join_halves(multiply(split_factor(z), split_halves(earlier)))
    return jnp.pad(product, ((0, 0),) * (x.ndim - 2) + ((0, 1) if reverse else (1, 0), (0, 0)))


def _lagged_product_to_z(bar: Array, z: LinearOperand, x: Array, *, reverse: bool) -> Array:
    # d x_{k+1} / d lam = x_k.
    earlier, later = (
        (x[..., 1:, :], bar[..., :-1, :]) if reverse else (x[..., :-1, :], bar[..., 1:, :])
    )
    (x_re, x_im), (g_re, g_im) = split_halves(earlier), split_halves(later)
    re = total(x_re * g_re + x_im * g_im)
    im = total(x_re * g_im - x_im * g_re)
    # In JAX, the cotangent of a complex number is the conjugate of its gradient.
    return sum_to(jax.lax.complex(re, -im), z.aval)


def _lagged_product_to_x(bar: Array, z: Array, x: LinearOperand, *, reverse: bool) -> Array:
    return sum_to(_lagged_product.bind(z.conj(), bar, reverse=not reverse), x.aval)


_scan = sequence_primitive("diagonal_scan", _compute_scan, multiple_results=True)
_lagged_product = sequence_primitive("lagged_product", _compute_lagged_product)

ad.primitive_jvps[_scan] = _scan_jvp
ad.primitive_transposes[_scan] = _scan_to_inputs
ad.defbilinear(_lagged_product, _lagged_product_to_z, _lagged_product_to_x)
