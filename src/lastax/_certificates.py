"""How far a system moves when it is made smaller: exact norms of the difference, and bounds.

Host float64. Where states are only taken out, the difference is the system of the removed states
alone, and `D` plays no part; where what is left was changed as well (`certify`) it is a system of
both. These numbers are about one layer's operator; they say nothing of what a network answers. The
channels of a `MultiSISO` work side by side: its H-infinity norm is the largest of theirs, its H2
norm the root of the sum of their squares.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Complex

from lastax._balance import hankel_singular_values
from lastax._multi_siso import AnySystem, MultiSISO, channel_systems, joined_channels
from lastax._norms import hinf_norms
from lastax._sweep import peak_gains
from lastax._system import System, kept_index, real_system, transfer_function
from lastax._typing import Array

_FREQUENCIES_AT_ONCE = 256
_EXACT_AT_ONCE = 32


class Certificate(NamedTuple):
    """How far a layer's operator moved: the norms of the difference, and a bound of the first.

    `hinf` is the largest error per unit of input energy, `h2` the root-mean-square error under
    white noise of unit power. `hinf_whole` and `h2_whole` are the same norms of what the layer's
    states did before.
    """

    hinf: float
    bound: float
    h2: float
    hinf_whole: float
    h2_whole: float

    def relative(self) -> tuple[float, float, float]:
        """`hinf`, `bound` and `h2` as shares of the norms before."""
        hinf, h2 = (norm if norm > 0 else 1.0 for norm in (self.hinf_whole, self.h2_whole))
        return self.hinf / hinf, self.bound / hinf, self.h2 / h2


def certify(system: AnySystem, reduced: AnySystem) -> Certificate:
    """How far `reduced` is from `system`, whatever was done to its states, `C` and `D`.

    The bound takes for each channel the smaller of two: the sum of the norms of the difference's
    states, and twice the sum of its Hankel singular values (Glover, 1984), that of each direction
    by itself; what `D` changed is added to both.

    Raises:
        ValueError: if the systems have different channels or directions.
    """
    moved = difference(system, reduced)
    return Certificate(
        hinf_norm(moved, direct=True),
        _bound(moved, pairs=True, direct=True),
        h2_norm(moved, direct=True),
        hinf_norm(system),
        h2_norm(system),
    )


def difference(system: AnySystem, reduced: AnySystem) -> AnySystem:
    """The system that answers what `system` does less what `reduced` does, `D` included.

    States with equal `lam` and `B` in both become one; they vanish if `C` is equal as well. Arrays
    are numpy's.

    Raises:
        ValueError: if the systems have different channels or directions.
    """
    kinds = [(type(s), len(s.D), s.C_reverse is None, s.conj_sym) for s in (system, reduced)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            "difference: the systems must be of one kind, with equal channels, directions and use "
            f"of conjugate pairs; they are {kinds[0]} and {kinds[1]}"
        )
    if isinstance(system, MultiSISO) and isinstance(reduced, MultiSISO):
        channels = zip(channel_systems(system), channel_systems(reduced), strict=True)
        return joined_channels(system, [_difference(*pair) for pair in channels])
    assert isinstance(system, System)
    assert isinstance(reduced, System)
    return _difference(system, reduced)


def error_bound(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """Upper bound of `error_hinf`: the sum of the removed states' norms, twice that for pairs."""
    removed = _removed(system, keep)
    if isinstance(removed, MultiSISO):
        return max(_sum_of_norms(part, pairs) for part in channel_systems(removed))
    return _sum_of_norms(removed, pairs)


