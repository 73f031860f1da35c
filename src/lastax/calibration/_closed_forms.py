"""Closed-form refits: ridge regressions on second moments.

All computations run in float64 on the host. The ridges penalize changes of the weights, so a refit
never raises the residual on the rows that the moments come from.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from lastax.calibration._elimination import RIDGE
from lastax.calibration._moments import LEAST_UNEXPLAINED, Moments
from lastax.calibration._unit_scale import unit_scale

# An input whose variance is a smaller share of its mean square is constant.
_CONSTANT = 1e-12

# Ridges that `refit_head` compares. Infinity keeps the weights.
HEAD_RIDGES = (*np.logspace(-4, 4, 33).tolist(), float("inf"))


def refit_outputs(
    moments: Moments,
    keep: Bool[np.ndarray, "n N"],
    W: Float[np.ndarray, "n M T"],
    D: Float[np.ndarray, "n T T"],
    *,
    ridge: float = RIDGE,
) -> tuple[Float[np.ndarray, "n M T"], Float[np.ndarray, "n T T"]]:
    """Fit the output weights of the kept states and the diagonal of `D`.

    Minimizes the mean square of `y - Phi W - u D` over the rows of `W` that belong to kept states
    and over the diagonal of `D`, plus `ridge` times the squared change of `W`, measured with
    feature columns scaled to unit norm.

    Args:
        moments: moments of the regressions.
        keep: the states that each regression keeps.
        W: output weights to start from.
        D: feedthrough to start from; its off-diagonal entries stay.
        ridge: penalty on the change.

    Returns:
        `W`, zero for removed states, and `D`. The residual on these moments is never larger than
        after truncation.
    """
    kept = np.repeat(keep, moments.width, axis=1)
    start = W * kept[..., None]
    # Columns that no regression keeps are dropped. A regression that does not keep one of the
    # remaining columns has zeros there.
    some = np.flatnonzero(kept.any(axis=0))
    scale = (unit_scale(moments.features, moments.owners) * kept)[:, some]
    gram = scale[:, :, None] * moments.features[:, some[:, None], some] * scale[:, None, :]
    to_inputs = scale[..., None] * moments.with_inputs[:, some]
    residual, input_residual, power = _truncated(moments, start, D)
    solution = np.linalg.solve(
        gram + ridge * np.eye(len(some)),
        np.concatenate([to_inputs, scale[..., None] * residual[:, some]], axis=2),
    )
    U, V = solution[..., : moments.targets], solution[..., moments.targets :]
    unexplained = power - np.sum(to_inputs * U, axis=1)
    unexplained = np.maximum(unexplained, LEAST_UNEXPLAINED * power)
    wanted = input_residual - np.sum(to_inputs * V, axis=1)
    absent = unexplained <= 0
    change = np.where(absent, 0.0, wanted / np.where(absent, 1.0, unexplained))
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
    """Fit the output weights of the kept states and a dense `D`.

    Like `refit_outputs`, but `D` maps every input to every output. `feedthrough_states` tells how
    many states have as many weights as this `D`.
    """
    start = W * np.repeat(keep, moments.width, axis=1)[..., None]
    start = np.concatenate([start, D], axis=1)
    size = moments.columns + moments.targets
    gram, cross = moments.gram[:, :size, :size], moments.gram[:, :size, size:]
    inputs = np.ones((len(keep), moments.targets), bool)
    used = np.concatenate([np.repeat(keep, moments.width, axis=1), inputs], axis=1)
    owners = np.append(moments.owners, np.arange(moments.columns, size))
    scale = unit_scale(gram, owners) * used
    scaled = scale[:, :, None] * gram * scale[:, None, :] + ridge * np.eye(size)
    residual = scale[..., None] * (cross - gram @ start)
    refitted = start + scale[..., None] * np.linalg.solve(scaled, residual)
    return refitted[:, : moments.columns], refitted[:, moments.columns :]


def refit_linear(
    gram: Float[np.ndarray, "Z Z"], weight: Float[np.ndarray, "a b"], *, ridge: float
) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, " b"]]:
    """Fit weight and bias of a linear map `x W + b` to targets `t`.

    Args:
        gram: mean of `z z^T` over the rows `z = [x, 1, t]`.
        weight: weights to start from.
        ridge: penalty on the change of the weights, in units of the variance of each input.

    Returns:
        `W` and `b`.
    """
    inputs = len(weight)
    x_mean, t_mean = gram[inputs, :inputs], gram[inputs, inputs + 1 :]
    covariance = gram[:inputs, :inputs] - np.outer(x_mean, x_mean)
    cross = gram[:inputs, inputs + 1 :] - np.outer(x_mean, t_mean)
    variance, power = np.diag(covariance), np.diag(gram)[:inputs]
    # A constant input does not affect the fit; a large penalty keeps its weight. Its variance is
    # not exactly zero, but a rounding error.
    constant = variance <= _CONSTANT * power
    penalty = np.where(constant, np.where(power > 0, power, 1.0), ridge * variance)
    change = np.linalg.solve(covariance + np.diag(penalty), cross - covariance @ weight)
    refitted = weight + change
    return refitted, t_mean - x_mean @ refitted


def refit_head(
    x: Float[np.ndarray, "R a"], t: Float[np.ndarray, "R b"], weight: Float[np.ndarray, "a b"]
) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, " b"]]:
    """Fit weight and bias of a linear map on few rows, with a ridge chosen from the data.

    Takes the ridge of `HEAD_RIDGES`, in units of the mean variance of the inputs, that has the
    least leave-one-out error. This error has a closed form (Allen, PRESS, Technometrics 1974). With
    fewer rows than inputs a fixed ridge either overfits or changes too little.

    Args:
        x: inputs, one row per record.
        t: targets.
        weight: weights to start from.

    Returns:
        `W` and `b`.
    """
    x_mean, t_mean = x.mean(axis=0), t.mean(axis=0)
    centered, residual = x - x_mean, (t - t_mean) - (x - x_mean) @ weight
    U, singular, Vt = np.linalg.svd(centered, full_matrices=False)
    rows, power = len(x), singular**2
    if rows < 2 or power.sum() == 0:
        return weight, t_mean - x_mean @ weight
    best = (np.inf, np.zeros_like(power))
    for ridge in HEAD_RIDGES:
        penalty = ridge * power.sum() / x.shape[1]
        share = power / (power + penalty)
        fitted = U @ (share[:, None] * (U.T @ residual))
        leverage = 1 / rows + (U**2) @ share
        error = np.sum(((residual - fitted) / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2)
        if error < best[0]:
            best = (float(error), singular / (power + penalty))
    refitted = weight + Vt.T @ (best[1][:, None] * (U.T @ residual))
    return refitted, t_mean - x_mean @ refitted


def _truncated(
    moments: Moments, W: Float[np.ndarray, "n M T"], D: Float[np.ndarray, "n T T"]
) -> tuple[Float[np.ndarray, "n M T"], Float[np.ndarray, "n T"], Float[np.ndarray, "n T"]]:
    """Mean products of features and inputs with the residual, and the power of the inputs."""
    with_inputs = moments.with_inputs
    residual = moments.targets_without(D) - moments.features @ W
    inputs = moments.gram[:, moments.input_columns]
    power = np.einsum("ntt->nt", inputs[:, :, moments.input_columns])
    input_targets = np.einsum("ntt->nt", inputs[:, :, moments.target_columns])
    input_targets = input_targets - np.einsum("nij,nji->ni", inputs[:, :, moments.input_columns], D)
    return residual, input_targets - np.sum(with_inputs * W, axis=1), power
