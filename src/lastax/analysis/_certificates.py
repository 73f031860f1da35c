"""Error of a reduced system: exact norms of the difference, and bounds.

All functions compute in float64 on the host. If states are only removed, the difference is the
system of the removed states, and `D` cancels. If the remaining states or `D` also changed
(`certify`), the difference has the states of both systems.

The results describe the operator of one layer. They do not bound the error of a network's output.
The channels of a `MultiSISO` are independent: its H-infinity norm is the maximum over its channels,
and its H2 norm is the root of the sum of their squares.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from lastax.analysis._single import check_concrete, check_single
from lastax.analysis._system_norms import (
    h2_norm,
    hinf_norm,
    literal_system,
    norm_bound,
    sum_of_norms,
)
from lastax.ssm._multi_siso import AnySystem, MultiSISO, channel_systems, joined_channels
from lastax.ssm._system import System, kept_indices, replace_arrays


class Certificate(NamedTuple):
    """Norms of the difference between a layer's original and its reduced system.

    Attributes:
        hinf: H-infinity norm of the difference, the largest error per unit of input energy.
        bound: upper bound of `hinf`.
        h2: H2 norm of the difference: the root-mean-square error, over all output channels
            together, for white noise of variance 1 in each input channel.
        hinf_original: H-infinity norm of the original system without `D`.
        h2_original: H2 norm of the original system without `D`.
    """

    hinf: float
    bound: float
    h2: float
    hinf_original: float
    h2_original: float

    def relative(self) -> tuple[float, float, float]:
        """`hinf`, `bound` and `h2`, divided by the norms of the original system."""
        hinf, h2 = (norm if norm > 0 else 1.0 for norm in (self.hinf_original, self.h2_original))
        return self.hinf / hinf, self.bound / hinf, self.h2 / h2


def certify(system: AnySystem, reduced: AnySystem) -> Certificate:
    """Norms of the difference between two systems, for any change of states, `C` and `D`.

    The bound is the smaller of two bounds, per channel: the sum of the H-infinity norms of the
    difference's states, and twice the sum of its Hankel singular values (Glover, 1984), added over
    the directions. Both include the norm of the change of `D`.

    Args:
        system: original system.
        reduced: system that replaces it.

    Raises:
        ValueError: if class, channels, directions or `conj_sym` of the systems differ.
    """
    error = _difference("certify", system, reduced)
    return Certificate(
        hinf_norm(error, feedthrough=True),
        norm_bound(error, pairs=True, feedthrough=True),
        h2_norm(error, feedthrough=True),
        hinf_norm(system),
        h2_norm(system),
    )


def difference(system: AnySystem, reduced: AnySystem) -> AnySystem:
    """The system whose output is that of `system` minus that of `reduced`, with NumPy arrays.

    States with equal `lam` and `B` in both systems are merged. They vanish if `C` is also equal.

    Args:
        system: original system.
        reduced: system that replaces it.

    Raises:
        ValueError: if class, channels, directions or `conj_sym` of the systems differ.
    """
    return _difference("difference", system, reduced)


def error_bound(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """Upper bound of `error_hinf`: the sum of the H-infinity norms of the removed states.

    Conjugate pairs count twice. For a `MultiSISO` it is the maximum over the channels.

    Args:
        system: original system.
        keep: mask of the states that remain, shape `(P,)`.
        pairs: as in `hinf_norm`.
    """
    removed = _removed(system, keep)
    if isinstance(removed, MultiSISO):
        # Unlike the built-in `max`, this keeps NaN.
        return float(np.max([sum_of_norms(part, pairs) for part in channel_systems(removed)]))
    return sum_of_norms(removed, pairs)


def error_hinf(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H-infinity norm of the removed states: the largest error per unit of input energy.

    Args:
        system: original system.
        keep: mask of the states that remain, shape `(P,)`.
        pairs: as in `hinf_norm`.
    """
    return hinf_norm(_removed(system, keep), pairs=pairs)


def error_h2(system: AnySystem, keep: Bool[np.ndarray, " P"], *, pairs: bool = True) -> float:
    """H2 norm of the removed states: the root-mean-square error of `Certificate.h2`.

    Args:
        system: original system.
        keep: mask of the states that remain, shape `(P,)`.
        pairs: as in `h2_norm`.
    """
    return h2_norm(_removed(system, keep), pairs=pairs)


def _difference(function: str, system: AnySystem, reduced: AnySystem) -> AnySystem:
    for one in (system, reduced):
        check_single(function, one)
        check_concrete(function, one)
    described = _description(system), _description(reduced)
    if described[0] != described[1]:
        raise ValueError(
            f"{function}: the systems must have the same class, channels, directions and conj_sym; "
            f"got {described[0]} and {described[1]}"
        )
    if isinstance(system, MultiSISO) and isinstance(reduced, MultiSISO):
        channels = zip(channel_systems(system), channel_systems(reduced), strict=True)
        return joined_channels(system, [_subtract(*pair) for pair in channels])
    assert isinstance(system, System)
    assert isinstance(reduced, System)
    return _subtract(system, reduced)


def _description(system: AnySystem) -> str:
    direction = "unidirectional" if system.C_reverse is None else "bidirectional"
    return (
        f"a {direction} {type(system).__name__} with {len(system.D)} channels and "
        f"conj_sym={system.conj_sym}"
    )


def _subtract(system: System, reduced: System) -> System:
    original, other = literal_system(system, pairs=False), literal_system(reduced, pairs=False)
    # Several states of a system may be equal.
    unmatched: dict[bytes, list[int]] = {}
    for j in range(other.states):
        unmatched.setdefault(_identity(other, j), []).append(j)
    # Each state of `reduced` is matched with at most one state of `system`.
    pairs = []
    for i in range(original.states):
        equal = unmatched.get(_identity(original, i))
        if equal:
            pairs.append((i, equal.pop(0)))
    new = np.array(sorted(itertools.chain.from_iterable(unmatched.values())), int)

    def subtract_outputs(C: np.ndarray, C_reduced: np.ndarray) -> np.ndarray:
        C = np.array(C)
        for i, j in pairs:
            C[:, i] -= C_reduced[:, j]
        return np.concatenate([C, -C_reduced[:, new]], axis=1)

    C = subtract_outputs(np.asarray(original.C), np.asarray(other.C))
    C_reverse = None
    if original.C_reverse is not None and other.C_reverse is not None:
        C_reverse = subtract_outputs(np.asarray(original.C_reverse), np.asarray(other.C_reverse))
    D, D_reduced = original.D, other.D
    if D.ndim != D_reduced.ndim:
        D, D_reduced = original.feedthrough_matrix, other.feedthrough_matrix
    error = replace_arrays(
        original,
        lam=np.concatenate([original.lam, other.lam[new]]),
        B=np.concatenate([original.B, other.B[new]]),
        C=C,
        C_reverse=C_reverse,
        D=np.asarray(D - D_reduced),
    )
    has_output = np.any(C != 0, axis=0)
    if C_reverse is not None:
        has_output |= np.any(C_reverse != 0, axis=0)
    return error.keep(has_output)


def _identity(system: System, state: int) -> bytes:
    lam, B = np.asarray(system.lam[state], complex), np.asarray(system.B[state], complex)
    return lam.tobytes() + B.tobytes()


def _removed(system: AnySystem, keep: Bool[np.ndarray, " P"]) -> AnySystem:
    kept = kept_indices(keep, system.states)
    return system.keep(~np.isin(np.arange(system.states), kept))
