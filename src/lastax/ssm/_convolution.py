"""Impulse responses of scalar channels, and convolution with them.

A kernel is computed as a matrix product instead of `S L` exponentials: with `l = c T + t`,
`K[l] = sum_n Re((w_n lam_n^(c T)) lam_n^t)` needs only `T + L / T` powers of each eigenvalue.
Channels may have different numbers of states, including none.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from lastax._typing import Array
from lastax.ssm._powers import power, power_tables
from lastax.ssm._precision import EXACT
from lastax.ssm._scan_methods import LONGEST_CHUNK


def channel_kernels(
    lam: Complex[Array, " S"],
    weight: Complex[Array, " S"],
    counts: Sequence[int],
    length: int,
) -> Float[Array, "H L"]:
    """Impulse responses `K_h[l] = sum_n Re(weight_n lam_n^l)` over the states `n` of channel `h`.

    Args:
        lam: eigenvalues, shape `(S,)`, ordered by channel.
        weight: weight of each state, its complex response at `l = 0`, shape `(S,)`.
        counts: number of states of each of the `H` channels.
        length: number of steps `L`.

    Returns:
        One kernel per channel, shape `(H, L)`. No precision of matrix products rounds it.
    """
    if length == 0:
        return jnp.zeros((len(counts), 0), lam.real.dtype)
    steps = steps_per_chunk(length)
    chunks = -(-length // steps)
    inner, outer = power_tables(lam, steps, chunks)
    outer = weight[:, None] * outer
    rows, order = [], []
    for channels, positions in _groups(counts):
        # One array, so that a program contains it once.
        index = jnp.asarray(positions)
        # Re(outer inner) as one real product. Shapes are (h, 2 n, chunks) and (h, 2 n, steps).
        starts = jnp.concatenate(
            [_at(outer.real, positions, index), -_at(outer.imag, positions, index)], axis=1
        )
        powers = jnp.concatenate(
            [_at(inner.real, positions, index), _at(inner.imag, positions, index)], axis=1
        )
        kernel = jnp.einsum("hnc,hnt->hct", starts, powers, precision=EXACT)
        rows.append(kernel.reshape(len(channels), -1)[:, :length])
        order.append(channels)
    empty = np.flatnonzero(np.asarray(counts) == 0)
    rows.append(jnp.zeros((len(empty), length), lam.real.dtype))
    original_order = np.argsort(np.concatenate([*order, empty]))
    return jnp.concatenate(rows)[original_order]


def convolve(
    u: Float[Array, "L H"],
    kernel: Float[Array, "H L"],
    kernel_reverse: Float[Array, "H L"] | None = None,
) -> Float[Array, "L H"]:
    """Convolve each channel: `y_k = sum_l kernel[l] u_{k-l} + kernel_reverse[l] u_{k+l}`.

    Uses one FFT of at least `2 L` steps, at a length with only small prime factors.

    Args:
        u: input, shape `(L, H)`.
        kernel: causal kernels, shape `(H, L)`.
        kernel_reverse: anticausal kernels, shape `(H, L)`, if the system is bidirectional.

    Returns:
        The output, shape `(L, H)`.
    """
    length = u.shape[0]
    if length == 0:
        return u
    # Imported here because it takes a third of a second, and only convolutions need it.
    from scipy.fft import next_fast_len

    size = next_fast_len(2 * length, real=True)
    circular = jnp.pad(kernel, ((0, 0), (0, size - length)))
    if kernel_reverse is not None:
        # In a circular convolution, step -l is step size - l.
        backward = jnp.pad(kernel_reverse, ((0, 0), (0, size - length)))
        circular = circular + jnp.roll(jnp.flip(backward, axis=1), 1, axis=1)
    spectrum = jnp.fft.rfft(u.T, size) * jnp.fft.rfft(circular)
    return jnp.fft.irfft(spectrum, size)[:, :length].T


def response_in_pieces(
    lam: Complex[Array, " S"],
    B: Complex[Array, " S"],
    C: Complex[Array, " S"],
    counts: Sequence[int],
    u: Float[Array, "L H"],
) -> Float[Array, "L H"]:
    """The real part of the response of scalar channels, for a symbolic length of `jax.export`.

    An FFT needs a known length. This function convolves pieces of 128 steps and carries the states
    from piece to piece.

    Args:
        lam: eigenvalues, shape `(S,)`, ordered by channel.
        B: input weights, shape `(S,)`.
        C: output weights, shape `(S,)`.
        counts: number of states of each of the `H` channels.
        u: input, shape `(L, H)`.

    Returns:
        The output without feedthrough, shape `(L, H)`.
    """
    steps, channels = LONGEST_CHUNK, u.shape[1]
    pieces = -(-u.shape[0] // steps)
    padded = jnp.pad(u, ((0, pieces * steps - u.shape[0]), (0, 0)))
    padded = padded.reshape(pieces, steps, channels)
    channel = np.repeat(np.arange(channels), counts)
    backward_powers = power_tables(lam, steps, 1)[0][:, ::-1]
    factor = power(lam, steps)

    def follow(state: Array, piece: Array) -> tuple[Array, Array]:
        end = B * jnp.sum(backward_powers * piece.T[channel], axis=1)
        return factor * state + end, state

    starts = jax.lax.scan(follow, jnp.zeros_like(lam), padded)[1]
    weights = jnp.concatenate([(C * B)[None], (C * lam)[None] * starts])
    kernels = jax.vmap(lambda w: channel_kernels(lam, w, counts, steps))(weights)
    y = jax.vmap(convolve, (0, None))(padded, kernels[0]) + kernels[1:].mT
    return y.reshape(pieces * steps, channels)[: u.shape[0]]


def steps_per_chunk(length: int) -> int:
    """A power of two near the square root of `length`."""
    return 1 << max(0, math.ceil(math.log2(length) / 2))


def _groups(
    counts: Sequence[int],
) -> list[tuple[Int[np.ndarray, " h"], Int[np.ndarray, "h n"]]]:
    """Group channels with similar numbers of states.

    Returns the channels of each group and the positions of their states, padded with -1. Padding
    all channels to the largest one would undo the savings of pruning.
    """
    sizes = np.asarray(counts, int)
    starts = np.cumsum(sizes) - sizes
    if len(set(sizes.tolist())) == 1:
        classes = np.zeros_like(sizes)
    else:
        classes = np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
    groups = []
    for size_class in np.unique(classes[sizes > 0]):
        channels = np.flatnonzero((classes == size_class) & (sizes > 0))
        offsets = np.arange(sizes[channels].max())[None, :]
        inside = offsets < sizes[channels, None]
        groups.append((channels, np.where(inside, starts[channels, None] + offsets, -1)))
    return groups


def _at(
    table: Float[Array, "S T"], positions: Int[np.ndarray, "h n"], index: Int[Array, "h n"]
) -> Float[Array, "h n T"]:
    """Rows of a table at `positions`, which are those of `index`; zeros where they are -1."""
    if np.array_equal(positions.ravel(), np.arange(table.shape[0])):
        return table.reshape(*positions.shape, -1)
    return jnp.where(index[..., None] < 0, 0, table[index])
