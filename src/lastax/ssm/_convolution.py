"""Impulse responses of scalar channels, and convolution with them.

A kernel is a matrix product, not `S L` exponentials: with `l = c T + t`,
`K[l] = sum_n Re((w_n lam_n^(c T)) lam_n^t)`, so that `T + L / T` powers of each state are enough.
Channels may have different numbers of states, none included.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Complex, Float, Int

from lastax._typing import Array
from lastax.ssm._powers import power_tables


def channel_kernels(
    lam: Complex[Array, " S"],
    weight: Complex[Array, " S"],
    counts: Sequence[int],
    length: int,
) -> Float[Array, "H L"]:
    """`K_h[l] = sum_n Re(weight_n lam_n^l)` over the states `n` of channel `h`.

    Args:
        lam: eigenvalues, those of the first channel first.
        weight: what each state contributes at `l = 0`.
        counts: how many states each of the `H` channels has.
        length: number of steps `L`.
    """
    steps = _chunk_steps(length)
    chunks = -(-length // steps)
    inner, outer = power_tables(lam, steps, chunks)
    outer = weight[:, None] * outer
    rows, order = [], []
    for channels, positions in _groups(counts):
        # (channels, chunks, 2 n) and (channels, 2 n, steps): real and imaginary parts side by side.
        left = jnp.concatenate([_at(outer.real, positions), -_at(outer.imag, positions)], axis=1)
        right = jnp.concatenate([_at(inner.real, positions), _at(inner.imag, positions)], axis=1)
        kernel = jnp.einsum("hnc,hnt->hct", left, right)
        rows.append(kernel.reshape(len(channels), -1)[:, :length])
        order.append(channels)
    empty = np.flatnonzero(np.asarray(counts) == 0)
    rows.append(jnp.zeros((len(empty), length), lam.real.dtype))
    back = np.argsort(np.concatenate([*order, empty]))
    return jnp.concatenate(rows)[back]


def convolve(
    u: Float[Array, "L H"],
    kernel: Float[Array, "H L"],
    kernel_reverse: Float[Array, "H L"] | None = None,
) -> Float[Array, "L H"]:
    """`y_k = sum_l kernel[l] u_{k-l} + kernel_reverse[l] u_{k+l}`, channel by channel.

    By one FFT of at least `2 L` steps, whose length has small factors only.
    """
    length = u.shape[0]
    size = scipy.fft.next_fast_len(2 * length, real=True)
    circular = jnp.pad(kernel, ((0, 0), (0, size - length)))
    if kernel_reverse is not None:
        # Step -l of a circle is step size - l.
        backward = jnp.pad(kernel_reverse, ((0, 0), (0, size - length)))
        circular = circular + jnp.roll(jnp.flip(backward, axis=1), 1, axis=1)
    spectrum = jnp.fft.rfft(u.T, size) * jnp.fft.rfft(circular)
    return jnp.fft.irfft(spectrum, size)[:, :length].T


def _chunk_steps(length: int) -> int:
    """About the square root of the length, a power of two."""
    return 1 << max(0, math.ceil(math.log2(length) / 2))


def _groups(
    counts: Sequence[int],
) -> list[tuple[Int[np.ndarray, " h"], Int[np.ndarray, "h n"]]]:
    """Channels of about the same number of states, and where their states are; -1 where none is.

    Padding to the largest channel of all would do again what pruning has taken out.
    """
    sizes = np.asarray(counts, int)
    starts = np.cumsum(sizes) - sizes
    if len(set(sizes.tolist())) == 1:
        classes = np.zeros_like(sizes)
    else:
        classes = np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
    groups = []
    for one in np.unique(classes[sizes > 0]):
        channels = np.flatnonzero((classes == one) & (sizes > 0))
        offsets = np.arange(sizes[channels].max())[None, :]
        inside = offsets < sizes[channels, None]
        groups.append((channels, np.where(inside, starts[channels, None] + offsets, -1)))
    return groups


def _at(table: Float[Array, "S T"], positions: Int[np.ndarray, "h n"]) -> Float[Array, "h n T"]:
    """Rows of a table, zero where a position is -1."""
    if np.array_equal(positions.ravel(), np.arange(table.shape[0])):
        return table.reshape(*positions.shape, -1)
    return jnp.where(positions[..., None] < 0, 0, table[positions])
