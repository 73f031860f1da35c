"""Weights that let the states that are left carry what was removed: closed forms on moments.

All regressions are on second moments alone and in host float64. Ridges pull toward the weights as
they are, so a refit never raises the residual of the rows that the moments were taken from.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from lastax._elimination import RIDGE, unit_scale

# Least share of an input's power that counts as not explained by the features.
_LEAST_UNEXPLAINED = 1e-9
# What `refit_head` chooses from; infinity leaves the weights.
HEAD_RIDGES = (*np.logspace(-4, 4, 33).tolist(), float("inf"))


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean products of `n` independent regressions `y = Phi W + u D`: all that a refit needs.

    A layer with one system for all channels is one regression of `T = H` targets; a layer with a
    system a channel is `H` regressions of one target each. `gram` holds the mean of `z z^T` for
    the rows `z = [phi, u, y]`, the features `phi` having `width` neighboring columns a state.
    `D[n, i, j]` leads from input `i` to target `j`.
    """

    gram: Float[np.ndarray, "n Z Z"]
    width: int
    targets: int
    rows: int

    @classmethod
    def of_rows(
        cls,
        features: Float[np.ndarray, "n R M"],
        u: Float[np.ndarray, "n R T"],
        y: Float[np.ndarray, "n R T"],
        width: int,
    ) -> Moments:
        """Those of `R` rows, widened to float64."""
        z = np.concatenate([features, u, y], axis=2, dtype=np.float64)
        # One by one: numpy knows that a matrix times its own transpose is symmetric.
        gram = np.stack([part.T @ part for part in z]) / max(z.shape[1], 1)
        return cls(gram, width, u.shape[2], z.shape[1])

    def __add__(self, other: Moments) -> Moments:
        """Those of the rows of both."""
        rows = self.rows + other.rows
        share = self.rows / max(rows, 1)
        gram = share * self.gram + (1 - share) * other.gram
        return dataclasses.replace(self, gram=gram, rows=rows)

    @property
    def columns(self) -> int:
        """Number of feature columns `M`."""
        return self.gram.shape[1] - 2 * self.targets

    @property
    def features(self) -> Float[np.ndarray, "n M M"]:
        """Mean of `phi phi^T`."""
        return self.gram[:, : self.columns, : self.columns]

    @property
    def with_inputs(self) -> Float[np.ndarray, "n M T"]:
        """Mean of `phi u^T`."""
        return self.gram[:, : self.columns, self._input]

    @property
    def with_targets(self) -> Float[np.ndarray, "n M T"]:
        """Mean of `phi y^T`."""
        return self.gram[:, : self.columns, self._target]

    @property
    def energy(self) -> Float[np.ndarray, "n T"]:
        """Mean square of each target."""
        return np.einsum("ntt->nt", self.gram[:, self._target, self._target])

    def targets_without(self, D: Float[np.ndarray, "n T T"]) -> Float[np.ndarray, "n M T"]:
        """Mean of `phi (y - u D)^T`: what is left for the states."""
        return self.with_targets - self.with_inputs @ D

    def without_inputs(
        self, D: Float[np.ndarray, "n T T"]
    ) -> tuple[Float[np.ndarray, "n M M"], Float[np.ndarray, "n M T"]]:
        """As `features` and `targets_without(D)`, of what no full `D` makes of the inputs."""
        inputs = self.gram[:, self._input, self._input]
        # Channels that copy each other are no reason to fail.
        least = _LEAST_UNEXPLAINED * np.trace(inputs, axis1=1, axis2=2)[:, None, None]
        ridge = np.maximum(least, np.finfo(float).tiny) * np.eye(self.targets)
        left = self.gram[:, self._input, self._target] - inputs @ D
        by_inputs = self.with_inputs @ np.linalg.inv(inputs + ridge)
        features = self.features - by_inputs @ self.with_inputs.mT
        return features, self.targets_without(D) - by_inputs @ left

    def residual(
        self, W: Float[np.ndarray, "n M T"], D: Float[np.ndarray, "n T T"]
    ) -> Float[np.ndarray, "n T"]:
        """Mean square of `y - Phi W - u D`, for each target."""
        map_to_residual = np.concatenate(
            [-W, -D, np.broadcast_to(np.eye(self.targets), D.shape)], axis=1
        )
        return np.maximum(np.sum(map_to_residual * (self.gram @ map_to_residual), axis=1), 0)

    @property
    def _input(self) -> slice:
        return slice(self.columns, self.columns + self.targets)

    @property
    def _target(self) -> slice:
        return slice(self.columns + self.targets, None)


def state_energies(moments: Moments, W: Float[np.ndarray, "n M T"]) -> Float[np.ndarray, "n N"]:
    """Mean square of what each state alone adds to the output, summed over its targets.

    `tr(W_i^T G_ii W_i)`: the energy that a state has on real inputs, whatever its norm is. As a
    score (`layer_adaptive`, `select_global`) it is the best there is that needs no refit.
    """
    regressions, columns, targets = W.shape
    shape = (regressions, columns // moments.width, moments.width)
    gram = np.einsum("npapb->npab", moments.features.reshape(*shape, *shape[1:]))
    weights = W.reshape(*shape, targets)
    return np.einsum("npat,npab,npbt->np", weights, gram, weights)


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
    unexplained = np.maximum(unexplained, _LEAST_UNEXPLAINED * power)
    wanted = input_left - np.sum(to_inputs * V, axis=1)
    silent = unexplained <= 0
    change = np.where(silent, 0.0, wanted / np.where(silent, 1.0, unexplained))
    refitted = start.copy()
    refitted[:, some] += scale[..., None] * (V - U * change[:, None, :])
    return refitted, D + change[:, :, None] * np.eye(moments.targets)


def refit_full_outputs(
    moments: Moments,
    keep: Bool[np.ndarray, "n N"],
    W: Float[np.ndarray, "n M T"],
    D: Float[np.ndarray, "n T T"],
    *,
    ridge: float = RIDGE,
) -> tuple[Float[np.ndarray, "n M T"], Float[np.ndarray, "n T T"]]:
    """As `refit_outputs`, but with a full matrix `D` from every input to every output.

    It is not free: `full_D_states` says how many states have as many weights.
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
    inputs = moments.gram[:, moments._input]
    power = np.einsum("ntt->nt", inputs[:, :, moments._input])
    input_targets = np.einsum("ntt->nt", inputs[:, :, moments._target])
    input_targets = input_targets - np.einsum("nij,nji->ni", inputs[:, :, moments._input], D)
    return left, input_targets - np.sum(with_inputs * W, axis=1), power
