"""TODO calibration._report."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Divergence = Callable[[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]], float]


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What was done to one layer, and how well it answers on the calibration data.

    `order` is that in which states were given up, the first to go first (None where the caller
    chose). Errors are mean squares relative to the original answer's, on inputs from the reduced
    layers below: of the states that are left as they were, and refitted. `feedthrough_states` is how
    many states a `D` counts for that was made a whole matrix.
    """

    keep: Bool[np.ndarray, " _"]
    order: np.ndarray | None
    error_truncated: float
    error: float
    feedthrough_states: int = 0


@dataclasses.dataclass(frozen=True)
class RefitReport:
    """What `refit` did: a report a layer, and how far the outputs moved on the calibration data.

    `divergence` is the mean of `KL(original || reduced)` in nats, or what the caller measures.
    """

    layers: list[LayerReport]
    divergence: float
    sequences: int
    steps: int

    @property
    def keep(self) -> list[Bool[np.ndarray, " _"]]:
        """A mask a layer."""
        return [layer.keep for layer in self.layers]

    @property
    def states_before(self) -> list[int]:
        """Number of states of each layer as it was."""
        return [len(layer.keep) for layer in self.layers]

    @property
    def states_after(self) -> list[int]:
        """Number of states of each layer that stay; what a full `D` counts for is not in it."""
        return [int(layer.keep.sum()) for layer in self.layers]


def mean_kl_divergence(
    original: Float[np.ndarray, "n classes"], reduced: Float[np.ndarray, "n classes"]
) -> float:
    """Mean of `KL(p || q)` in nats, with `p` and `q` the softmax of original and reduced logits."""
    log_p, log_q = _log_softmax(original), _log_softmax(reduced)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
