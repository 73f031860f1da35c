"""How far a system moves when states are taken out: exact norms of the difference, and bounds.

Host float64. The difference is the system of the removed states alone, so `D` plays no part. These
numbers are about one layer's operator; they say nothing of what a network answers. The channels of
a `MultiSISO` work side by side: its H-infinity norm is the largest of theirs, its H2 norm the root
of the sum of their squares.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Complex

from lastax._multi_siso import AnySystem, MultiSISO, channel_systems
from lastax._norms import hinf_norms
from lastax._sweep import peak_gains
from lastax._system import System, kept_index, real_system, transfer_function
from lastax._typing import Array

_FREQUENCIES_AT_ONCE = 256
_EXACT_AT_ONCE = 32


def error_bound(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """Upper bound of `error_hinf`: the sum of the removed states' norms, twice that for pairs."""
    return _bound(_removed(system, keep), pairs)


def error_hinf(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H-infinity norm of what the removed states did: the largest error per unit of input."""
    return hinf_norm(_removed(system, keep), pairs=pairs)


def error_h2(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H2 norm of what the removed states did: the root-mean-square error under white noise."""
    return h2_norm(_removed(system, keep), pairs=pairs)


def hinf_norm(system: AnySystem, *, pairs: bool = True) -> float:
    """Largest singular value over all frequencies, without `D`; infinity if unstable.

    By a sweep that resolves every pole, refined: about 1e-12 of the value. With `pairs` the
    operator on real signals that the layer applies; without, the literal complex map to `C x`.
    """
    if isinstance(system, MultiSISO):
        largest = 0.0
        parts = [(_bound(part, pairs), part) for part in channel_systems(system)]
        # No channel exceeds its bound: most need no sweep.
        for bound, part in sorted(parts, key=lambda pair: -pair[0]):
            if bound <= largest:
                break
            largest = max(largest, hinf_norm(part, pairs=pairs))
        return largest
    literal = _literal(system, pairs)
    if literal.states == 0:
        return 0.0
    if np.any(np.abs(literal.lam) >= 1):
        return float("inf")
    literal = _compressed(literal)

    best = 0.0

    def gains(omega: Any) -> Any:
        """Exact where the largest gain may be; elsewhere no less than there is, and below it."""
        nonlocal best
        flat = omega.ravel()
        blocks: Any = np.array_split(flat, -(-omega.size // _FREQUENCIES_AT_ONCE))
        # Frobenius norms bound spectral ones, and cost a fraction of them.
        bounds: Any = np.concatenate(
            [np.linalg.norm(transfer_function(literal, block), axis=(1, 2)) for block in blocks]
        )
        values = np.minimum(bounds, best)
        descending = np.argsort(-bounds)
        for start in range(0, len(flat), _EXACT_AT_ONCE):
            index = descending[start : start + _EXACT_AT_ONCE]
            index = index[bounds[index] > best]
            if len(index) == 0:
                break
            matrices = transfer_function(literal, flat[index])
            values[index] = np.linalg.norm(matrices, ord=2, axis=(1, 2))
            best = max(best, float(values[index].max()))
        return values.reshape(omega.shape)

    return float(peak_gains(gains, np.asarray(literal.lam)[None, :])[0])


def h2_norm(system: AnySystem, *, pairs: bool = True) -> float:
    """Root of the impulse response's total energy, without `D`; infinity if unstable.

    In closed form by the Gramian `X_ij = B_i B_j^H / (1 - lam_i conj(lam_j))`: `tr(C X C^H)`, for
    each direction, and the cross term of the one step in which both directions answer.
    """
    if isinstance(system, MultiSISO):
        return float(
            np.linalg.norm([h2_norm(part, pairs=pairs) for part in channel_systems(system)])
        )
    literal = _literal(system, pairs)
    if np.any(np.abs(literal.lam) >= 1):
        return float("inf")
    lam, B, C, C_reverse = literal.lam, literal.B, literal.C, literal.C_reverse
    input_gram = B @ B.conj().T
    gramian = input_gram / (1 - lam[:, None] * lam[None, :].conj())
    energy = _trace_form(C, gramian, C)
    if C_reverse is not None:
        energy += _trace_form(C_reverse, gramian, C_reverse)
        energy += 2 * _trace_form(C, input_gram, C_reverse)
    return float(np.sqrt(max(energy, 0.0)))


def _literal(system: System, pairs: bool) -> System:
    def widen(array: Array) -> np.ndarray:
        return np.asarray(array, complex if np.iscomplexobj(array) else float)

    host = jax.tree.map(widen, system)
    return real_system(host) if pairs else host


def _bound(system: AnySystem, pairs: bool) -> float:
    """The sum of all states' norms; of a `MultiSISO` that of the channel where it is largest."""
    share = 2.0 if pairs and system.conj_sym else 1.0
    norms = np.asarray(hinf_norms(system))
    if isinstance(system, MultiSISO):
        norms = np.bincount(system.channel, weights=norms, minlength=len(system.counts))
        return share * float(np.max(norms))
    return share * float(np.sum(norms))


def _removed(system: AnySystem, keep: Bool[np.ndarray, " P"]) -> AnySystem:
    kept = kept_index(keep, system.states)
    return system.keep(~np.isin(np.arange(system.states), kept))


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


def _trace_form(
    left: Complex[Array, "H P"], gram: Complex[Array, "P P"], right: Complex[Array, "H P"]
) -> float:
    return float(((left @ gram) * right.conj()).sum().real)
