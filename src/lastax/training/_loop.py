"""The training loop. It owns the clock, the log and the checkpoints; the steps are pure."""

import collections
import contextlib
import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from lastax._errors import RunError, TrainingDivergedError
from lastax._typing import Array, Batch, Record
from lastax.nn._networks import Network
from lastax.serialization._arrays import named_arrays
from lastax.serialization._save import save
from lastax.training._checkpoints import Checkpoints
from lastax.training._clock import Clock
from lastax.training._evaluation import Evaluation
from lastax.training._log import Log
from lastax.training._overlap import read_ahead
from lastax.training._placement import Placement
from lastax.training._runs import METRICS_FILE
from lastax.training._step import StepMetrics, TrainState

CHECKPOINT_FOLDER = "checkpoints"

Step = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


@runtime_checkable
class Batches(Protocol):
    """Endless training batches whose position can be stored, like a Grain iterator.

    A thread uses them, and reads ahead. Each batch must have its own arrays.
    """

    def __next__(self) -> Batch:
        """The next batch."""

    def get_state(self) -> Record:
        """The position, as JSON values."""

    def set_state(self, state: Record) -> None:
        """Return to a stored position."""


@dataclasses.dataclass
class LoopState:
    """What a checkpoint holds besides arrays."""

    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    metrics_bytes: int = 0
    batches: Record = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The best model by validation, where it was found and what it reached there."""

    model: Network
    epoch: int
    validation_accuracy: float
    validation_loss: float


def fit(
    state: TrainState,
    step: Step,
    batches: Batches,
    *,
    validate: Callable[[Network], Evaluation],
    folder: Path,
    epochs: int,
    steps_per_epoch: int,
    checkpoint_steps: int = 500,
    resume: bool = False,
    placement: Placement | None = None,
    on_step: Callable[[int, StepMetrics], None] = lambda step, metrics: None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> FitResult:
    """Train to the end, and write the model of the best validation accuracy to `folder`.

    A checkpoint is written after each epoch, and every `checkpoint_steps` steps within an epoch. A
    checkpoint holds everything that the steps depend on, so a run that was stopped at any moment
    and resumed ends with bit-identical weights.

    The device does not wait for the host: a thread prepares the next batches, and the metrics of a
    step are read while the device computes the next step.

    Args:
        state: the state before the first step. Its arrays are copied.
        step: one update on a batch. It may donate the state to the computation.
        batches: the training batches. They are read ahead.
        validate: accuracy and loss of a model on the validation split.
        folder: gets `checkpoints/`, `metrics.jsonl` and the model.
        epochs: number of epochs.
        steps_per_epoch: number of batches per epoch.
        checkpoint_steps: steps between checkpoints inside an epoch.
        resume: resume from the newest checkpoint, if there is one.
        placement: the devices; the default device if None. With several processes, each calls this
            function, and the first one writes.
        on_step: called after each step with its number and metrics. The next step may be running.
        on_epoch: called after each epoch with the record that `metrics.jsonl` gets.

    Raises:
        TrainingDivergedError: if the loss or a parameter is not finite. Checkpoints remain.
        RunError: if the checkpoint cannot be read, or if there is one and `resume` is false.
    """
    placement = placement or Placement.over(jax.devices()[:1])
    # Copies, since steps may donate the state.
    state, best = placement.state(state), placement.state(state.model)
    progress, log = LoopState(), Log(folder / METRICS_FILE)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / CHECKPOINT_FOLDER))
        last = checkpoints.latest_step()
        if last is not None and not resume:
            raise RunError(
                f"{folder} holds the checkpoints of a run: resume it, or choose another folder"
            )
        if last is not None:
            (state, best), stored = checkpoints.restore((state, best))
            progress = LoopState(**stored)
            batches.set_state(progress.batches)
        log.truncate(progress.metrics_bytes)
        first = int(state.step) + 1
        ahead = read_ahead(
            batches,
            lambda batch: (placement.batch(batch), copy.deepcopy(batches.get_state())),
        )
        stack.enter_context(contextlib.closing(ahead))
        unread: collections.deque[tuple[int, StepMetrics]] = collections.deque()
        clock = Clock(compiling=True)
        for number in range(first, epochs * steps_per_epoch + 1):
            with clock.waiting():
                batch, position = next(ahead)
            state, metrics = step(state, batch)
            unread.append((number, metrics))
            epoch, inside = divmod(number, steps_per_epoch)
            pause = inside == 0 or inside % checkpoint_steps == 0
            while len(unread) > (0 if pause else 1):
                done, metrics = unread.popleft()
                _require_finite_loss(metrics, done, checkpoints)
                progress.loss_sum += float(metrics.loss)
                progress.accuracy_sum += float(metrics.accuracy)
                on_step(done, metrics)
            clock.step_done()
            if inside == 0:
                evaluation = validate(state.model)
                if _better(evaluation, progress):
                    best = placement.state(state.model)
                    progress.best_accuracy, progress.best_loss = evaluation[:2]
                    progress.best_epoch = epoch
                record = _epoch_record(epoch, number, steps_per_epoch, progress, evaluation)
                record |= clock.record()
                progress.metrics_bytes = log.append(record)
                progress.loss_sum = progress.accuracy_sum = 0.0
                clock = Clock()
                on_epoch(record)
            if pause:
                _require_finite_parameters(state.model, number, checkpoints)
                progress.batches = position
                checkpoints.save(number, (state, best), dataclasses.asdict(progress))
                clock.resume()
    if jax.process_index() == 0:
        save(folder, best)
    return FitResult(best, progress.best_epoch, progress.best_accuracy, progress.best_loss)


def _better(evaluation: Evaluation, progress: LoopState) -> bool:
    """Higher accuracy, or equal accuracy, which small splits often have, and lower loss."""
    if evaluation.accuracy != progress.best_accuracy:
        return evaluation.accuracy > progress.best_accuracy
    return evaluation.loss < progress.best_loss


def _epoch_record(
    epoch: int, number: int, steps: int, progress: LoopState, evaluation: Evaluation
) -> Record:
    return {
        "epoch": epoch,
        "step": number,
        "train_loss": progress.loss_sum / steps,
        "train_accuracy": progress.accuracy_sum / steps,
        "validation_loss": evaluation.loss,
        "validation_accuracy": evaluation.accuracy,
        "best_epoch": progress.best_epoch,
    }


def _require_finite_loss(metrics: StepMetrics, number: int, checkpoints: Checkpoints) -> None:
    if not np.isfinite(float(metrics.loss)):
        raise TrainingDivergedError(
            _diverged(f"the loss is {float(metrics.loss)}", number, checkpoints)
        )


@jax.jit
def _finite(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: jnp.all(jnp.isfinite(array)) for name, array in arrays.items()}


def _require_finite_parameters(model: Network, number: int, checkpoints: Checkpoints) -> None:
    arrays = named_arrays(model)
    finite = jax.device_get(_finite(arrays))
    for name in arrays:
        if not finite[name]:
            raise TrainingDivergedError(_diverged(f"{name} is not finite", number, checkpoints))


def _diverged(what: str, number: int, checkpoints: Checkpoints) -> str:
    last = checkpoints.latest_step()
    kept = (
        "there is no checkpoint yet" if last is None else f"the checkpoint of step {last} remains"
    )
    return f"training diverged at step {number}: {what}; {kept}. Try lower learning rates"
