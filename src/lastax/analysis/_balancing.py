"""Balanced truncation: remove directions of the state space that are hard to reach or to observe.

All functions compute in float64 on the host, on the real system in which every state has its
conjugate: `2 P` real dimensions. The truncated system is diagonalized again, with one stored state
per complex pair of poles and one per real pole. A bidirectional system is treated as one system
with the outputs of both directions.

The controllability Gramian is that of white noise, in closed form, unless an empirical Gramian from
`lastax.calibration.empirical_gramians` is given.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax.analysis._single import check_concrete, check_single
from lastax.ssm._multi_siso import AnySystem, MultiSISO, channel_systems, joined_channels
from lastax.ssm._system import System, kept_indices, real_system, replace_arrays

# Controllability Gramians in the real coordinates `sqrt(2) [Re x; Im x]`: one for a `System`, one
# per channel for a `MultiSISO`.
Gramians = Sequence[Float[np.ndarray, "n n"]]

# Directions with a Hankel singular value below this share of the largest one are rounding errors.
_NEGLIGIBLE = 1e-13


class _Balanced(NamedTuple):
    """A system in balanced real coordinates, ordered by Hankel singular value."""

    singular_values: Float[np.ndarray, " n"]
    A: Float[np.ndarray, "n n"]
    B: Float[np.ndarray, "n H"]
    C: Float[np.ndarray, "K n"]


class _Poles(NamedTuple):
    """A diagonal system with one state per real pole and per pair of complex poles."""

    lam: Complex[np.ndarray, " k"]
    B: Complex[np.ndarray, "k H"]
    C: Complex[np.ndarray, "K k"]


def hankel_singular_values(
    system: System, *, gramian: Float[np.ndarray, "n n"] | None = None
) -> Float[np.ndarray, " n"]:
    """The `2 P` Hankel singular values of the real system, in descending order.

    Each value is the gain from past inputs to future outputs along one direction of the state
    space. The H-infinity error of balanced truncation to `r` directions is at least value `r + 1`,
    and at most twice the sum of all values after the first `r`. Moore, IEEE TAC 26, 1981; Glover,
    Int. J. Control 39, 1984.

    Args:
        system: a stable system.
        gramian: controllability Gramian of shape `(2 P, 2 P)`, in the coordinates
            `sqrt(2) [Re x; Im x]`. By default, the Gramian for white noise.

    Raises:
        ValueError: if a state has `|lam| >= 1`.
    """
    check_single("hankel_singular_values", system)
    check_concrete("hankel_singular_values", system)
    values = _balance("hankel_singular_values", system, gramian).singular_values
    return np.concatenate([values, np.zeros(2 * system.states - len(values))])


def balanced_truncation(
    system: AnySystem, keep: Bool[np.ndarray, " P"], *, gramians: Gramians | None = None
) -> AnySystem:
    """Reduce a system by balanced truncation.

    Truncation keeps as many real dimensions as fit into the states. Complex poles need one state
    per two dimensions, real poles one state per dimension. The number of states can therefore be
    slightly smaller than requested. The channels of a `MultiSISO` are truncated independently. With
    an empirical Gramian, the truncated system can be unstable; such orders are skipped.

    Args:
        system: a stable system.
        keep: mask of shape `(P,)`. Only the number of true values matters, per channel for a
            `MultiSISO`.
        gramians: controllability Gramians as in `hankel_singular_values`, one for a `System` and
            one per channel for a `MultiSISO`. By default, the Gramians for white noise.

    Returns:
        The reduced system, with NumPy arrays.

    Raises:
        ValueError: if a state has `|lam| >= 1`, or `keep` is not a boolean mask of the states.
    """
    check_single("balanced_truncation", system)
    check_concrete("balanced_truncation", system)
    kept = kept_indices(keep, system.states)
    if isinstance(system, MultiSISO):
        per_channel = [None] * len(system.counts) if gramians is None else gramians
        budgets = np.bincount(system.channel[kept], minlength=len(system.counts))
        parts = [
            _truncate(part, int(budget), gramian)
            for part, budget, gramian in zip(
                channel_systems(system), budgets, per_channel, strict=True
            )
        ]
        return joined_channels(system, parts)
    return _truncate(system, len(kept), None if gramians is None else gramians[0])


def _truncate(
    system: System, states: int, controllability: Float[np.ndarray, "n n"] | None
) -> System:
    if states == 0:
        return system.keep(np.zeros(system.states, bool))
    balanced = _balance("balanced_truncation", system, controllability)
    best: _Poles | None = None
    # A lower order can need more states, if more of its poles are real. The highest order with the
    # most states that fit is the best.
    for order in range(min(2 * states, len(balanced.singular_values)), 0, -1):
        poles = _diagonalize(balanced, order, system.conj_sym)
        if np.any(np.abs(poles.lam) >= 1):
            continue
        if len(poles.lam) <= states and (best is None or len(poles.lam) > len(best.lam)):
            best = poles
        if best is not None and (len(best.lam) == states or order <= states):
            break
    if best is None:
        return system.keep(np.arange(system.states) == 0)
    H = system.C.shape[0]
    return replace_arrays(
        system,
        lam=best.lam,
        B=best.B,
        C=best.C[:H],
        C_reverse=None if system.C_reverse is None else best.C[H:],
        D=np.asarray(system.D),
    )


def _balance(
    function: str, system: System, controllability: Float[np.ndarray, "n n"] | None
) -> _Balanced:
    if np.any(np.abs(system.lam) >= 1):
        raise ValueError(
            f"{function}: a state has |lam| >= 1; balanced truncation needs a stable system"
        )
    lam, B, C = _real_system_arrays(system)
    observability = (C.conj().T @ C) / (1 - lam[:, None].conj() * lam[None, :])
    # In real coordinates, a state and its conjugate become sqrt(2) Re x and sqrt(2) Im x.
    one = np.eye(system.states)
    to_real = np.block([[one, one], [-1j * one, 1j * one]]) / np.sqrt(2)
    from_real = to_real.conj().T
    if controllability is None:
        white_noise = (B @ B.conj().T) / (1 - lam[:, None] * lam[None, :].conj())
        controllability = (to_real @ white_noise @ from_real).real
    input_root = _root(controllability)
    output_root = _root((to_real @ observability @ from_real).real)
    U, values, Vt = np.linalg.svd(output_root.T @ input_root)
    rank = int(np.sum(values > _NEGLIGIBLE * values.max(initial=0)))
    scale = values[:rank] ** -0.5
    right = input_root @ Vt[:rank].T * scale
    left = (output_root @ U[:, :rank] * scale).T
    A = (to_real * lam[None, :]) @ from_real
    return _Balanced(
        values[:rank],
        left @ A.real @ right,
        left @ (to_real @ B).real,
        (C @ from_real).real @ right,
    )


def _real_system_arrays(system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`lam`, `B` and `C` of the real system in float64, with the outputs of both directions."""
    reverse = None if system.C_reverse is None else np.asarray(system.C_reverse, complex)
    real = real_system(
        replace_arrays(
            system,
            lam=np.asarray(system.lam, complex),
            B=np.asarray(system.B, complex),
            C=np.asarray(system.C, complex),
            C_reverse=reverse,
        )
    )
    directions = [C for C in (real.C, real.C_reverse) if C is not None]
    return np.asarray(real.lam), np.asarray(real.B), np.concatenate(directions)


def _diagonalize(balanced: _Balanced, order: int, conj_sym: bool) -> _Poles:
    """The leading `order` dimensions in the coordinates of their own poles."""
    lam, X = np.linalg.eig(balanced.A[:order, :order])
    B = np.linalg.solve(X, balanced.B[:order].astype(complex))
    C = balanced.C[:, :order] @ X.astype(complex)
    # Complex eigenvalues of a real matrix are exact conjugates, and the imaginary part of real ones
    # is exactly 0.
    stored = lam.imag <= 0
    lam, B, C = lam[stored], B[stored], C[:, stored]
    # The output of a pair is 2 Re(C x). With conj_sym, the system itself applies the factor 2.
    factor = np.where(lam.imag < 0, 2.0, 1.0) / (2.0 if conj_sym else 1.0)
    return _Poles(lam.astype(complex), B, C * factor)


def _root(gramian: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """A factor `R` with `R R^T = gramian`, for a matrix that may be singular."""
    values, vectors = np.linalg.eigh((gramian + gramian.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0))
