"""Moments of scalar channels in closed form, without the states of each step.

With zero initial state and one input `u`, sums over the steps of a sequence follow from the
correlations `r_v(l) = sum_k u_{k-l} v_k` and the last states. For `x_k = lam x_{k-1} + B u_k`:

- `sum_k x_k v_k = B sum_l lam^l r_v(l)`,
- `(1 - lam_i lam_j') sum_k x_i x_j' = q_i B_j' + B_i q_j' - B_i B_j' p - lam_i lam_j' e_i e_j'`

with `q = sum_k x_k u_k`, `p = sum_k u_k^2` and the last states `e`. A prime stands for the complex
conjugate, or for nothing. An FFT computes the correlations of all sequences and channels.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax.calibration._features import state_slots
from lastax.calibration._moments import Moments
from lastax.calibration._unit_scale import significant_columns
from lastax.ssm._multi_siso import MultiSISO

# Smallest `|1 - lam_i lam_j|` for which the quotient keeps nine digits in double precision.
_SMALLEST_DIVISOR = 1e-7


def has_closed_form(system: MultiSISO, valid: Bool[np.ndarray, "n L"]) -> bool:
    """Whether `channel_moments` can be used.

    The system must be unidirectional and stable, and padding must only follow the sequences.
    """
    if system.C_reverse is not None or not np.all(np.abs(np.asarray(system.lam)) < 1):
        return False
    if np.any(valid[:, 1:] & ~valid[:, :-1]):
        return False
    lam = _by_slot(system, np.asarray(system.lam))
    return all(
        np.abs(1 - lam[:, :, None] * other[:, None]).min() > _SMALLEST_DIVISOR
        for other in (lam, lam.conj())
    )


def channel_moments(
    system: MultiSISO,
    u: Float[np.ndarray, "n L H"],
    y: Float[np.ndarray, "n L H"],
    valid: Bool[np.ndarray, "n L"],
) -> Moments:
    """Moments of the regression of each channel over all valid steps, in float64.

    Args:
        system: a system for which `has_closed_form` is true.
        u: inputs of the layer.
        y: targets.
        valid: false for padding after the end of a sequence.

    Returns:
        The moments of the features that `state_features` describes. A real or imaginary part that
        is too small for double precision counts as zero.
    """
    lam, B = _by_slot(system, np.asarray(system.lam)), _by_slot(system, np.asarray(system.B))
    u, y = (np.where(valid[..., None], signal, 0).astype(float) for signal in (u, y))
    columns = np.concatenate([from_the_end(u, valid), correlations(u, (u, y))])
    sums = B[..., None] * _polynomials(lam, columns)
    last, with_u, with_y = sums[..., :-2], sums[..., -2], sums[..., -1]
    power, product, energy = (np.sum(a * b, axis=(0, 1)) for a, b in ((u, u), (u, y), (y, y)))

    def products(prime: Callable[[np.ndarray], np.ndarray]) -> Complex[np.ndarray, "H N N"]:
        divisor = 1 - lam[:, :, None] * prime(lam)[:, None]
        driven = with_u[:, :, None] * prime(B)[:, None] + B[:, :, None] * prime(with_u)[:, None]
        driven = driven - B[:, :, None] * prime(B)[:, None] * power[:, None, None]
        return (driven - (1 - divisor) * (last @ prime(last).mT)) / divisor

    plain, hermitian = products(np.asarray), products(np.conj)
    s, (channels, states) = 2 if system.conj_sym else 1, lam.shape
    gram = np.empty((channels, 2 * states + 2, 2 * states + 2))
    # The features of a state are s Re x and -s Im x.
    gram[:, :-2:2, :-2:2] = s**2 / 2 * (hermitian + plain).real
    gram[:, :-2:2, 1:-2:2] = s**2 / 2 * (hermitian - plain).imag
    gram[:, 1:-2:2, :-2:2] = -(s**2) / 2 * (hermitian + plain).imag
    gram[:, 1:-2:2, 1:-2:2] = s**2 / 2 * (hermitian - plain).real
    for column, sums_with in ((-2, with_u), (-1, with_y)):
        gram[:, :-2:2, column] = s * sums_with.real
        gram[:, 1:-2:2, column] = -s * sums_with.imag
        gram[:, column, :-2] = gram[:, :-2, column]
    squares = np.einsum("hzz->hz", gram[:, :-2, :-2])
    # A column of errors would count as a feature, since features are scaled by their energy.
    used = significant_columns(squares, np.arange(2 * states) // 2)
    gram[:, :-2] *= used[:, :, None]
    gram[:, :, :-2] *= used[:, None]
    gram[:, -2, -2], gram[:, -1, -1] = power, energy
    gram[:, -2, -1] = gram[:, -1, -2] = product
    rows = int(valid.sum())
    return Moments(gram / max(rows, 1), width=2, targets=1, rows=rows)


def _by_slot(system: MultiSISO, values: Complex[np.ndarray, " S"]) -> Complex[np.ndarray, "H N"]:
    """Values of the states of each channel, filled up with zeros."""
    slots = state_slots(system)
    return np.where(slots >= 0, values.astype(complex)[slots], 0)


def from_the_end(
    u: Float[np.ndarray, "n L H"], valid: Bool[np.ndarray, "n L"]
) -> Float[np.ndarray, "n L H"]:
    """Sequences in reversed order, from the last valid step to the first, then zeros."""
    index = valid.sum(axis=1)[:, None] - 1 - np.arange(u.shape[1])
    reversed_u = np.take_along_axis(u, np.maximum(index, 0)[..., None], axis=1)
    return np.where(index[..., None] >= 0, reversed_u, 0)


def correlations(
    u: Float[np.ndarray, "n L H"], others: tuple[Float[np.ndarray, "n L H"], ...]
) -> Float[np.ndarray, "m L H"]:
    """`sum_k u_{k-l} v_k` for each lag `l` and each other signal `v`, added over sequences."""
    length = u.shape[1]
    spectrum = np.fft.rfft(u, 2 * length, axis=1).conj()
    summed = [np.sum(spectrum * np.fft.rfft(v, 2 * length, axis=1), axis=0) for v in others]
    return np.fft.irfft(np.stack(summed), 2 * length, axis=1)[:, :length]


def _polynomials(
    lam: Complex[np.ndarray, "H N"], columns: Float[np.ndarray, "K L H"]
) -> Complex[np.ndarray, "H N K"]:
    """`sum_l lam^l w_l` for each column `w`, by `lam^(a T + t) = lam^(a T) lam^t`."""
    count, length, channels = columns.shape
    steps = int(np.ceil(np.sqrt(length)))
    blocks = -(-length // steps)
    padded = np.pad(columns, ((0, 0), (0, blocks * steps - length), (0, 0)))
    inner, outer = _powers(lam, steps), _powers(lam**steps, blocks)
    in_blocks = padded.reshape(count, blocks, steps, channels)
    w = in_blocks.transpose(3, 2, 0, 1).reshape(channels, steps, count * blocks)
    parts = (inner.real @ w) + 1j * (inner.imag @ w)
    return (parts.reshape(*lam.shape, count, blocks) @ outer[..., None])[..., 0]


def _powers(lam: Complex[np.ndarray, "H N"], count: int) -> Complex[np.ndarray, "H N count"]:
    """Powers 0 to `count - 1`."""
    factors = np.broadcast_to(lam[..., None], (*lam.shape, count)).copy()
    factors[..., 0] = 1
    return np.cumprod(factors, axis=-1)
