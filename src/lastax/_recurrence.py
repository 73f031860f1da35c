"""The recurrence of every diagonal layer, `x_k = lam * x_{k-1} + b_k`, whole or step by step.

Inside, real and imaginary parts are kept apart: `(L, P)` complex numbers are `(L, 2 P)` real ones,
first all real parts, then all imaginary ones. Layers use that form throughout: their products with
`B` and `C` are then real matrix products, and both directions of time share one array.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Complex, Float

from lastax._products import total
from lastax._typing import Array

ScanMethod = Literal["associative", "chunked", "sequential"]

# Real and imaginary parts of complex numbers.
Planes = tuple[Array, Array]

# Steps of a chunk: on a CPU 32 to 128 are about as fast, and fewer than that waste a pass.
_SHORTEST_CHUNK, _LONGEST_CHUNK = 32, 128


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
        method: `associative`, all steps at once with `jax.lax.associative_scan`: for accelerators.
            `chunked`, step after step in all chunks of up to 128 steps at once, then over their
            ends: for CPUs. `sequential`, step after step: the least arithmetic, for short
            sequences. Left out: by the default backend and the length, on a CPU `sequential` up to
            128 steps and `chunked` beyond, `associative` elsewhere. In float32 each is within 1e-4
            of the largest state of the exact recurrence, up to 16,384 steps and down to
            `1 - |lam| = 1e-6`.

    Returns:
        The states in the order of `b`, and the state that the recurrence ended with, from which
        a later call can go on. The derivative (reverse mode) keeps the states alone and is one
        recurrence in the other direction.

    Raises:
        ValueError: if there is no such method.
    """
    lam, b = jnp.asarray(lam), jnp.asarray(b)
    if initial is not None:
        first = -1 if reverse else 0
        b = b.at[first].add(lam * initial)
    planes = jnp.concatenate([b.real, b.imag], axis=1)
    states = jax.lax.complex(*_split(scan_planes(lam, planes, (reverse,), method=method)[0]))
    return states, states[0 if reverse else -1]


def diagonal_step(
    lam: Complex[Array, " P"], state: Complex[Array, " P"], b: Complex[Array, " P"]
) -> Complex[Array, " P"]:
    """One step of the recurrence, for streams: the state after `state` when `b` enters."""
    return lam * state + b


def scan_planes(
    lam: Complex[Array, " P"],
    b: Float[Array, "L Q"],
    directions: tuple[bool, ...],
    *,
    method: ScanMethod | None = None,
) -> tuple[Float[Array, "L Q"], ...]:
    """The states of one or several recurrences over the same input, from rest.

    `b` is `(L, 2 P)`, real parts first; so are the states of each of the `directions`, which say
    whether that recurrence runs in reverse. All run in one loop. Methods and derivative are those
    of `diagonal_scan`.

    Raises:
        ValueError: if there is no such method.
    """
    if method is None:
        method = _fitting_method(b.shape[0])
    if method not in _METHODS:
        raise ValueError(
            f"diagonal_scan: method must be one of {', '.join(_METHODS)}; got {method!r}"
        )
    return _scan(method, directions, lam, b)


def _fitting_method(length: int) -> ScanMethod:
    if jax.default_backend() != "cpu":
        return "associative"
    return "sequential" if length <= _LONGEST_CHUNK else "chunked"


def _multiply(a: Planes, b: Planes) -> Planes:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _add(a: Planes, b: Planes) -> Planes:
    return a[0] + b[0], a[1] + b[1]


def _rows(lam: Array, like: Array) -> Planes:
    """The planes of `lam (P,)`, of as many axes as `like`."""
    shape = (1,) * (like.ndim - 1) + lam.shape
    return lam.real.reshape(shape), lam.imag.reshape(shape)


# Every method below takes `lam (P,)` and what enters, `(..., L, 2 P)` for each direction, and gives
# the states in the same shape.
Run = Callable[[tuple[bool, ...], Array, tuple[Array, ...]], tuple[Array, ...]]


