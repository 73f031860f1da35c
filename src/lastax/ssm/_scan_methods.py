"""TODO ssm._scan_methods."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp

from lastax._typing import Array
from lastax.ssm._powers import SplitComplex, add, multiply, power

ScanMethod = Literal["associative", "chunked", "sequential"]

# Steps of a chunk: on a CPU 32 to 128 are about as fast, and fewer than that waste a pass.
SHORTEST_CHUNK, LONGEST_CHUNK = 32, 128


def _rows(lam: Array, like: Array) -> SplitComplex:
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
    rest = tuple(split_halves(jnp.zeros_like(x[..., 0, :])) for x in chunks)
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
    ends = _sequential(directions, power(lam, steps), _ends(directions, lam, chunks))
    starts = tuple(
        split_halves(_shifted(end, reverse)) for end, reverse in zip(ends, directions, strict=True)
    )
    states = _advance(directions, lam, chunks, starts)
    return tuple(_rejoin(x, length) for x in states)


def _chunk_length(length: int) -> int:
    """At most 128; if there is one of at least 32, a divisor of `length`."""
    fitting = range(SHORTEST_CHUNK, LONGEST_CHUNK + 1)
    whole = max((steps for steps in fitting if length % steps == 0), default=LONGEST_CHUNK)
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


def split_halves(x: Array) -> SplitComplex:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _join(planes: SplitComplex) -> Array:
    return jnp.concatenate(planes, axis=-1)


def _read(x: Array, position: Array) -> SplitComplex:
    return split_halves(jax.lax.dynamic_index_in_dim(x, position, axis=-2, keepdims=False))


def _positions(directions: tuple[bool, ...], step: Array, steps: int) -> tuple[Array, ...]:
    return tuple(steps - 1 - step if reverse else step for reverse in directions)


def _ends(directions: tuple[bool, ...], lam: Array, chunks: tuple[Array, ...]) -> tuple[Array, ...]:
    """The state in which each chunk `(..., n, T, 2 P)` ends, if it starts from rest."""
    steps = chunks[0].shape[-2]
    factor = _rows(lam, chunks[0][..., 0, :])

    def advance(step: Array, states: tuple[SplitComplex, ...]) -> tuple[SplitComplex, ...]:
        positions = _positions(directions, step, steps)
        return tuple(
            add(multiply(factor, state), _read(x, position))
            for state, x, position in zip(states, chunks, positions, strict=True)
        )

    rest = tuple(split_halves(jnp.zeros_like(x[..., 0, :])) for x in chunks)
    return tuple(map(_join, jax.lax.fori_loop(0, steps, advance, rest)))


def _advance(
    directions: tuple[bool, ...],
    lam: Array,
    chunks: tuple[Array, ...],
    starts: tuple[SplitComplex, ...],
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
            state = add(multiply(factor, state), _read(x, position))
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
    factor, factor_of_chunk = lam, power(lam, steps)
    found = []
    for x, reverse in zip(entering, directions, strict=True):
        chunks = jax.lax.complex(*split_halves(_cut(x, steps)))
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


SCAN_METHODS: Mapping[str, Run] = MappingProxyType(
    {"associative": _associative, "chunked": _chunked, "sequential": _sequential}
)
