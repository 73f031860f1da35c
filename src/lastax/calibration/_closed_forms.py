"""Weights that let the states that are left carry what was removed: closed forms on moments.

All regressions are on second moments alone and in host float64. Ridges pull toward the weights as
they are, so a refit never raises the residual of the rows that the moments were taken from.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from lastax.calibration._elimination import RIDGE, unit_scale
from lastax.calibration._moments import LEAST_UNEXPLAINED, Moments

# What `refit_head` chooses from; infinity leaves the weights.
HEAD_RIDGES = (*np.logspace(-4, 4, 33).tolist(), float("inf"))


def refit_outputs(
    moments: Moments,
    keep: Bool[np.ndarray, "n N"],
    W: Float[np.ndarray, "n M T"],
    D: Float[np.ndarray, "n T T"],
    *,
    ridge: float = RIDGE,
) -> tuple[Float[np.ndarray, "n M T"], Float[np.ndarray, "n T T"]]:
    """Output weights of the kept states and a diagonal in `D`, best for the targets of `moments`.

    Minimizes the mean square of `y - Phi W - u D` over the kept states' rows of `W` and over what
    `D` has on its diagonal, plus `ridge` times the squared change of `W` in units in which columns
    have unit norm. `W` and `D` as given are where it starts from: the result is never worse on
    these moments.

    Returns:
        `W`, zero for states that are not kept, and `D`.
    """
    kept = np.repeat(keep, moments.width, axis=1)
    start = W * kept[..., None]
    # Columns that no regression keeps are left out; those that some do without are zero in these.
    some = np.flatnonzero(kept.any(axis=0))
    scale = (unit_scale(moments.features) * kept)[:, some]
    gram = scale[:, :, None] * moments.features[:, some[:, None], some] * scale[:, None, :]
    to_inputs = scale[..., None] * moments.with_inputs[:, some]
    left, input_left, power = _truncated(moments, start, D)
    solution = np.linalg.solve(
        gram + ridge * np.eye(len(some)),
        np.concatenate([to_inputs, scale[..., None] * left[:, some]], axis=2),
    )
    U, V = solution[..., : moments.targets], solution[..., moments.targets :]
    unexplained = power - np.sum(to_inputs * U, axis=1)
    unexplained = np.maximum(unexplained, LEAST_UNEXPLAINED * power)
    wanted = input_left - np.sum(to_inputs * V, axis=1)
    silent = unexplained <= 0
    change = np.where(silent, 0.0, wanted / np.where(silent, 1.0, unexplained))
    refitted = start.copy()
    refitted[:, some] += scale[..., None] * (V - U * change[:, None, :])
    return refitted, D + change[:, :, None] * np.eye(moments.targets)


def refit_dense_outputs(
    moments: Moments,
    keep: Bool[np.ndarray, "n N"],
    W: Float[np.ndarray, "n M T"],
    D: Float[np.ndarray, "n T T"],
    *,
    ridge: float = RIDGE,
) -> tuple[Float[np.ndarray, "n M T"], Float[np.ndarray, "n T T"]]:
    """As `refit_outputs`, but with a full matrix `D` from every input to every output.

    It is not free: `feedthrough_states` says how many states have as many weights.
    """
    start = W * np.repeat(keep, moments.width, axis=1)[..., None]
    start = np.concatenate([start, D], axis=1)
    size = moments.columns + moments.targets
    gram, cross = moments.gram[:, :size, :size], moments.gram[:, :size, size:]
    inputs = np.ones((len(keep), moments.targets), bool)
    used = np.concatenate([np.repeat(keep, moments.width, axis=1), inputs], axis=1)
    scale = unit_scale(gram) * used
    scaled = scale[:, :, None] * gram * scale[:, None, :] + ridge * np.eye(size)
    left = scale[..., None] * (cross - gram @ start)
    refitted = start + scale[..., None] * np.linalg.solve(scaled, left)
    return refitted[:, : moments.columns], refitted[:, moments.columns :]


def refit_linear(
    gram: Float[np.ndarray, "Z Z"], weight: Float[np.ndarray, "a b"], *, ridge: float
) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, " b"]]:
    """Weight and bias of a linear map `x W + b` that come closest to targets `t`.

    Args:
        gram: mean of `z z^T` for the rows `z = [x, 1, t]`.
        weight: where `W` starts from.
        ridge: on its change, in units of the variance of each input.
    """
    inputs = len(weight)
    x_mean, t_mean = gram[inputs, :inputs], gram[inputs, inputs + 1 :]
    covariance = gram[:inputs, :inputs] - np.outer(x_mean, x_mean)
    cross = gram[:inputs, inputs + 1 :] - np.outer(x_mean, t_mean)
    variance = np.maximum(np.diag(covariance), 0)
    # An input that never varies has no say; 1 is as good as any.
    penalty = np.where(variance > 0, ridge * variance, 1.0)
    change = np.linalg.solve(covariance + np.diag(penalty), cross - covariance @ weight)
    refitted = weight + change
    return refitted, t_mean - x_mean @ refitted


def refit_head(
    x: Float[np.ndarray, "R a"], t: Float[np.ndarray, "R b"], weight: Float[np.ndarray, "a b"]
) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, " b"]]:
    """As `refit_linear`, on rows as few as there are records: the data choose the ridge.

    The one of `HEAD_RIDGES`, in units of the inputs' mean variance, with the least leave-one-out
    error, which has a closed form (Allen, PRESS, Technometrics 1974). With fewer rows than inputs
    a fixed one either follows chance or does too little.
    """
    x_mean, t_mean = x.mean(axis=0), t.mean(axis=0)
    centered, left = x - x_mean, (t - t_mean) - (x - x_mean) @ weight
    U, singular, Vt = np.linalg.svd(centered, full_matrices=False)
    rows, power = len(x), singular**2
    if rows < 2 or power.sum() == 0:
        return weight, t_mean - x_mean @ weight
    best = (np.inf, np.zeros_like(power))
    for ridge in HEAD_RIDGES:
        penalty = ridge * power.sum() / x.shape[1]
        share = power / (power + penalty)
        fitted = U @ (share[:, None] * (U.T @ left))
        leverage = 1 / rows + (U**2) @ share
        error = np.sum(((left - fitted) / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2)
        if error < best[0]:
            best = (float(error), singular / (power + penalty))
    refitted = weight + Vt.T @ (best[1][:, None] * (U.T @ left))
    return refitted, t_mean - x_mean @ refitted


def _truncated(
    moments: Moments, W: np.ndarray, D: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products of features and inputs with what weights leave of the targets; inputs' power."""
    with_inputs = moments.with_inputs
    left = moments.targets_without(D) - moments.features @ W
    inputs = moments.gram[:, moments.input_columns]
    power = np.einsum("ntt->nt", inputs[:, :, moments.input_columns])
    input_targets = np.einsum("ntt->nt", inputs[:, :, moments.target_columns])
    input_targets = input_targets - np.einsum("nij,nji->ni", inputs[:, :, moments.input_columns], D)
    return left, input_targets - np.sum(with_inputs * W, axis=1), power