def _sequential(
    directions: tuple[bool, ...], lam: Array, entering: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Step after step: a single chunk."""
    chunks = tuple(x[..., None, :, :] for x in entering)
    rest = tuple(_split(jnp.zeros_like(x[..., 0, :])) for x in chunks)
    return tuple(x[..., 0, :, :] for x in _advance(directions, lam, chunks, rest))


def _chunked(
    directions: tuple[bool, ...], lam: Array, entering: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Step after step in all chunks at once.

    A first pass from rest keeps nothing but the state that each chunk ends in. What a chunk starts
    from follows from those by a recurrence over chunks, with `lam^T`.
    """
    length = entering[0].shape[-2]
    steps = _chunk_length(length)
    chunks = tuple(_cut(x, steps) for x in entering)
    ends = _sequential(directions, _power(lam, steps), _ends(directions, lam, chunks))
    starts = tuple(
        _split(_shifted(end, reverse)) for end, reverse in zip(ends, directions, strict=True)
    )
    states = _advance(directions, lam, chunks, starts)
    return tuple(_rejoin(x, length) for x in states)


def _chunk_length(length: int) -> int:
    """At most 128; if there is one of at least 32, a divisor of `length`."""
    fitting = range(_SHORTEST_CHUNK, _LONGEST_CHUNK + 1)
    whole = max((steps for steps in fitting if length % steps == 0), default=_LONGEST_CHUNK)
    return min(length, whole)


def _cut(x: Array, steps: int) -> Array:
    """`(..., L, F)` as `(..., n, T, F)`. Zeros fill the last chunk: they move no state."""
    missing = -x.shape[-2] % steps
    if missing:
        x = jnp.pad(x, ((0, 0),) * (x.ndim - 2) + ((0, missing), (0, 0)))
    return x.reshape(*x.shape[:-2], -1, steps, x.shape[-1])


def _rejoin(x: Array, length: int) -> Array:
    """`(..., n, T, F)` as `(..., L, F)`."""
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])[..., :length, :]


def _split(x: Array) -> Planes:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _join(planes: Planes) -> Array:
    return jnp.concatenate(planes, axis=-1)


def _read(x: Array, position: Array) -> Planes:
    return _split(jax.lax.dynamic_index_in_dim(x, position, axis=-2, keepdims=False))


def _positions(directions: tuple[bool, ...], step: Array, steps: int) -> tuple[Array, ...]:
    return tuple(steps - 1 - step if reverse else step for reverse in directions)


def _ends(directions: tuple[bool, ...], lam: Array, chunks: tuple[Array, ...]) -> tuple[Array, ...]:
    """The state in which each chunk `(..., n, T, 2 P)` ends, if it starts from rest."""
    steps = chunks[0].shape[-2]
    factor = _rows(lam, chunks[0][..., 0, :])

    def advance(step: Array, states: tuple[Planes, ...]) -> tuple[Planes, ...]:
        positions = _positions(directions, step, steps)
        return tuple(
            _add(_multiply(factor, state), _read(x, position))
            for state, x, position in zip(states, chunks, positions, strict=True)
        )

    rest = tuple(_split(jnp.zeros_like(x[..., 0, :])) for x in chunks)
    return tuple(map(_join, jax.lax.fori_loop(0, steps, advance, rest)))


def _advance(
    directions: tuple[bool, ...],
    lam: Array,
    chunks: tuple[Array, ...],
    starts: tuple[Planes, ...],
) -> tuple[Array, ...]:
    """All states of chunks `(..., n, T, 2 P)` that start from `starts`, `(..., n, P)` planes.

    States take the place of what entered: nothing else is as fast, or as small.
    """
    steps = chunks[0].shape[-2]
    factor = _rows(lam, chunks[0][..., 0, :])

    def advance(step: Array, carry: tuple) -> tuple:
        moved, written = [], []
        positions = _positions(directions, step, steps)
        for state, x, position in zip(*carry, positions, strict=True):
            state = _add(_multiply(factor, state), _read(x, position))
            row = _join(state)
            moved.append(state)
            written.append(jax.lax.dynamic_update_index_in_dim(x, row, position, axis=-2))
        return tuple(moved), tuple(written)

    return jax.lax.fori_loop(0, steps, advance, (starts, chunks))[1]


def _shifted(states: Array, reverse: bool) -> Array:
    """The state before each of `states`."""
    edge = jnp.zeros_like(states[..., :1, :])
    parts = [states[..., 1:, :], edge] if reverse else [edge, states[..., :-1, :]]
    return jnp.concatenate(parts, axis=-2)


def _associative(
    directions: tuple[bool, ...], lam: Array, entering: tuple[Array, ...]
) -> tuple[Array, ...]:
    """All steps at once, in each chunk and then over the chunks.

    One tree over all steps would be as good but for rounding: the error of a product of factors
    doubles with its span. So only short products are left to the tree.
    """
    length = entering[0].shape[-2]
    steps = _chunk_length(length)
    factor, factor_of_chunk = lam, _power(lam, steps)
    found = []
    for x, reverse in zip(entering, directions, strict=True):
        chunks = jax.lax.complex(*_split(_cut(x, steps)))
        powers, states = _associative_scan(factor, chunks, reverse)
        if chunks.shape[-3] > 1:
            ends = states[..., 0 if reverse else -1, :]
            starts = _shifted(_associative_scan(factor_of_chunk, ends, reverse)[1], reverse)
            states = states + powers * starts[..., None, :]
        found.append(_rejoin(_join((states.real, states.imag)), length))
    return tuple(found)


