"""H-infinity and H2 norms of full systems, in float64 on the host."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Complex

from lastax._typing import Array
from lastax.analysis._balancing import hankel_singular_values
from lastax.analysis._peak_gain import peak_gains
from lastax.analysis._single import check_concrete, check_single
from lastax.analysis._state_norms import hinf_norms
from lastax.ssm._multi_siso import AnySystem, MultiSISO, channel_systems
from lastax.ssm._system import System, real_system, replace_arrays, transfer_function

# Numbers of frequencies per batch, which limit the memory of the sweeps.
_FREQUENCIES_PER_BLOCK = 256
_EXACT_PER_BLOCK = 32

# Gains above this fraction of the largest one are exact. The grid of the search is dense enough
# that the largest gain is beside a grid point within this fraction.
_EXACT_ABOVE = 0.95

# States with this `|lam|` count as unstable: in float64, `1 - |lam|` is then mostly rounding error.
_STABLE_BELOW = 1 - 8 * float(np.finfo(float).eps)


def hinf_norm(system: AnySystem, *, pairs: bool = True, feedthrough: bool = False) -> float:
    """H-infinity norm: the largest singular value over all frequencies; infinity if unstable.

    A frequency sweep that resolves every pole, refined to a relative error of about 1e-12.

    Args:
        system: the system. The norm of a `MultiSISO` is the maximum over its channels.
        pairs: if true, the norm of the operator on real signals that the layer applies; if false,
            the norm of the complex map from `u` to `C x`.
        feedthrough: whether to include `D`.
    """
    check_single("hinf_norm", system)
    check_concrete("hinf_norm", system)
    if isinstance(system, MultiSISO):
        largest = 0.0
        parts = [(_quick_bound(part, pairs, feedthrough), part) for part in channel_systems(system)]
        if any(np.isnan(bound) for bound, _ in parts):
            return float("nan")
        # The norm of a channel cannot exceed its bound, so most channels need no sweep.
        for bound, part in sorted(parts, key=lambda pair: -pair[0]):
            if bound <= largest:
                break
            largest = max(largest, hinf_norm(part, pairs=pairs, feedthrough=feedthrough))
        return largest
    literal = literal_system(system, pairs)
    D = np.asarray(literal.feedthrough_matrix) * feedthrough
    if literal.states == 0:
        return _spectral_norm(D)
    if _is_unstable(literal):
        return float("inf")
    if not D.any():
        literal = _compressed(literal)
        D = np.asarray(literal.feedthrough_matrix)
    gains = _scalar_gains(literal, D) if len(D) == 1 else _matrix_gains(literal, D)
    # The grid also covers the negative angles of the poles, so conjugates are not repeated.
    return float(peak_gains(gains, np.asarray(system.lam, complex)[None, :])[0])


def h2_norm(system: AnySystem, *, pairs: bool = True, feedthrough: bool = False) -> float:
    """H2 norm: the root of the total energy of the impulse response; infinity if unstable.

    In closed form, `tr(C X C^H)` with the Gramian `X_ij = B_i B_j^H / (1 - lam_i conj(lam_j))`,
    summed over the directions. A bidirectional system adds the cross terms of the one step in which
    both directions respond.

    Args:
        system: the system. The squared norm of a `MultiSISO` is the sum over its channels.
        pairs: if true, the norm of the operator on real signals that the layer applies; if false,
            the norm of the complex map from `u` to `C x`.
        feedthrough: whether to include `D`.
    """
    check_single("h2_norm", system)
    check_concrete("h2_norm", system)
    if isinstance(system, MultiSISO):
        channels = channel_systems(system)
        norms = [h2_norm(part, pairs=pairs, feedthrough=feedthrough) for part in channels]
        return float(np.linalg.norm(norms))
    literal = literal_system(system, pairs)
    if _is_unstable(literal):
        return float("inf")
    lam, B, C, C_reverse = literal.lam, literal.B, literal.C, literal.C_reverse
    input_gram = B @ B.conj().T
    gramian = input_gram / (1 - lam[:, None] * lam[None, :].conj())
    energy = _trace_form(C, gramian, C)
    if C_reverse is not None:
        energy += _trace_form(C_reverse, gramian, C_reverse)
        energy += 2 * _trace_form(C, input_gram, C_reverse)
    if feedthrough:
        simultaneous = C if C_reverse is None else C + C_reverse
        D = np.asarray(literal.feedthrough_matrix)
        energy += float(np.sum(D**2) + 2 * np.sum(D * np.asarray(simultaneous @ B).real))
    return float(np.sqrt(max(energy, 0.0)))


def norm_bound(system: AnySystem, pairs: bool, feedthrough: bool = False) -> float:
    """The smaller of two upper bounds of `hinf_norm`: `sum_of_norms`, and twice the Hankel sum."""
    if isinstance(system, MultiSISO):
        # Unlike the built-in `max`, this keeps NaN.
        bounds = [norm_bound(part, pairs, feedthrough) for part in channel_systems(system)]
        return float(np.max(bounds))
    quick = _quick_bound(system, pairs, feedthrough)
    if not pairs or not np.isfinite(quick) or system.states == 0:
        return quick
    directions = [C for C in (system.C, system.C_reverse) if C is not None]
    hankel = sum(
        float(
            np.sum(hankel_singular_values(replace_arrays(system, C=np.asarray(C), C_reverse=None)))
        )
        for C in directions
    )
    return min(quick, 2 * hankel + _norm_of_feedthrough(system, feedthrough))


def sum_of_norms(system: System, pairs: bool) -> float:
    """The sum of the H-infinity norms of all states. Conjugate pairs count twice."""
    if _is_unstable(system):
        return float("inf")
    factor = 2.0 if pairs and system.conj_sym else 1.0
    return factor * float(np.sum(np.asarray(hinf_norms(system))))


def literal_system(system: System, pairs: bool) -> System:
    """The system in float64 on the host; with `pairs`, its `real_system`."""

    def widen(array: Array) -> np.ndarray:
        return np.asarray(array, complex if np.iscomplexobj(array) else float)

    host = jax.tree.map(widen, system)
    return real_system(host) if pairs else host


def _is_unstable(system: System) -> bool:
    """Whether a state has no finite norm in float64."""
    return bool(np.any(np.abs(np.asarray(system.lam, complex)) >= _STABLE_BELOW))


def _quick_bound(system: System, pairs: bool, feedthrough: bool) -> float:
    return sum_of_norms(system, pairs) + _norm_of_feedthrough(system, feedthrough)


def _norm_of_feedthrough(system: System, feedthrough: bool) -> float:
    return _spectral_norm(np.asarray(system.D, float)) if feedthrough else 0.0


def _scalar_gains(literal: System, D: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from frequencies to gains, for a system with one input and one output."""

    def gains(omega: np.ndarray) -> np.ndarray:
        blocks = np.array_split(omega.ravel(), -(-omega.size // _FREQUENCIES_PER_BLOCK))
        responses = [np.asarray(transfer_function(literal, block)) for block in blocks]
        return np.abs(np.concatenate(responses)[:, 0, 0] + D[0, 0]).reshape(omega.shape)

    return gains


def _matrix_gains(literal: System, D: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from frequencies to gains, for the search of the largest gain.

    The gain is exact where it may be near the largest one. Elsewhere it is an upper bound that is
    well below the largest gain so far.
    """
    best = 0.0
    frobenius_bounds = _frobenius_bounds(literal, D)

    def response(omega: np.ndarray) -> np.ndarray:
        return np.asarray(transfer_function(literal, omega)) + D

    def gains(omega: np.ndarray) -> np.ndarray:
        nonlocal best
        flat = omega.ravel()
        # Frobenius norms are upper bounds of spectral norms and much cheaper.
        bounds = frobenius_bounds(flat)
        values = bounds.copy()
        descending = np.argsort(-bounds)
        for start in range(0, len(flat), _EXACT_PER_BLOCK):
            index = descending[start : start + _EXACT_PER_BLOCK]
            index = index[bounds[index] > _EXACT_ABOVE * best]
            if len(index) == 0:
                break
            values[index] = np.linalg.norm(response(flat[index]), ord=2, axis=(1, 2))
            best = max(best, float(values[index].max()))
        return values.reshape(omega.shape)

    return gains


def _frobenius_bounds(literal: System, D: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from frequencies to tight upper bounds of the responses' Frobenius norms.

    The squared norm is a quadratic form `r^H M r` of the scalar responses `r` of the states, so no
    response matrix is needed.
    """
    lam = np.asarray(literal.lam)
    outputs, inputs = np.asarray(literal.C), np.asarray(literal.B)
    if literal.C_reverse is not None:
        outputs = np.concatenate([outputs, np.asarray(literal.C_reverse)], axis=1)
        inputs = np.concatenate([inputs, inputs])
    form = (outputs.conj().T @ outputs) * (inputs @ inputs.conj().T).T
    size = np.sqrt(np.diag(form).real)
    with_D = np.sum((outputs.T @ D) * inputs, axis=1)
    total = float(np.sum(D**2))

    def bounds(omega: np.ndarray) -> np.ndarray:
        parts = []
        for block in np.array_split(omega, -(-omega.size // _FREQUENCIES_PER_BLOCK)):
            z = np.exp(1j * block)[:, None]
            r = 1 / (1 - lam / z)
            if literal.C_reverse is not None:
                r = np.concatenate([r, 1 / (1 - lam * z)], axis=1)
            squares = np.sum(r.conj() * (r @ form.T), axis=1).real
            squares = squares + 2 * (r @ with_D).real + total
            # Compensates the rounding errors where large terms cancel.
            margin = 1e-13 * (np.abs(r) @ size + np.sqrt(total)) ** 2
            parts.append(np.sqrt(np.maximum(squares, 0) + margin))
        return np.concatenate(parts)

    return bounds


def _compressed(literal: System) -> System:
    """A system with the same singular values, and no more inputs and outputs than states need."""
    P, reverse = literal.states, literal.C_reverse
    maps = [literal.C] if reverse is None else [literal.C, reverse]
    C = _triangular_factor(np.concatenate(maps, axis=1))
    B = _triangular_factor(np.asarray(literal.B).conj().T)
    # A system has as many inputs as outputs. Padding with zeros keeps the singular values.
    size = max(len(C), len(B))
    B, C = (np.pad(R, ((0, size - len(R)), (0, 0))) for R in (B, C))
    return replace_arrays(
        literal,
        B=B.conj().T,
        C=C[:, :P],
        C_reverse=None if reverse is None else C[:, P:],
        D=np.zeros(size),
    )


def _triangular_factor(a: np.ndarray) -> np.ndarray:
    """The factor `R` of the QR decomposition. It has the singular values of `a`."""
    return np.linalg.qr(a).R


def _spectral_norm(D: np.ndarray) -> float:
    if D.ndim == 1:
        return float(np.max(np.abs(D), initial=0.0))
    return float(np.linalg.norm(D, ord=2))


def _trace_form(
    left: Complex[Array, "H P"], gram: Complex[Array, "P P"], right: Complex[Array, "H P"]
) -> float:
    return float(((left @ gram) * right.conj()).sum().real)
