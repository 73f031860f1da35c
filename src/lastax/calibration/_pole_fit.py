"""Poles of scalar channels, fitted to targets by variable projection.

Elimination leaves a few of the original poles of a channel. Other poles usually explain the targets
better. The squared error of a channel, after a fit of its output weights, is a function of its
poles alone (Golub & Pereyra, SIAM J. Numer. Anal. 10, 1973). Gauss-Newton steps with
Levenberg-Marquardt damping minimize it, for all channels at once.

The fit does not compute the states step by step. For zero initial state, one input `u` and
`x_k = lam x_{k-1} + u_k`, `lam = exp(theta)`, all products follow from correlations of the data:

- `q = sum_k x_k u_k = sum_l lam^l r_u(l)`; a target can take the place of the second `u`,
- `(1 - z) sum_k x_k x_k' = q + q' - p - z e e'`, with `z = lam lam'`, `p = sum_k u_k^2` and the
  last states `e`, which are also polynomials in `lam`.

A prime stands for another pole or its conjugate. Derivatives with respect to `theta` and `theta'`
have closed forms. All computations run in float64 on the host.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax.calibration._channel_moments import correlations, from_the_end, has_closed_form
from lastax.calibration._features import state_slots
from lastax.calibration._unit_scale import unit_scale
from lastax.ssm._multi_siso import MultiSISO
from lastax.ssm._system import replace_arrays

# Channels that keep more states than this follow their targets closely without new poles.
_MOST_STATES = 8
# Directions in which last states vary over sequences. A few suffice: only those of slow states are
# not close to zero.
_LAST_DIRECTIONS = 6
_ITERATIONS = 15
# Ridge on columns of unit norm.
_RIDGE = 1e-9
# Bounds of poles: decay per step, and frequency relative to decay. Two conjugate poles that almost
# meet on the real axis would need huge output weights.
_DECAY = (1e-5, 8.0)
_LEAST_FREQUENCY = 1e-2
# Largest step, relative to |theta|.
_LONGEST_STEP = 0.5


class _Data(NamedTuple):
    """What the error of `H` channels depends on, besides their poles.

    Attributes:
        with_input: `sum_k u_{k-l} u_k` for each lag `l`, shape `(H, L)`.
        with_target: `sum_k u_{k-l} y_k` for each lag.
        reversed_inputs: principal components of the inputs in reversed order, shape `(H, K, L)`.
        power: `sum_k u_k^2`.
        product: `sum_k u_k y_k`.
        energy: `sum_k y_k^2`.
        factor: factor of the system on real parts: 2 if states stand for conjugate pairs.
    """

    with_input: Float[np.ndarray, "H L"]
    with_target: Float[np.ndarray, "H L"]
    reversed_inputs: Float[np.ndarray, "H K L"]
    power: Float[np.ndarray, " H"]
    product: Float[np.ndarray, " H"]
    energy: Float[np.ndarray, " H"]
    factor: int


class _Fit(NamedTuple):
    """The least-squares problem at some poles, and the fit of the output weights.

    Columns are the real and the negative imaginary parts of `2 r` signals, the states and their
    derivatives, and then the input.
    """

    gram: Float[np.ndarray, "H Z Z"]
    cross: Float[np.ndarray, "H Z"]
    weights: Float[np.ndarray, "H Z"]
    error: Float[np.ndarray, " H"]

    def where(self, mask: Bool[np.ndarray, " H"], other: "_Fit") -> "_Fit":
        """The fit of each channel: from `self` where `mask` is true, else from `other`."""
        return _Fit(*(
            np.where(mask.reshape(-1, *[1] * (mine.ndim - 1)), mine, theirs)
            for mine, theirs in zip(self, other, strict=True)
        ))  # fmt: skip


def fitted_poles(
    system: MultiSISO,
    u: Float[np.ndarray, "n L H"],
    y: Float[np.ndarray, "n L H"],
    valid: Bool[np.ndarray, "n L"],
) -> MultiSISO:
    """The system with poles that fit the targets better, after `C` and `D` are fitted again.

    The fit starts at the poles of `system`. It takes a step only if this lowers the error of the
    channel. Channels with more than 8 states keep their poles. So do all channels of bidirectional
    and unstable systems.

    Args:
        system: a system in float64, with NumPy arrays.
        u: inputs.
        y: targets.
        valid: false for padding after the end of a sequence.

    Returns:
        The system with other `lam`.
    """
    counts = np.asarray(system.counts)
    chosen = np.flatnonzero((counts > 0) & (counts <= _MOST_STATES))
    if not len(chosen) or not has_closed_form(system, valid):
        return system
    data = _summarize(u[:, :, chosen], y[:, :, chosen], valid, system.conj_sym)
    slots = state_slots(system)[chosen, : counts[chosen].max()]
    present = slots >= 0
    lam = np.array(system.lam, complex)
    theta = np.log(np.where(present & (lam[slots] != 0), lam[slots], 0.5))
    lam[slots[present]] = np.exp(_minimize(theta, present, data))[present]
    return replace_arrays(system, lam=lam)


def _minimize(
    theta: Complex[np.ndarray, "H r"], present: Bool[np.ndarray, "H r"], data: _Data
) -> Complex[np.ndarray, "H r"]:
    theta = _bounded(theta)
    fit = _fit(theta, present, data)
    damping = np.full(len(theta), 1e-2)
    for _ in range(_ITERATIONS):
        moved = _bounded(theta + _step(theta, present, fit, damping))
        new = _fit(moved, present, data)
        better = new.error < fit.error
        theta = np.where(better[:, None] & present, moved, theta)
        fit = new.where(better, fit)
        damping = damping * np.where(better, 0.3, 5.0)
    return theta


def _step(
    theta: Complex[np.ndarray, "H r"],
    present: Bool[np.ndarray, "H r"],
    fit: _Fit,
    damping: Float[np.ndarray, " H"],
) -> Complex[np.ndarray, "H r"]:
    """One damped Gauss-Newton step of all poles.

    The change of the output is linear in `c dtheta`, the weight of the derivative of a state.
    """
    states = theta.shape[1]
    residual = fit.cross - np.einsum("hij,hj->hi", fit.gram, fit.weights)
    penalty = np.where(_linear_columns(states), _RIDGE, damping[:, None])
    change = _solve(fit.gram, residual, np.tile(present, 4), penalty)
    c, moved = (_complex(columns, states) for columns in (fit.weights, change))
    c, moved = c[:, :states], moved[:, states:]
    unused = np.abs(c) < np.finfo(np.float32).tiny
    step = np.where(unused, 0, moved / np.where(unused, 1, c))
    return step / np.maximum(1, np.abs(step) / (_LONGEST_STEP * np.abs(theta)))


def _fit(theta: Complex[np.ndarray, "H r"], present: Bool[np.ndarray, "H r"], data: _Data) -> _Fit:
    states = theta.shape[1]
    signals, plain, hermitian = _products(theta, data)
    s = data.factor
    gram = np.empty((len(theta), 4 * states + 1, 4 * states + 1))
    re, im = slice(0, 2 * states), slice(2 * states, 4 * states)
    gram[:, re, re] = s**2 / 2 * (hermitian + plain).real
    gram[:, re, im] = s**2 / 2 * (hermitian - plain).imag
    gram[:, im, re] = -(s**2) / 2 * (hermitian + plain).imag
    gram[:, im, im] = s**2 / 2 * (hermitian - plain).real
    with_u, with_y = (
        s * np.concatenate([sums.real, -sums.imag], axis=1)
        for sums in (signals, np.concatenate(_polynomials(theta, data.with_target), axis=1))
    )
    gram[:, :-1, -1] = gram[:, -1, :-1] = with_u
    gram[:, -1, -1] = data.power
    cross = np.concatenate([with_y, data.product[:, None]], axis=1)
    used = np.tile(present, 4) & _linear_columns(states)[:-1]
    weights = _solve(gram, cross, used, np.full(cross.shape, _RIDGE))
    explained = 2 * cross - np.einsum("hij,hj->hi", gram, weights)
    return _Fit(gram, cross, weights, data.energy - np.sum(weights * explained, axis=1))


def _products(
    theta: Complex[np.ndarray, "H r"], data: _Data
) -> tuple[Complex[np.ndarray, "H Z"], Complex[np.ndarray, "H Z Z"], Complex[np.ndarray, "H Z Z"]]:
    """Products of the states and their derivatives, `Z = 2 r` signals.

    Returns:
        The products with the input, with each other, and with each other's conjugates.
    """
    q, dq = _polynomials(theta, data.with_input)
    last = [_polynomials(theta, inputs) for inputs in data.reversed_inputs.swapaxes(0, 1)]
    e, de = (np.stack(parts, axis=-1) for parts in zip(*last, strict=True))

    def products(prime: np.ufunc) -> Complex[np.ndarray, "H Z Z"]:
        z = np.exp(theta)[:, :, None] * prime(np.exp(theta))[:, None]
        ee, e_de, de_e, de_de = (a @ prime(b).mT for a in (e, de) for b in (e, de))
        left, right = dq[:, :, None], prime(dq)[:, None]
        value = q[:, :, None] + prime(q)[:, None] - data.power[:, None, None] - z * ee
        by_left, by_right = left - z * (ee + de_e), right - z * (ee + e_de)
        by_both = -z * (ee + de_e + e_de + de_de)
        ratio = z / (1 - z) ** 2
        return np.block([
            [value / (1 - z), by_right / (1 - z) + value * ratio],
            [
                by_left / (1 - z) + value * ratio,
                by_both / (1 - z) + (by_left + by_right + value + 2 * value * z / (1 - z)) * ratio,
            ],
        ])  # fmt: skip

    return np.concatenate([q, dq], axis=1), products(np.positive), products(np.conj)


def _summarize(
    u: Float[np.ndarray, "n L H"],
    y: Float[np.ndarray, "n L H"],
    valid: Bool[np.ndarray, "n L"],
    conj_sym: bool,
) -> _Data:
    u, y = (np.where(valid[..., None], signal, 0).astype(float) for signal in (u, y))
    with_input, with_target = correlations(u, (u, y))
    inputs = from_the_end(u, valid).transpose(2, 0, 1)
    # Eigenvectors of the largest eigenvalues are last.
    directions = np.linalg.eigh(inputs @ inputs.mT)[1][:, :, -_LAST_DIRECTIONS:]
    power, product, energy = (np.sum(a * b, axis=(0, 1)) for a, b in ((u, u), (u, y), (y, y)))
    return _Data(
        with_input.T,
        with_target.T,
        directions.mT @ inputs,
        power,
        product,
        energy,
        2 if conj_sym else 1,
    )


def _polynomials(
    theta: Complex[np.ndarray, "H r"], values: Float[np.ndarray, "H L"]
) -> tuple[Complex[np.ndarray, "H r"], Complex[np.ndarray, "H r"]]:
    """`sum_l exp(l theta) v_l`, and its derivative `sum_l l exp(l theta) v_l`."""
    channels, length = values.shape
    size = int(np.ceil(np.sqrt(length)))
    blocks = -(-length // size)
    padded = np.pad(values, ((0, 0), (0, blocks * size - length))).reshape(channels, blocks, size)
    inside, start = np.arange(size), size * np.arange(blocks)
    powers, outer = np.exp(theta[..., None] * inside), np.exp(theta[..., None] * start)
    sums, by_step = ((power.real @ padded.mT) + 1j * (power.imag @ padded.mT)
                     for power in (powers, powers * inside))  # fmt: skip
    return np.sum(sums * outer, axis=-1), np.sum((by_step + sums * start) * outer, axis=-1)


def _solve(
    gram: Float[np.ndarray, "H Z Z"],
    cross: Float[np.ndarray, "H Z"],
    used: Bool[np.ndarray, "H Y"],
    penalty: Float[np.ndarray, "H Z"],
) -> Float[np.ndarray, "H Z"]:
    """Ridge regression on some columns, and always on the last one, the input."""
    signals = np.arange(gram.shape[1] // 2)
    scale = unit_scale(gram, np.concatenate([signals, signals, [len(signals)]]))
    scale *= np.concatenate([used, np.ones((len(used), 1), bool)], axis=1)
    scaled = scale[:, :, None] * gram * scale[:, None, :]
    diagonal = np.arange(gram.shape[1])
    scaled[:, diagonal, diagonal] += np.where(scale > 0, penalty, 1.0)
    return scale * np.linalg.solve(scaled, (scale * cross)[..., None])[..., 0]


def _linear_columns(states: int) -> Bool[np.ndarray, " Z"]:
    """Columns of states and of the input, which the output depends on linearly."""
    return np.append(np.tile(np.repeat([True, False], states), 2), True)


def _complex(columns: Float[np.ndarray, "H Z"], states: int) -> Complex[np.ndarray, "H y"]:
    return columns[:, : 2 * states] + 1j * columns[:, 2 * states : 4 * states]


def _bounded(theta: Complex[np.ndarray, "H r"]) -> Complex[np.ndarray, "H r"]:
    decay = np.clip(-theta.real, *_DECAY)
    least = _LEAST_FREQUENCY * decay
    size = np.maximum(np.abs(theta.imag), least)
    return -decay + 1j * np.where(theta.imag < 0, -size, size)