def _associative_scan(lam: Array, b: Array, reverse: bool) -> tuple[Array, Array]:
    """Powers of `lam`, and the states of `b (..., L, P)`."""

    def combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, state = earlier
        next_factor, next_state = later
        return next_factor * factor, next_factor * state + next_state

    # Factors do not depend on the batch.
    factors = jnp.broadcast_to(lam, (1,) * (b.ndim - 2) + b.shape[-2:])
    return jax.lax.associative_scan(combine, (factors, b), reverse=reverse, axis=b.ndim - 2)


def _multiply_precisely(
    a: tuple[Planes, Planes], b: tuple[Planes, Planes]
) -> tuple[Planes, Planes]:
    """The product of complex numbers that come with what rounding has taken from them.

    Twice the precision of the arrays, from sums and products that are exact. Dekker, 1971.
    """
    (a_re, a_im), (b_re, b_im) = a[0], b[0]
    re, re_lost = _sum_of_products(a_re, b_re, -a_im, b_im)
    im, im_lost = _sum_of_products(a_re, b_im, a_im, b_re)
    smaller = _add(_multiply(a[0], b[1]), _multiply(a[1], b[0]))
    lost = _add((re_lost, im_lost), smaller)
    product = _add((re, im), lost)
    return product, (lost[0] - (product[0] - re), lost[1] - (product[1] - im))


def _sum_of_products(a: Array, b: Array, c: Array, d: Array) -> Planes:
    """`a b + c d`, and what rounding took from it."""
    (p, p_lost), (q, q_lost) = _product(a, b), _product(c, d)
    total = p + q
    q_taken = total - p
    return total, (p - (total - q_taken)) + (q - q_taken) + (p_lost + q_lost)


