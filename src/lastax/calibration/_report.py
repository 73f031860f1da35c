"""What `refit` reports."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

# Distance between original and reduced outputs, both of shape (n, m).
Divergence = Callable[[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]], float]


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What `refit` did to one layer.

    Errors are mean squared errors of the layer's output on the calibration data, relative to the
    mean square of the original output. The input comes from the reduced layers below.

    Attributes:
        keep: mask of the states that were kept.
        order: states in the order of elimination, the first to be removed first; None if the
            caller passed `keep=`.
        error_truncated: error after removing the states, without a refit.
        error: error after the refit.
        feedthrough_states: number of states that the weights of a new dense `D` count as.
    """

    keep: Bool[np.ndarray, " _"]
    order: Int[np.ndarray, " _"] | None
    error_truncated: float
    error: float
    feedthrough_states: int = 0


@dataclasses.dataclass(frozen=True)
class RefitReport:
    """What `refit` did.

    Attributes:
        layers: one report per layer, in the order of `find_layers`.
        divergence: distance of the outputs from the original ones on the calibration data. By
            default the mean of `KL(original || reduced)` in nats.
        sequences: number of calibration records.
        steps: number of calibration steps, without padding.
    """

    layers: list[LayerReport]
    divergence: float
    sequences: int
    steps: int

    @property
    def keep(self) -> list[Bool[np.ndarray, " _"]]:
        """One mask per layer, in the order of `find_layers`."""
        return [layer.keep for layer in self.layers]

    @property
    def states_before(self) -> list[int]:
        """Number of states per layer before the refit."""
        return [len(layer.keep) for layer in self.layers]

    @property
    def states_after(self) -> list[int]:
        """Number of states per layer after the refit. A dense `D` does not count here."""
        return [int(layer.keep.sum()) for layer in self.layers]


def mean_kl_divergence(
    original: Float[np.ndarray, "n classes"], reduced: Float[np.ndarray, "n classes"]
) -> float:
    """Mean of `KL(p || q)` in nats; `p` and `q` are the softmax of original and reduced logits."""
    log_p, log_q = _log_softmax(original), _log_softmax(reduced)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def _log_softmax(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
