"""TODO calibration._moments."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

# Least share of an input's power that counts as not explained by the features.
LEAST_UNEXPLAINED = 1e-9


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
        return self.gram[:, : self.columns, self.input_columns]

    @property
    def with_targets(self) -> Float[np.ndarray, "n M T"]:
        """Mean of `phi y^T`."""
        return self.gram[:, : self.columns, self.target_columns]

    @property
    def energy(self) -> Float[np.ndarray, "n T"]:
        """Mean square of each target."""
        return np.einsum("ntt->nt", self.gram[:, self.target_columns, self.target_columns])

    def targets_without(self, D: Float[np.ndarray, "n T T"]) -> Float[np.ndarray, "n M T"]:
        """Mean of `phi (y - u D)^T`: what is left for the states."""
        return self.with_targets - self.with_inputs @ D

    def without_inputs(
        self, D: Float[np.ndarray, "n T T"]
    ) -> tuple[Float[np.ndarray, "n M M"], Float[np.ndarray, "n M T"]]:
        """As `features` and `targets_without(D)`, of what no full `D` makes of the inputs."""
        inputs = self.gram[:, self.input_columns, self.input_columns]
        # Channels that copy each other are no reason to fail.
        least = LEAST_UNEXPLAINED * np.trace(inputs, axis1=1, axis2=2)[:, None, None]
        ridge = np.maximum(least, np.finfo(float).tiny) * np.eye(self.targets)
        left = self.gram[:, self.input_columns, self.target_columns] - inputs @ D
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
    def input_columns(self) -> slice:
        return slice(self.columns, self.columns + self.targets)

    @property
    def target_columns(self) -> slice:
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
