"""When states are removed during training, and how many."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from lastax.pruning._reducer import Reduction
from lastax.serialization._arrays import named_arrays, with_named_arrays
from lastax.surgery._counts import keep_count
from lastax.surgery._layers import state_counts
from lastax.surgery._optimizer import keep_states_with_optimizer
from lastax.training._run_config import packed_masks, unpacked_mask
from lastax.training._step import TrainState

Masks = list[Bool[np.ndarray, " _"]]
Prune = Callable[..., tuple[Reduction, Any]]


@dataclasses.dataclass(frozen=True)
class InTrainingReduction:
    """Removal of states at the ends of the first epochs of a training.

    Each of these epochs removes the same share of the remaining states. If validation accuracy
    falls by more than `tolerance` in the epoch after a removal, the loop restores the state before
    the removal, and repeats the epoch without it. The next removal then goes half as far toward the
    same number of states, on a logarithmic scale. The one after it goes the whole way again.

    Attributes:
        share: share of all states that are removed in the end, in [0, 1).
        prune: `lastax.pruning.prune_with_optimizer`, with all arguments except the model, the
            optimizer state and `states`.
        epochs: number of epochs that end with a removal.
        tolerance: accepted fall of validation accuracy, in percentage points.
        retry_epochs: number of epochs after these that also end with a removal, as long as there
            are too many states because removals were undone.
    """

    share: float
    prune: Prune
    epochs: int
    tolerance: float
    retry_epochs: int = 0

    @property
    def _last_epoch(self) -> int:
        return self.epochs + self.retry_epochs

    def check(self, epochs: int) -> None:
        """Require that at least one epoch follows the last removal.

        Args:
            epochs: number of epochs of the training.

        Raises:
            ValueError: if none does.
        """
        if self._last_epoch >= epochs:
            raise ValueError(
                f"states are removed after {self._last_epoch} of {epochs} epochs, and an epoch "
                "must follow the last removal; remove states in fewer epochs (--reduce-epochs), or "
                "train for more"
            )

    def target(self, epoch: int, counts: Sequence[int]) -> int:
        """Number of states that remain after an epoch.

        Args:
            epoch: number of the epoch, from 1.
            counts: number of states per layer before the training.
        """
        fewest = keep_count(sum(counts), self.share, at_least=len(counts))
        if epoch >= self.epochs:
            return fewest
        remaining = (fewest / sum(counts)) ** (epoch / self.epochs)
        return max(round(remaining * sum(counts)), fewest)

    def removals(
        self, state: TrainState, epoch: int, counts: Sequence[int], *, undone: int = 0
    ) -> int:
        """Number of states to remove at the end of an epoch.

        Args:
            state: the state at this moment.
            epoch: number of the epoch, from 1.
            counts: number of states per layer before the training.
            undone: number of removals that were undone since the last one that was not.
        """
        states, target = sum(state_counts(state.model)), self.target(epoch, counts)
        if epoch > self._last_epoch or states <= target:
            return 0
        return states - round(target * (states / target) ** (1 - 0.5**undone))

    def apply(self, state: TrainState, removals: int) -> tuple[TrainState, Masks]:
        """The state with fewer states per layer, and the masks of those that remain."""
        states = sum(state_counts(state.model)) - removals
        # With several processes, the arrays of the state belong to all of them.
        state = with_named_arrays(state, named_arrays(state))
        reduction, optimizer_state = self.prune(state.model, state.optimizer_state, states=states)
        return TrainState(reduction.model, optimizer_state, state.step), reduction.keep

    def fell(self, before: float, after: float) -> bool:
        """Whether validation accuracy, from 0 to 1, fell by more than the tolerance."""
        # Accuracies are ratios of counts; the margin covers their rounding.
        return 100 * (before - after) > self.tolerance + 1e-7


def unpack_kept(kept: Sequence[str], counts: Sequence[int]) -> Masks:
    """Masks as they were before `packed_masks`; all states if `kept` is empty."""
    if not kept:
        return [np.ones(count, bool) for count in counts]
    return [unpacked_mask(text, count) for text, count in zip(kept, counts, strict=True)]


def narrowed(kept: Sequence[str], counts: Sequence[int], keep: Masks) -> list[str]:
    """The packed masks of `kept` after only the states in `keep` remain."""
    masks = unpack_kept(kept, counts)
    for mask, remaining in zip(masks, keep, strict=True):
        mask[mask] = remaining
    return list(packed_masks(masks))


def with_structure(start: TrainState, kept: Sequence[str]) -> TrainState:
    """The first state of a training without removed states: a template for a later state."""
    if not kept:
        return start
    masks = unpack_kept(kept, state_counts(start.model))
    smaller = keep_states_with_optimizer(start.model, start.optimizer_state, masks)
    return TrainState(*smaller, start.step)