def _product(a: Array, b: Array) -> Planes:
    """`a b`, and what rounding took from it."""
    kind = jnp.finfo(a.dtype)

    def half(x: Array) -> Array:
        return jax.lax.reduce_precision(x, kind.nexp, (kind.nmant - 1) // 2)

    product, a_high, b_high = a * b, half(a), half(b)
    a_low, b_low = a - a_high, b - b_high
    lost = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, lost


def _power(a: Array, exponent: int) -> Array:
    """`a` to an integer power, by repeated squaring."""
    nothing = jnp.zeros_like(a.real)
    bits = jnp.array([exponent >> place & 1 for place in range(exponent.bit_length())], bool)

    def advance(carry: tuple, bit: Array) -> tuple:
        square, product = carry
        more = _multiply_precisely(product, square)
        product = jax.tree.map(lambda one, other: jnp.where(bit, one, other), more, product)
        return (_multiply_precisely(square, square), product), None

    start = ((a.real, a.imag), (nothing, nothing)), ((nothing + 1, nothing), (nothing, nothing))
    (_, product), _ = jax.lax.scan(advance, start, bits)
    return jax.lax.complex(*product[0])


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def power_tables(
    lam: Complex[Array, " S"], steps: int, chunks: int
) -> tuple[Complex[Array, "S T"], Complex[Array, "S n"]]:
    """Powers `lam^0 .. lam^(steps - 1)`, and `lam^0, lam^steps .. lam^((chunks - 1) steps)`.

    `steps` must be a power of two.
    """
    inner_bits, outer_bits = (steps - 1).bit_length(), (chunks - 1).bit_length()
    squares = _squares(lam, inner_bits + outer_bits)
    inner = _products_of_bits(squares[:inner_bits], steps)
    return inner, _products_of_bits(squares[inner_bits:], chunks)


@power_tables.defjvp
def _power_tables_jvp(steps: int, chunks: int, primals: tuple, tangents: tuple) -> tuple:
    (lam,), (lam_dot,) = primals, tangents
    inner, outer = power_tables(lam, steps, chunks)
    # The derivative of a power is its exponent times the power before.
    inner_before = jnp.pad(inner[:, :-1], ((0, 0), (1, 0))) * jnp.arange(steps)[None]
    outer_before = jnp.pad(outer[:, :-1], ((0, 0), (1, 0))) * inner[:, -1:]
    outer_before = outer_before * (steps * jnp.arange(chunks))[None]
    dot = lam_dot[:, None]
    return (inner, outer), (inner_before * dot, outer_before * dot)


def _squares(lam: Complex[Array, " S"], count: int) -> Complex[Array, "j S"]:
    """`lam^(2^j)` for `j` from 0 on: squaring doubles the error, so that it must begin small."""
    nothing = jnp.zeros_like(lam.real)

    def advance(square: tuple[Planes, Planes], _: None) -> tuple:
        return _multiply_precisely(square, square), square[0]

    start = (lam.real, lam.imag), (nothing, nothing)
    squares: Planes = jax.lax.scan(advance, start, None, length=count)[1]
    return jax.lax.complex(*squares)


def _products_of_bits(squares: Complex[Array, "j S"], count: int) -> Complex[Array, "S n"]:
    """Powers 0 to `count - 1`, each the product of the squares that its bits name.

    In two halves, so that a power costs a product and not one a bit.
    """
    bits, states = squares.shape
    low = bits // 2

    def table(first: int, last: int) -> Array:
        powers = jnp.ones((states, 1), squares.dtype)
        for bit in range(first, last):
            factor = jnp.stack([jnp.ones(states, squares.dtype), squares[bit]], axis=1)
            powers = (factor[:, :, None] * powers[:, None, :]).reshape(states, -1)
        return powers

    halves = jax.lax.optimization_barrier((table(low, bits), table(0, low)))
    return (halves[0][:, :, None] * halves[1][:, None, :]).reshape(states, -1)[:, :count]


_METHODS: Mapping[str, Run] = MappingProxyType(
    {"associative": _associative, "chunked": _chunked, "sequential": _sequential}
)


def _run(
    method: ScanMethod, directions: tuple[bool, ...], lam: Array, entering: tuple[Array, ...]
) -> tuple[Array, ...]:
    """A method for one sequence, whose `vmap` over sequences is the method for all of them.

    Left to itself, `vmap` turns reading and writing in place into gathering and scattering.
    """

    @jax.custom_batching.custom_vmap
    def run(lam: Array, entering: tuple[Array, ...]) -> tuple[Array, ...]:
        return _METHODS[method](directions, lam, entering)

    @run.def_vmap
    def batch(size: int, batched: list, lam: Array, entering: tuple[Array, ...]) -> tuple:
        if batched[0]:
            axes = jax.tree.map(lambda has: 0 if has else None, tuple(batched))
            states = jax.vmap(partial(_METHODS[method], directions), in_axes=axes)(lam, entering)
        else:
            whole = [
                x if has else jnp.broadcast_to(x[None], (size, *x.shape))
                for x, has in zip(entering, batched[1], strict=True)
            ]
            states = run(lam, tuple(whole))
        return states, (True,) * len(directions)

    return run(lam, entering)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(
    method: ScanMethod, directions: tuple[bool, ...], lam: Array, b: Array
) -> tuple[Array, ...]:
    return _run(method, directions, lam, (b,) * len(directions))


def _scan_forward(
    method: ScanMethod, directions: tuple[bool, ...], lam: Array, b: Array
) -> tuple[tuple[Array, ...], tuple[Array, tuple[Array, ...]]]:
    states = _scan(method, directions, lam, b)
    return states, (lam, states)


def _scan_backward(
    method: ScanMethod,
    directions: tuple[bool, ...],
    residuals: tuple[Array, tuple[Array, ...]],
    states_bar: tuple[Array, ...],
) -> tuple[Array, Array]:
    # Differentiating the recurrence itself would keep all its intermediate values. The adjoint is
    # the same recurrence run the other way, with conjugate factors.
    lam, states = residuals
    opposite = tuple(not reverse for reverse in directions)
    adjoints = _run(method, opposite, lam.conj(), states_bar)
    re = im = jnp.zeros_like(lam.real)
    for reverse, x, g in zip(directions, states, adjoints, strict=True):
        # d x_{k+1} / d lam = x_k.
        earlier, later = (x[1:], g[:-1]) if reverse else (x[:-1], g[1:])
        (x_re, x_im), (g_re, g_im) = _split(earlier), _split(later)
        re = re + total(x_re * g_re + x_im * g_im)
        im = im + total(x_re * g_im - x_im * g_re)
    # JAX's cotangent of a complex number is the conjugate of its gradient.
    return jax.lax.complex(re, -im), sum(adjoints[1:], start=adjoints[0])


_scan.defvjp(_scan_forward, _scan_backward)