def error_hinf(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H-infinity norm of what the removed states did: the largest error per unit of input."""
    return hinf_norm(_removed(system, keep), pairs=pairs)


def error_h2(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H2 norm of what the removed states did: the root-mean-square error under white noise."""
    return h2_norm(_removed(system, keep), pairs=pairs)


def hinf_norm(system: AnySystem, *, pairs: bool = True, direct: bool = False) -> float:
    """Largest singular value over all frequencies; infinity if unstable.

    By a sweep that resolves every pole, refined: about 1e-12 of the value. With `pairs` the
    operator on real signals that the layer applies; without, the literal complex map to `C x`. `D`
    counts if `direct` says so.
    """
    if isinstance(system, MultiSISO):
        largest = 0.0
        parts = [(_bound(part, pairs, direct), part) for part in channel_systems(system)]
        # No channel exceeds its bound: most need no sweep.
        for bound, part in sorted(parts, key=lambda pair: -pair[0]):
            if bound <= largest:
                break
            largest = max(largest, hinf_norm(part, pairs=pairs, direct=direct))
        return largest
    literal = _literal(system, pairs)
    D: Any = np.asarray(literal.direct) * direct
    if literal.states == 0:
        return _spectral_norm(D)
    if np.any(np.abs(literal.lam) >= 1):
        return float("inf")
    if not D.any():
        literal = _compressed(literal)
        D = np.asarray(literal.direct)

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


def h2_norm(system: AnySystem, *, pairs: bool = True, direct: bool = False) -> float:
    """Root of the impulse response's total energy; infinity if unstable.

    In closed form by the Gramian `X_ij = B_i B_j^H / (1 - lam_i conj(lam_j))`: `tr(C X C^H)`, for
    each direction, and the cross terms of the one step in which both directions answer, and `D`
    with `direct`.
    """
    if isinstance(system, MultiSISO):
        channels = channel_systems(system)
        return float(
            np.linalg.norm([h2_norm(part, pairs=pairs, direct=direct) for part in channels])
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
    if direct:
        at_once = C if C_reverse is None else C + C_reverse
        D = np.asarray(literal.direct)
        energy += float(np.sum(D**2) + 2 * np.sum(D * (at_once @ B).real))
    return float(np.sqrt(max(energy, 0.0)))


def _literal(system: System, pairs: bool) -> System:
    def widen(array: Array) -> np.ndarray:
        return np.asarray(array, complex if np.iscomplexobj(array) else float)

    host = jax.tree.map(widen, system)
    return real_system(host) if pairs else host


def _difference(system: System, reduced: System) -> System:
    one, other = _literal(system, pairs=False), _literal(reduced, pairs=False)
    index = {_identity(other, i): i for i in range(other.states)}
    # Each state of the smaller one is taken from one of the larger.
    pairs = [(i, index.pop(_identity(one, i), None)) for i in range(one.states)]
    new = sorted(index.values())

    def maps(own: Any, their: Any) -> Any:
        if own is None:
            return None
        left = np.array(own)
        for i, j in pairs:
            if j is not None:
                left[:, i] -= their[:, j]
        return np.concatenate([left, -their[:, new]], axis=1)

    arrays: dict[str, Any] = {
        "lam": np.concatenate([one.lam, other.lam[np.array(new, int)]]),
        "B": np.concatenate([one.B, other.B[np.array(new, int)]]),
        "C": maps(one.C, other.C),
        "C_reverse": maps(one.C_reverse, other.C_reverse),
        "D": one.D - other.D if one.D.ndim == other.D.ndim else one.direct - other.direct,
    }
    moved = dataclasses.replace(one, **arrays)
    heard = [np.any(C != 0, axis=0) for C in (moved.C, moved.C_reverse) if C is not None]
    return moved.keep(np.any(heard, axis=0))


def _identity(system: System, state: int) -> bytes:
    lam, B = np.asarray(system.lam[state], complex), np.asarray(system.B[state], complex)
    return lam.tobytes() + B.tobytes()


def _bound(system: AnySystem, pairs: bool, direct: bool = False) -> float:
    """The smaller of two bounds of the norm; of a `MultiSISO` that of the largest channel."""
    if isinstance(system, MultiSISO):
        return max(_bound(part, pairs, direct) for part in channel_systems(system))
    through = _spectral_norm(np.asarray(system.D, float)) if direct else 0.0
    total = _sum_of_norms(system, pairs)
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


def _sum_of_norms(system: System, pairs: bool) -> float:
    share = 2.0 if pairs and system.conj_sym else 1.0
    return share * float(np.sum(np.asarray(hinf_norms(system))))


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
