"""Making up for removed states without data: at frequency zero, or on average over white noise."""

import dataclasses

import numpy as np
from jaxtyping import Bool

from lastax.calibration._closed_forms import refit_outputs
from lastax.calibration._features import (
    feedthrough_from_weights,
    feedthrough_weights,
    output_weights,
    with_output_weights,
)
from lastax.calibration._moments import Moments
from lastax.ssm._system import System, kept_indices


def singular_perturbation(system: System, keep: Bool[np.ndarray, " P"]) -> System:
    """The system without the other states, whose gain at frequency zero goes into `D`.

    `D_h` grows by `s Re(sum_i C_hi B_ih / (1 - lam_i))` over what is removed: a constant input to a
    channel keeps its effect on that channel. What it does to other channels is lost where `D` is a
    diagonal, and stays where it is a matrix. Liu & Anderson, Int. J. Control 1989.

    Raises:
        ValueError: if a removed state has `|lam| >= 1`: it has no gain at frequency zero.
    """
    removed = system.keep(~np.isin(np.arange(system.states), kept_indices(keep, system.states)))
    lam, B = np.asarray(removed.lam, complex), np.asarray(removed.B, complex)
    if np.any(np.abs(lam) >= 1):
        raise ValueError("singular_perturbation: a state with |lam| >= 1 would be removed")
    C = np.asarray(removed.C, complex)
    if removed.C_reverse is not None:
        C = C + np.asarray(removed.C_reverse, complex)
    s = 2.0 if system.conj_sym else 1.0
    gain = s * (C @ (B / (1 - lam)[:, None])).real
    gain = gain if system.D.ndim == 2 else np.diag(gain)
    D = system.D + gain.astype(system.D.dtype)
    return dataclasses.replace(system.keep(keep), D=D)


def white_refit(system: System, keep: Bool[np.ndarray, " P"]) -> System:
    """The system without the other states, `C` and `D` fitted for white noise as the input.

    In trials no better than plain truncation: real inputs are far from white. `refit` measures.
    """
    index = kept_indices(keep, system.states)
    kept = np.isin(np.arange(system.states), index)[None]
    weights, direct = refit_outputs(
        white_moments(system), kept, output_weights(system), feedthrough_weights(system)
    )
    D = feedthrough_from_weights(direct, whole=system.D.ndim == 2)
    return with_output_weights(system, weights, D).keep(keep)


def white_moments(system: System) -> Moments:
    """Moments under white noise of unit power in every channel, in closed form; no data.

    With the system's own output as target. `E[x x^H] = X` with `X_ij = B_i B_j^H / (1 - lam_i
    conj(lam_j))`, `E[x x^T]` without the conjugates, `E[x u^T] = B`; both directions share the
    current input alone, `E[x x'^H] = B B^H`.

    Raises:
        ValueError: if a state has `|lam| >= 1`: it has no second moment.
    """
    lam, B = np.asarray(system.lam, complex), np.asarray(system.B, complex)
    if np.any(np.abs(lam) >= 1):
        raise ValueError("white_moments: states with |lam| >= 1 have no finite second moment")
    directions = 1 if system.C_reverse is None else 2
    s = 2.0 if system.conj_sym else 1.0
    hermitian, symmetric = B @ B.conj().T, B @ B.T
    same = _real_products(
        hermitian / (1 - lam[:, None] * lam.conj()), symmetric / (1 - lam[:, None] * lam)
    )
    across = _real_products(hermitian, symmetric)
    features = np.empty((system.states, 2 * directions, system.states, 2 * directions))
    for a in range(directions):
        for b in range(directions):
            block = same if a == b else across
            features[:, 2 * a : 2 * a + 2, :, 2 * b : 2 * b + 2] = s**2 * block
    with_inputs = s * np.stack([B.real, -B.imag] * directions, axis=1)
    columns, channels = 2 * directions * system.states, B.shape[1]
    gram = np.eye(columns + channels)
    gram[:columns, :columns] = features.reshape(columns, columns)
    gram[:columns, columns:] = with_inputs.reshape(columns, channels)
    gram[columns:, :columns] = gram[:columns, columns:].T
    weights = np.concatenate([output_weights(system)[0], feedthrough_weights(system)[0]])
    embed = np.concatenate([np.eye(columns + channels), weights], axis=1)
    return Moments((embed.T @ gram @ embed)[None], 2 * directions, channels, 1)


def _real_products(hermitian: np.ndarray, symmetric: np.ndarray) -> np.ndarray:
    """`E[a_i b_j]` for `a, b` among `Re x`, `-Im x`; axes state, part, state, part."""
    re_re = (hermitian + symmetric).real / 2
    im_im = (hermitian - symmetric).real / 2
    im_re = (symmetric + hermitian).imag / 2
    re_im = (symmetric - hermitian).imag / 2
    return np.stack(
        [np.stack([re_re, -re_im], axis=-1), np.stack([-im_re, im_im], axis=-1)], axis=1
    )
