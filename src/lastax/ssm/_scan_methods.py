"""Three methods in JAX for the recurrence `x_k = lam * x_{k-1} + b_k`.

Each method runs one or several recurrences with the same eigenvalues `(P,)`. `directions` tells for
each of them whether it runs in reverse. Inputs and states have split real and imaginary parts,
`(..., L, 2 P)` for each recurrence. `lam` has as many leading axes, of size 1 where it does not
depend on the batch.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from lastax._typing import Array, Size
from lastax.ssm._powers import SplitComplex, add, multiply, power

ScanMethod = Literal["associative", "chunked", "sequential", "pallas"]

# Bounds of the steps per chunk. On a CPU, 32 to 128 are about equally fast. Shorter chunks make the
# recurrence over the chunks expensive.
SHORTEST_CHUNK, LONGEST_CHUNK = 32, 128


def _sequential(
    directions: tuple[bool, ...], lam: Array, inputs: tuple[Array, ...]
) -> tuple[Array, ...]:
    """A loop over all steps, which are one chunk."""
    chunks = tuple(x[..., None, :, :] for x in inputs)
    zeros = tuple(split_halves(jnp.zeros_like(x[..., 0, :])) for x in chunks)
    return tuple(x[..., 0, :, :] for x in _all_states(directions, lam, chunks, zeros))


def _chunked(
    directions: tuple[bool, ...], lam: Array, inputs: tuple[Array, ...]
) -> tuple[Array, ...]:
    """A loop over the steps of a chunk, for all chunks in parallel.

    The first pass starts every chunk from zero and keeps only its last state. A recurrence over the
    chunks, with `lam^T`, turns these into the true initial states for the second pass.
    """
    length = inputs[0].shape[-2]
    steps = _chunk_length(length)
    chunks = tuple(_cut(x, steps) for x in inputs)
    ends = _sequential(directions, power(lam, steps), _last_states(directions, lam, chunks))
    starts = tuple(
        split_halves(_shifted(end, reverse)) for end, reverse in zip(ends, directions, strict=True)
    )
    states = _all_states(directions, lam, chunks, starts)
    return tuple(_rejoin(x, length) for x in states)


def _associative(
    directions: tuple[bool, ...], lam: Array, inputs: tuple[Array, ...]
) -> tuple[Array, ...]:
    """A parallel scan in each chunk, then a parallel scan over the chunks.

    A single scan over all steps would be less precise: the error of a product of factors doubles
    with the number of factors. Only short products are therefore computed by the scan.
    """
    length = inputs[0].shape[-2]
    steps = _chunk_length(length)
    factor_per_chunk = power(lam, steps)
    outputs = []
    for x, reverse in zip(inputs, directions, strict=True):
        chunks = jax.lax.complex(*split_halves(_cut(x, steps)))
        powers, states = _associative_scan(lam, chunks, reverse)
        if chunks.shape[-3] > 1:
            ends = states[..., 0 if reverse else -1, :]
            starts = _shifted(_associative_scan(factor_per_chunk, ends, reverse)[1], reverse)
            states = states + powers * starts[..., None, :]
        outputs.append(_rejoin(join_halves((states.real, states.imag)), length))
    return tuple(outputs)


SCAN_METHODS: Mapping[
    str, Callable[[tuple[bool, ...], Array, tuple[Array, ...]], tuple[Array, ...]]
] = MappingProxyType({"associative": _associative, "chunked": _chunked, "sequential": _sequential})


def split_halves(x: Array) -> SplitComplex:
    """Real and imaginary parts `(..., P)` of an array `(..., 2 P)`."""
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def split_factor(lam: Array) -> SplitComplex:
    """Real and imaginary parts of a factor `(..., P)` for sequences, `(..., 1, P)`."""
    return lam.real[..., None, :], lam.imag[..., None, :]


def join_halves(parts: SplitComplex) -> Array:
    return jnp.concatenate(parts, axis=-1)


def _chunk_length(length: Size) -> int:
    """Steps per chunk: the largest divisor of `length` within the bounds, or the upper bound.

    A symbolic length, as in `jax.export`, gives the upper bound.
    """
    if is_symbolic_dim(length):
        return LONGEST_CHUNK
    within_bounds = range(SHORTEST_CHUNK, LONGEST_CHUNK + 1)
    divisors = (steps for steps in within_bounds if length % steps == 0)
    return min(length, max(divisors, default=LONGEST_CHUNK))


def _cut(x: Array, steps: int) -> Array:
    """`(..., L, F)` as `(..., n, T, F)`. Zeros fill the last chunk and do not change any state."""
    chunks = -(-x.shape[-2] // steps)
    missing: Size = chunks * steps - x.shape[-2]
    if is_symbolic_dim(missing) or missing:
        widths: list[tuple[Size, Size]] = [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, [*widths, (0, missing), (0, 0)])
    return x.reshape(*x.shape[:-2], chunks, steps, x.shape[-1])


def _rejoin(x: Array, length: Size) -> Array:
    """`(..., n, T, F)` as `(..., L, F)`."""
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])[..., :length, :]


def _last_states(
    directions: tuple[bool, ...], lam: Array, chunks: tuple[Array, ...]
) -> tuple[Array, ...]:
    """The last state of each chunk `(..., n, T, 2 P)`, starting from zero: `(..., n, 2 P)`."""
    steps = chunks[0].shape[-2]
    factor = split_factor(lam)

    def advance(step: Array, states: tuple[SplitComplex, ...]) -> tuple[SplitComplex, ...]:
        positions = _positions(directions, step, steps)
        return tuple(
            add(multiply(factor, state), _read(x, position))
            for state, x, position in zip(states, chunks, positions, strict=True)
        )

    zeros = tuple(split_halves(jnp.zeros_like(x[..., 0, :])) for x in chunks)
    return tuple(map(join_halves, jax.lax.fori_loop(0, steps, advance, zeros)))


def _all_states(
    directions: tuple[bool, ...],
    lam: Array,
    chunks: tuple[Array, ...],
    starts: tuple[SplitComplex, ...],
) -> tuple[Array, ...]:
    """All states of chunks `(..., n, T, 2 P)`, starting from split states `(..., n, P)`.

    The states overwrite the inputs, which is the fastest layout and needs the least memory.
    """
    steps = chunks[0].shape[-2]
    factor = split_factor(lam)

    def advance(step: Array, carry: tuple) -> tuple:
        new_states, new_chunks = [], []
        positions = _positions(directions, step, steps)
        for state, x, position in zip(*carry, positions, strict=True):
            state = add(multiply(factor, state), _read(x, position))
            row = join_halves(state)
            new_states.append(state)
            new_chunks.append(jax.lax.dynamic_update_index_in_dim(x, row, position, axis=-2))
        return tuple(new_states), tuple(new_chunks)

    return jax.lax.fori_loop(0, steps, advance, (starts, chunks))[1]


def _positions(directions: tuple[bool, ...], step: Array, steps: Size) -> tuple[Array, ...]:
    return tuple(steps - 1 - step if reverse else step for reverse in directions)


def _read(x: Array, position: Array) -> SplitComplex:
    return split_halves(jax.lax.dynamic_index_in_dim(x, position, axis=-2, keepdims=False))


def _shifted(states: Array, reverse: bool) -> Array:
    """The state before each of `states`, in the direction of the recurrence."""
    zero = jnp.zeros_like(states[..., :1, :])
    parts = [states[..., 1:, :], zero] if reverse else [zero, states[..., :-1, :]]
    return jnp.concatenate(parts, axis=-2)


def _associative_scan(lam: Array, b: Array, reverse: bool) -> tuple[Array, Array]:
    """Powers of `lam`, and the states for the input `b (..., L, P)`."""

    def combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, state = earlier
        next_factor, next_state = later
        return next_factor * factor, next_factor * state + next_state

    # The factors do not depend on the chunk, so they get an axis of size 1 there.
    leads = lam.shape[:-1] + (1,) * (b.ndim - 1 - lam.ndim)
    factors = jnp.broadcast_to(lam.reshape(*leads, 1, -1), (*leads, *b.shape[-2:]))
    return jax.lax.associative_scan(combine, (factors, b), reverse=reverse, axis=b.ndim - 2)
