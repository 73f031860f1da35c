"""Balanced truncation: the directions of the state space that few inputs reach and few outputs see.

Host float64, on the real-signal system in which every state has its conjugate: `2P` real
dimensions. What is left is diagonalized again, so that it is a diagonal system as before; a complex
pair of poles takes one state, a real pole takes one as well. Two directions of time count as one
system with the outputs of both.

The controllability Gramian is that of white noise, in closed form, unless `gramians` are given: those
of real data come from `lastax.calibration.empirical_gramians`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax.ssm._multi_siso import AnySystem, MultiSISO, channel_systems, joined_channels
from lastax.ssm._system import System, real_system

# Directions below this share of the largest singular value are rounding.
_NEGLIGIBLE = 1e-13


# Controllability Gramians in the real coordinates `sqrt(2) [Re x; Im x]`: one for a `System`, one per
# channel for a `MultiSISO`.
Gramians = Sequence[Float[np.ndarray, "n n"]]


class _Balanced(NamedTuple):
    """Real coordinates ordered by what they are worth, `A_r = left A right`."""

    singular_values: Float[np.ndarray, " n"]
    A: Float[np.ndarray, "n n"]
    B: Float[np.ndarray, "n H"]
    C: Float[np.ndarray, "K n"]


def hankel_singular_values(
    system: System, *, gramian: Float[np.ndarray, "n n"] | None = None
) -> Float[np.ndarray, " n"]:
    """Hankel singular values of the real-signal system, descending, `2P` of them.

    The gain from past inputs to future outputs along each direction of the state space. Cutting
    all after the first `r` costs between the next one and twice the sum of the rest in the
    H-infinity norm. Moore, 1981; Glover, 1984.

    Raises:
        ValueError: if a state has `|lam| >= 1`.
    """
    found = _balance(system, gramian).singular_values
    return np.concatenate([found, np.zeros(2 * system.states - len(found))])


def balanced_truncation(
    system: AnySystem, keep: Bool[np.ndarray, " P"], *, gramians: Gramians | None = None
) -> AnySystem:
    """A system of as many states as `keep` has, or a few less, by balanced truncation.

    As many real dimensions are kept as these states can hold: twice as many if all poles come out
    complex, fewer if some come out real. Of a `MultiSISO` each channel is cut by itself. With a
    Gramian of real data a pole may come out unstable; so many dimensions are passed over.

    Raises:
        ValueError: if a state has `|lam| >= 1`.
    """
    keep = np.asarray(keep)
    if isinstance(system, MultiSISO):
        reached = gramians or [None] * len(system.counts)
        budgets = np.bincount(system.channel[keep], minlength=len(system.counts))
        parts = [
            _truncate(part, int(k), gramian)
            for part, k, gramian in zip(channel_systems(system), budgets, reached, strict=True)
        ]
        return joined_channels(system, parts)
    return _truncate(system, int(keep.sum()), None if gramians is None else gramians[0])


def _balance(system: System, reached: np.ndarray | None) -> _Balanced:
    if np.any(np.abs(system.lam) >= 1):
        raise ValueError(
            "balanced truncation: a state has |lam| >= 1, which no balancing is defined for"
        )
    literal = real_system(
        _with(
            system,
            lam=np.asarray(system.lam, complex),
            B=np.asarray(system.B, complex),
            C=np.asarray(system.C, complex),
            C_reverse=None if system.C_reverse is None else np.asarray(system.C_reverse, complex),
        )
    )
    lam, B, outputs = literal.lam, literal.B, _outputs(literal)
    seen = (outputs.conj().T @ outputs) / (1 - lam[:, None].conj() * lam[None, :])
    # Real coordinates: a state and its conjugate become sqrt(2) times real and imaginary part.
    P = system.states
    one: Any = np.eye(P)
    to_real = np.block([[one, one], [-1j * one, 1j * one]]) / np.sqrt(2)
    from_real = to_real.conj().T
    if reached is None:
        white = (B @ B.conj().T) / (1 - lam[:, None] * lam[None, :].conj())
        reached = (to_real @ white @ from_real).real
    input_root = _root(reached)
    output_root = _root((to_real @ seen @ from_real).real)
    U, values, Vt = np.linalg.svd(output_root.T @ input_root)
    rank = int(np.sum(values > _NEGLIGIBLE * values[0])) if values[0] > 0 else 0
    scale = values[:rank] ** -0.5
    right = input_root @ Vt[:rank].T * scale
    left = (output_root @ U[:, :rank] * scale).T
    A = (to_real * lam[None, :]) @ from_real
    return _Balanced(
        values[:rank],
        left @ A.real @ right,
        left @ (to_real @ B).real,
        (outputs @ from_real).real @ right,
    )


def _truncate(system: System, states: int, reached: np.ndarray | None) -> System:
    if states == 0:
        return system.keep(np.zeros(system.states, bool))
    balanced = _balance(system, reached)
    best: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    # Fewer dimensions may take more states, if more poles come out real: the first that fits best.
    for order in range(min(2 * states, len(balanced.singular_values)), 0, -1):
        found = _diagonal(balanced, order, system.conj_sym)
        if np.any(np.abs(found[0]) >= 1):
            continue
        if len(found[0]) <= states and (best is None or len(found[0]) > len(best[0])):
            best = found
        if best is not None and (len(best[0]) == states or order <= states):
            break
    if best is None:
        return system.keep(np.arange(system.states) == 0)
    lam, B, outputs = best
    H = system.C.shape[0]
    return _with(
        system,
        lam=lam,
        B=B,
        C=outputs[:H],
        C_reverse=None if system.C_reverse is None else outputs[H:],
        D=np.asarray(system.D),
    )


def _diagonal(
    balanced: _Balanced, order: int, conj_sym: bool
) -> tuple[Complex[np.ndarray, " k"], Complex[np.ndarray, "k H"], Complex[np.ndarray, "K k"]]:
    """The leading dimensions in coordinates of their own poles, one of each pair."""
    lam, X = np.linalg.eig(balanced.A[:order, :order])
    B = np.linalg.solve(X, balanced.B[:order].astype(complex))
    C = balanced.C[:, :order] @ X.astype(complex)
    # Real matrices give conjugates in exact pairs, and real poles with no imaginary part at all.
    stored = lam.imag <= 0
    lam, B, C = lam[stored], B[stored], C[:, stored]
    # A pair answers 2 Re(C x); a layer that stores pairs adds the 2 itself.
    factor = np.where(lam.imag < 0, 2.0, 1.0) / (2.0 if conj_sym else 1.0)
    return lam.astype(complex), B, C * factor


def _with(system: Any, **arrays: Any) -> Any:
    """The system with these arrays, which are numpy's."""
    return dataclasses.replace(system, **arrays)


def _root(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """A factor `R` with `R R^T = gram`, of a matrix that may be singular."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0))


def _outputs(system: System) -> Complex[np.ndarray, "K P"]:
    if system.C_reverse is None:
        return np.asarray(system.C)
    return np.concatenate([system.C, system.C_reverse])
