"""What the training loop changes, and how it is stored in checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from lastax._typing import Record
from lastax.nn._networks import Network
from lastax.surgery._layers import state_counts
from lastax.training._checkpoints import Checkpoints
from lastax.training._evaluation import Evaluation
from lastax.training._placement import Placement
from lastax.training._reduction import InTrainingReduction, narrowed, with_structure
from lastax.training._step import StepMetrics, TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a checkpoint holds besides arrays, as JSON values.

    Attributes:
        loss_sum: sum of the losses of the steps of this epoch.
        accuracy_sum: sum of their accuracies.
        best_accuracy: validation accuracy of the best model.
        best_loss: its validation loss.
        best_epoch: its epoch.
        metrics_bytes: size of the log.
        batches: position in the training batches.
        kept: packed masks of the states that remain of those before the training; empty for all.
        accuracy: the last validation accuracy.
        undone: number of removals of states that were undone since the last one that was not.
        repeated_steps: number of steps that were repeated for this reason.
        before: the progress before the last removal, until a validation has accepted it.
    """

    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    metrics_bytes: int = 0
    batches: Record = dataclasses.field(default_factory=dict)
    kept: list[str] = dataclasses.field(default_factory=list)
    accuracy: float = 0.0
    undone: int = 0
    repeated_steps: int = 0
    before: Record | None = None


@dataclasses.dataclass(frozen=True)
class LoopState:
    """Everything that the training loop changes.

    Attributes:
        state: what the steps change.
        best: the best model so far; after a removal of states, the best one of its size.
        progress: everything besides arrays.
        before: the loop's state before the last removal, until a validation has accepted it.
    """

    state: TrainState
    best: Network
    progress: Progress = dataclasses.field(default_factory=Progress)
    before: LoopState | None = None

    def with_progress(self, **changes: Any) -> LoopState:
        """The same arrays with other progress."""
        return dataclasses.replace(self, progress=dataclasses.replace(self.progress, **changes))

    def stepped(self, metrics: StepMetrics) -> LoopState:
        """The state after the metrics of a step have been read."""
        return self.with_progress(
            loss_sum=self.progress.loss_sum + float(metrics.loss),
            accuracy_sum=self.progress.accuracy_sum + float(metrics.accuracy),
        )

    def logged(self, size: int) -> LoopState:
        """The state after the record of an epoch, with which the log has `size` bytes."""
        return self.with_progress(metrics_bytes=size, loss_sum=0.0, accuracy_sum=0.0)

    def evaluated(self, evaluation: Evaluation, epoch: int, placement: Placement) -> LoopState:
        """The state after a validation, which may have found the best model."""
        now = self.with_progress(accuracy=evaluation.accuracy)
        if not self._is_improved_by(evaluation):
            return now
        best = dataclasses.replace(now, best=placement.state(self.state.model))
        accuracy, loss, _ = evaluation
        return best.with_progress(best_accuracy=accuracy, best_loss=loss, best_epoch=epoch)

    def _is_improved_by(self, evaluation: Evaluation) -> bool:
        """Higher accuracy, or equal accuracy, which small splits often have, and lower loss."""
        if evaluation.accuracy != self.progress.best_accuracy:
            return evaluation.accuracy > self.progress.best_accuracy
        return evaluation.loss < self.progress.best_loss

    def reduced(
        self, reduction: InTrainingReduction, epoch: int, start: TrainState, placement: Placement
    ) -> LoopState:
        """The state at the end of an epoch after its removal of states, if it has one.

        The best model starts again from the smaller one, so that the result has its size.

        Args:
            reduction: when and how to remove states.
            epoch: number of the epoch, from 1.
            start: the state before the first step.
            placement: the devices.
        """
        undone = 0 if self.before is not None else self.progress.undone
        accepted = dataclasses.replace(self.with_progress(before=None, undone=undone), before=None)
        counts, progress = state_counts(start.model), accepted.progress
        removals = reduction.removals(self.state, epoch, counts, undone=progress.undone)
        if not removals:
            return accepted
        smaller, keep = reduction.apply(self.state, removals)
        # Copies, since steps may donate the state, and the state before shares arrays with it.
        state = placement.state(smaller)
        return LoopState(
            state,
            placement.state(state.model),
            dataclasses.replace(
                progress,
                best_accuracy=-1.0,
                best_loss=float("inf"),
                kept=narrowed(progress.kept, counts, keep),
                before=dataclasses.asdict(progress),
            ),
            accepted,
        )

    def rolled_back(self, steps: int) -> LoopState:
        """The state before the last removal, from which `steps` steps are repeated."""
        assert self.before is not None
        return self.before.with_progress(
            metrics_bytes=self.progress.metrics_bytes,
            undone=self.progress.undone + 1,
            repeated_steps=self.progress.repeated_steps + steps,
        )

    def save(self, checkpoints: Checkpoints, number: int) -> None:
        """Write a checkpoint after step `number`. Its number counts repeated steps too."""
        before = () if self.before is None else (self.before.state, self.before.best)
        checkpoints.save(
            number + self.progress.repeated_steps,
            (self.state, self.best, *before),
            dataclasses.asdict(self.progress),
        )


def restored(checkpoints: Checkpoints, start: TrainState) -> LoopState:
    """The state of the loop at the newest checkpoint.

    Args:
        checkpoints: the checkpoints of the run.
        start: the state before the first step, whose structure has all states.
    """
    progress = Progress(**checkpoints.progress())
    now = with_structure(start, progress.kept)
    if progress.before is None:
        (state, best), _ = checkpoints.restore((now, now.model))
        return LoopState(state, best, progress)
    earlier = Progress(**progress.before)
    then = with_structure(start, earlier.kept)
    (state, best, *before), _ = checkpoints.restore((now, now.model, then, then.model))
    return LoopState(state, best, progress, LoopState(before[0], before[1], earlier))
