"""TODO analysis._system_norms."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Complex

from lastax._typing import Array
from lastax.analysis._balancing import hankel_singular_values
from lastax.analysis._peak_gain import peak_gains
from lastax.analysis._state_norms import hinf_norms
from lastax.ssm._multi_siso import AnySystem, MultiSISO, channel_systems
from lastax.ssm._system import System, real_system, transfer_function

_FREQUENCIES_AT_ONCE = 256

_EXACT_AT_ONCE = 32


def hinf_norm(system: AnySystem, *, pairs: bool = True, feedthrough: bool = False) -> float:
    """Largest singular value over all frequencies; infinity if unstable.

    By a sweep that resolves every pole, refined: about 1e-12 of the value. With `pairs` the
    operator on real signals that the layer applies; without, the literal complex map to `C x`. `D`
    counts if `feedthrough` says so.
    """
    if isinstance(system, MultiSISO):
        largest = 0.0
        parts = [(norm_bound(part, pairs, feedthrough), part) for part in channel_systems(system)]
        # No channel exceeds its bound: most need no sweep.
        for bound, part in sorted(parts, key=lambda pair: -pair[0]):
            if bound <= largest:
                break
            largest = max(largest, hinf_norm(part, pairs=pairs, feedthrough=feedthrough))
        return largest
    literal = literal_system(system, pairs)
    D: Any = np.asarray(literal.feedthrough_matrix) * feedthrough
    if literal.states == 0:
        return _spectral_norm(D)
    if np.any(np.abs(literal.lam) >= 1):
        return float("inf")
    if not D.any():
        literal = _compressed(literal)
        D = np.asarray(literal.feedthrough_matrix)

    best = 0.0
    frobenius = _frobenius_bounds(literal, D)

    def response(omega: Any) -> Any:
        return transfer_function(literal, omega) + D

    def gains(omega: Any) -> Any:
        """Exact where the largest gain may be; elsewhere no less than there is, and below it."""
        nonlocal best
        flat = omega.ravel()
        # Frobenius norms bound spectral ones, and cost a fraction of them.
        bounds: Any = frobenius(flat)
        values = np.minimum(bounds, best)
        descending = np.argsort(-bounds)
        for start in range(0, len(flat), _EXACT_AT_ONCE):
            index = descending[start : start + _EXACT_AT_ONCE]
            index = index[bounds[index] > best]
            if len(index) == 0:
                break
            values[index] = np.linalg.norm(response(flat[index]), ord=2, axis=(1, 2))
            best = max(best, float(values[index].max()))
        return values.reshape(omega.shape)

    return float(peak_gains(gains, np.asarray(literal.lam)[None, :])[0])


def h2_norm(system: AnySystem, *, pairs: bool = True, feedthrough: bool = False) -> float:
    """Root of the impulse response's total energy; infinity if unstable.

    In closed form by the Gramian `X_ij = B_i B_j^H / (1 - lam_i conj(lam_j))`: `tr(C X C^H)`, for
    each direction, and the cross terms of the one step in which both directions answer, and `D`
    with `feedthrough`.
    """
    if isinstance(system, MultiSISO):
        channels = channel_systems(system)
        return float(
            np.linalg.norm(
                [h2_norm(part, pairs=pairs, feedthrough=feedthrough) for part in channels]
            )
        )
    literal = literal_system(system, pairs)
    if np.any(np.abs(literal.lam) >= 1):
        return float("inf")
    lam, B, C, C_reverse = literal.lam, literal.B, literal.C, literal.C_reverse
    input_gram = B @ B.conj().T
    gramian = input_gram / (1 - lam[:, None] * lam[None, :].conj())
    energy = _trace_form(C, gramian, C)
    if C_reverse is not None:
        energy += _trace_form(C_reverse, gramian, C_reverse)
        energy += 2 * _trace_form(C, input_gram, C_reverse)
    if feedthrough:
        at_once = C if C_reverse is None else C + C_reverse
        D = np.asarray(literal.feedthrough_matrix)
        energy += float(np.sum(D**2) + 2 * np.sum(D * (at_once @ B).real))
    return float(np.sqrt(max(energy, 0.0)))


def literal_system(system: System, pairs: bool) -> System:
    def widen(array: Array) -> np.ndarray:
        return np.asarray(array, complex if np.iscomplexobj(array) else float)

    host = jax.tree.map(widen, system)
    return real_system(host) if pairs else host


def norm_bound(system: AnySystem, pairs: bool, feedthrough: bool = False) -> float:
    """The smaller of two bounds of the norm; of a `MultiSISO` that of the largest channel."""
    if isinstance(system, MultiSISO):
        return max(norm_bound(part, pairs, feedthrough) for part in channel_systems(system))
    through = _spectral_norm(np.asarray(system.D, float)) if feedthrough else 0.0
    total = sum_of_norms(system, pairs)
    if not pairs or not np.isfinite(total) or system.states == 0:
        return through + total
    directions = [C for C in (system.C, system.C_reverse) if C is not None]
    hankel = sum(
        float(np.sum(hankel_singular_values(dataclasses.replace(system, C=C, C_reverse=None))))
        for C in directions
    )
    return through + min(total, 2 * hankel)


def _spectral_norm(D: np.ndarray) -> float:
    if D.ndim == 1:
        return float(np.max(np.abs(D), initial=0.0))
    return float(np.linalg.norm(D, ord=2))


def sum_of_norms(system: System, pairs: bool) -> float:
    share = 2.0 if pairs and system.conj_sym else 1.0
    return share * float(np.sum(np.asarray(hinf_norms(system))))


def _compressed(literal: System) -> System:
    """The same singular values with only as many inputs and outputs as the states span."""
    P, reverse = literal.states, literal.C_reverse
    outputs = literal.C if reverse is None else np.concatenate([literal.C, reverse], axis=1)
    C: Any = np.linalg.qr(outputs, mode="r")
    B: Any = np.linalg.qr(literal.B.conj().T, mode="r")
    # A system has as many inputs as outputs; zeros add no singular value.
    size = max(len(C), len(B))
    B, C = (np.pad(R, ((0, size - len(R)), (0, 0))) for R in (B, C))
    D: Any = np.zeros(size)
    return System(
        lam=literal.lam,
        B=B.conj().T,
        C=C[:, :P],
        C_reverse=None if reverse is None else C[:, P:],
        D=D,
        conj_sym=False,
    )


def _frobenius_bounds(literal: System, D: np.ndarray) -> Callable[[Any], np.ndarray]:
    """A function from angles to the Frobenius norms of the responses, or a little above them.

    With the states' own responses `r` it is a quadratic form, `r^H M r`: no response is built.
    """
    lam: Any = literal.lam
    outputs: Any = literal.C
    inputs: Any = literal.B
    if literal.C_reverse is not None:
        outputs = np.concatenate([outputs, literal.C_reverse], axis=1)
        inputs = np.concatenate([inputs, inputs])
    form: Any = (outputs.conj().T @ outputs) * (inputs @ inputs.conj().T).T
    size: Any = np.sqrt(np.diag(form).real)
    with_D: Any = np.sum((outputs.T @ D) * inputs, axis=1)
    total = float(np.sum(D**2))

    def norms(omega: Any) -> np.ndarray:
        parts = []
        for block in np.array_split(omega, -(-omega.size // _FREQUENCIES_AT_ONCE)):
            z = np.exp(1j * block)[:, None]
            r: Any = 1 / (1 - lam / z)
            if literal.C_reverse is not None:
                r = np.concatenate([r, 1 / (1 - lam * z)], axis=1)
            squares = np.sum(r.conj() * (r @ form.T), axis=1).real
            squares = squares + 2 * (r @ with_D).real + total
            # What rounding may have taken away where large terms cancel.
            margin = 1e-13 * (np.abs(r) @ size + np.sqrt(total)) ** 2
            parts.append(np.sqrt(np.maximum(squares, 0) + margin))
        return np.concatenate(parts)

    return norms


def _trace_form(
    left: Complex[Array, "H P"], gram: Complex[Array, "P P"], right: Complex[Array, "H P"]
) -> float:
    return float(((left @ gram) * right.conj()).sum().real)
