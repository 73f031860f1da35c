"""How far a system moves when it is made smaller: exact norms of the difference, and bounds.

Host float64. Where states are only taken out, the difference is the system of the removed states
alone, and `D` plays no part; where what is left was changed as well (`certify`) it is a system of
both. These numbers are about one layer's operator; they say nothing of what a network answers. The
channels of a `MultiSISO` work side by side: its H-infinity norm is the largest of theirs, its H2
norm the root of the sum of their squares.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from lastax.analysis._system_norms import (
    h2_norm,
    hinf_norm,
    literal_system,
    norm_bound,
    sum_of_norms,
)
from lastax.ssm._multi_siso import AnySystem, MultiSISO, channel_systems, joined_channels
from lastax.ssm._system import System, kept_index


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
        hinf_norm(moved, feedthrough=True),
        norm_bound(moved, pairs=True, feedthrough=True),
        h2_norm(moved, feedthrough=True),
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
        return max(sum_of_norms(part, pairs) for part in channel_systems(removed))
    return sum_of_norms(removed, pairs)


def error_hinf(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H-infinity norm of what the removed states did: the largest error per unit of input."""
    return hinf_norm(_removed(system, keep), pairs=pairs)


def error_h2(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H2 norm of what the removed states did: the root-mean-square error under white noise."""
    return h2_norm(_removed(system, keep), pairs=pairs)


def _difference(system: System, reduced: System) -> System:
    one, other = literal_system(system, pairs=False), literal_system(reduced, pairs=False)
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
        "D": one.D - other.D
        if one.D.ndim == other.D.ndim
        else one.feedthrough_matrix - other.feedthrough_matrix,
    }
    moved = dataclasses.replace(one, **arrays)
    heard = [np.any(C != 0, axis=0) for C in (moved.C, moved.C_reverse) if C is not None]
    return moved.keep(np.any(heard, axis=0))


def _identity(system: System, state: int) -> bytes:
    lam, B = np.asarray(system.lam[state], complex), np.asarray(system.B[state], complex)
    return lam.tobytes() + B.tobytes()


def _removed(system: AnySystem, keep: Bool[np.ndarray, " P"]) -> AnySystem:
    kept = kept_index(keep, system.states)
    return system.keep(~np.isin(np.arange(system.states), kept))
