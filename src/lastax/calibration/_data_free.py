"""Compensation of removed states without data: at frequency zero, or for white noise."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Complex, Float

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
    """Remove states and add their gain at frequency zero to `D`.

    `D_h` grows by `s Re(sum_i C_hi B_ih / (1 - lam_i))`, summed over the removed states, so the
    response of each channel to a constant input of the same channel stays. If `D` is dense, all
    responses to constant inputs stay. Liu & Anderson, Int. J. Control 1989.

    Args:
        system: the system.
        keep: mask of the states to keep.

    Raises:
        ValueError: if a removed state has `|lam| >= 1`; its gain at frequency zero is not finite.
    """
    removed = system.keep(~np.isin(np.arange(system.states), kept_indices(keep, system.states)))
    lam, B = np.asarray(removed.lam, complex), np.asarray(removed.B, complex)
    if np.any(np.abs(lam) >= 1):
        raise ValueError("singular_perturbation: cannot remove states with |lam| >= 1; keep them")
    C = np.asarray(removed.C, complex)
    if removed.C_reverse is not None:
        C = C + np.asarray(removed.C_reverse, complex)
    s = 2.0 if system.conj_sym else 1.0
    gain = s * (C @ (B / (1 - lam)[:, None])).real
    gain = gain if system.D.ndim == 2 else np.diag(gain)
    D = system.D + gain.astype(system.D.dtype)
    return dataclasses.replace(system.keep(keep), D=D)


def white_refit(system: System, keep: Bool[np.ndarray, " P"]) -> System:
    """Remove states and fit `C` and `D` for white noise as the input.

    In experiments this was no better than truncation, since real inputs are far from white. `refit`
    uses real inputs.

    Args:
        system: the system.
        keep: mask of the states to keep.
    """
    index = kept_indices(keep, system.states)
    kept = np.isin(np.arange(system.states), index)[None]
    weights, feedthrough = refit_outputs(
        white_moments(system), kept, output_weights(system), feedthrough_weights(system)
    )
    D = feedthrough_from_weights(feedthrough, dense=system.D.ndim == 2)
    refitted = with_output_weights(system, weights, D)
    assert isinstance(refitted, System)
    return refitted.keep(keep)


def white_moments(system: System) -> Moments:
    """Moments for white noise of unit power in every channel, in closed form.

    The target is the output of the system. `E[x x^H]` has the entries `B_i B_j^H / (1 - lam_i
    conj(lam_j))`, `E[x x^T]` is the same without the conjugates, and `E[x u^T] = B`. The states of
    the two directions share only the current input, so `E[x x'^H] = B B^H`.

    Raises:
        ValueError: if a state has `|lam| >= 1`; its second moment is not finite.
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


def _real_products(
    hermitian: Complex[np.ndarray, "P P"], symmetric: Complex[np.ndarray, "P P"]
) -> Float[np.ndarray, "P 2 P 2"]:
    """`E[a_i b_j]` with `a` and `b` each `Re x` or `-Im x`; axes are state, part, state, part."""
    re_re = (hermitian + symmetric).real / 2
    im_im = (hermitian - symmetric).real / 2
    im_re = (symmetric + hermitian).imag / 2
    re_im = (symmetric - hermitian).imag / 2
    return np.stack(
        [np.stack([re_re, -re_im], axis=-1), np.stack([-im_re, im_im], axis=-1)], axis=1
    )
