"""Second moments of a layer's regression."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

# Lower bound of the power of an input that the features do not explain, as a share of its power.
LEAST_UNEXPLAINED = 1e-9

# Multiplications up to which BLAS libraries compute a product in one thread. The synchronization of
# threads takes 10 times as long as a product of this size, and far more if cores are busy.
_ONE_THREAD = 2**18
# Fewest rows for which a product in pieces is worth it.
_FEWEST_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Moments:
    """Second moments of `n` independent regressions `y = Phi W + u D`.

    A layer with one system for all channels is one regression with `T = H` targets. A layer with
    one system per channel is `H` regressions with one target each. `D[n, i, j]` maps input `i` to
    target `j`.

    Attributes:
        gram: mean of `z z^T` over the rows `z = [phi, u, y]` of features, inputs and targets.
        width: number of adjacent feature columns per state.
        targets: number of targets `T` of each regression.
        rows: number of rows.
    """

    gram: Float[np.ndarray, "n Z Z"]
    width: int
    targets: int
    rows: int

    @classmethod
    def of_rows(
        cls, each_rows: Iterable[Float[np.ndarray, "R Z"]], width: int, targets: int, rows: int
    ) -> Moments:
        """Moments of `R` rows `z`, which are given in float64 for one regression at a time."""
        gram = np.stack([gram_of_rows(z) for z in each_rows]) / max(rows, 1)
        return cls(gram, width, targets, rows)

    def __add__(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        rows = self.rows + other.rows
        share = self.rows / max(rows, 1)
        gram = share * self.gram + (1 - share) * other.gram
        return dataclasses.replace(self, gram=gram, rows=rows)

    @property
    def columns(self) -> int:
        """Number of feature columns `M`."""
        return self.gram.shape[1] - 2 * self.targets

    @property
    def owners(self) -> Int[np.ndarray, " M"]:
        """The state that each feature column belongs to."""
        return np.arange(self.columns) // self.width

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
        """Mean of `phi (y - u D)^T`: the part of the targets that the states have to explain."""
        return self.with_targets - self.with_inputs @ D

    def without_inputs(
        self, D: Float[np.ndarray, "n T T"]
    ) -> tuple[Float[np.ndarray, "n M M"], Float[np.ndarray, "n M T"]]:
        """`features` and `targets_without(D)` after regression on the inputs.

        These are the moments of the parts of `phi` and `y - u D` that no dense `D` can explain.
        """
        inputs = self.gram[:, self.input_columns, self.input_columns]
        # The ridge keeps the inverse finite if channels are copies of each other.
        least = LEAST_UNEXPLAINED * np.trace(inputs, axis1=1, axis2=2)[:, None, None]
        ridge = np.maximum(least, np.finfo(float).tiny) * np.eye(self.targets)
        remaining = self.gram[:, self.input_columns, self.target_columns] - inputs @ D
        by_inputs = self.with_inputs @ np.linalg.inv(inputs + ridge)
        features = self.features - by_inputs @ self.with_inputs.mT
        return features, self.targets_without(D) - by_inputs @ remaining

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
        """Columns of `gram` that hold the inputs."""
        return slice(self.columns, self.columns + self.targets)

    @property
    def target_columns(self) -> slice:
        """Columns of `gram` that hold the targets."""
        return slice(self.columns + self.targets, None)


def gram_of_rows(z: Float[np.ndarray, "R Z"]) -> Float[np.ndarray, "Z Z"]:
    """Sum of `z z^T` over rows. Narrow rows are multiplied in pieces, each in one thread."""
    length, columns = z.shape
    size = _ONE_THREAD // max(columns, 1) ** 2
    whole = length - length % max(size, 1)
    if size < _FEWEST_ROWS or whole == 0:
        return z.T @ z
    # NumPy computes A^T A as a symmetric product, twice as fast.
    pieces = z[:whole].reshape(-1, size, columns)
    return (pieces.mT @ pieces).sum(axis=0) + z[whole:].T @ z[whole:]


def state_energies(moments: Moments, W: Float[np.ndarray, "n M T"]) -> Float[np.ndarray, "n N"]:
    """Mean square of each state's contribution to the output, summed over targets.

    This is `tr(W_i^T G_ii W_i)`, the energy of a state on real inputs. As a score it is the best
    one that needs no refit ("empirical-energy").
    """
    regressions, columns, targets = W.shape
    shape = (regressions, columns // moments.width, moments.width)
    gram = np.einsum("npapb->npab", moments.features.reshape(*shape, *shape[1:]))
    weights = W.reshape(*shape, targets)
    return np.einsum("npat,npab,npbt->np", weights, gram, weights)
