"""The training loop. It owns the clock, the log and the checkpoints; the steps are pure."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lastax._errors import RunError, TrainingDivergedError
from lastax._typing import Array, Batch, Record
from lastax.nn._networks import Network
from lastax.serialization._arrays import named_arrays
from lastax.serialization._save import save
from lastax.surgery._layers import state_counts
from lastax.training._batch_reader import Batches, BatchReader
from lastax.training._checkpoints import Checkpoints
from lastax.training._clock import Clock
from lastax.training._evaluation import Evaluation
from lastax.training._log import Log
from lastax.training._loop_state import LoopState, Progress, restored
from lastax.training._placement import Placement
from lastax.training._reduction import InTrainingReduction, Masks, unpack_kept
from lastax.training._runs import METRICS_FILE
from lastax.training._step import StepMetrics, TrainState

CHECKPOINT_FOLDER = "checkpoints"

Step = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


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
    reduction: InTrainingReduction | None = None,
    on_epoch: Callable[[Record], None] = lambda record: None,
    on_reduced: Callable[[Masks], None] = lambda keep: None,
) -> FitResult:
    """Train to the end, and write the model of the best validation accuracy to `folder`.

    With a `reduction`, it is the best model after the last removal of states.

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
        reduction: removal of states at the ends of epochs. An epoch that is undone has a
            record with `"undone": true`, and is repeated.
        on_epoch: called after each epoch with the record that `metrics.jsonl` gets.
        on_reduced: with a reduction, called before the model is written, with one mask per layer:
            the states that remain of those in `state`.

    Raises:
        ValueError: if states would be removed after the last epoch.
        TrainingDivergedError: if the loss or a parameter is not finite. Checkpoints remain.
        RunError: if the checkpoint cannot be read, or if there is one and `resume` is false.
    """
    placement = placement or Placement.over(jax.devices()[:1])
    if reduction is not None:
        reduction.check(epochs)
    # Copies, since steps may donate the state.
    start, log = state, Log(folder / METRICS_FILE)
    now = LoopState(placement.state(start), placement.state(start.model))
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / CHECKPOINT_FOLDER))
        last = checkpoints.latest_step()
        if last is not None and not resume:
            raise RunError(
                f"{folder} holds the checkpoints of a run: resume it, or choose another folder"
            )
        if last is not None:
            now = restored(checkpoints, start)
            batches.set_state(now.progress.batches)
        # The names of the checkpoints also count repeated steps.
        saved = None if last is None else int(now.state.step)
        log.truncate(now.progress.metrics_bytes)
        reader = stack.enter_context(contextlib.closing(BatchReader(batches, placement)))
        unread: collections.deque[tuple[int, StepMetrics]] = collections.deque()
        clock = Clock()
        clock.expect_compilation()
        number = int(now.state.step)
        while number < epochs * steps_per_epoch:
            number += 1
            with clock.waiting():
                batch, position = next(reader)
            state, metrics = step(now.state, batch)
            now = dataclasses.replace(now, state=state)
            unread.append((number, metrics))
            epoch, inside = divmod(number, steps_per_epoch)
            pause = inside == 0 or inside % checkpoint_steps == 0
            while len(unread) > (0 if pause else 1):
                done, metrics = unread.popleft()
                _require_finite_loss(metrics, done, saved)
                now = now.stepped(metrics)
                on_step(done, metrics)
            clock.step_done()
            if not pause:
                continue
            now = now.with_progress(batches=position)
            undo = False
            if inside == 0:
                evaluation = validate(now.state.model)
                if reduction is not None and now.before is not None:
                    undo = reduction.fell(now.progress.accuracy, evaluation.accuracy)
                now = now if undo else now.evaluated(evaluation, epoch, placement)
                record = _epoch_record(epoch, number, steps_per_epoch, now.progress, evaluation)
                record |= clock.record()
                if reduction is not None:
                    record |= {"states": sum(state_counts(now.state.model)), "undone": undo}
                now, clock = now.logged(log.append(record)), Clock()
                on_epoch(record)
            _require_finite_parameters(now.state.model, number, saved)
            if undo:
                now = now.rolled_back(steps_per_epoch)
                reader.return_to(now.progress.batches)
                number = int(now.state.step)
            elif inside == 0 and reduction is not None:
                now = now.reduced(reduction, epoch, start, placement)
                if now.before is not None:
                    clock.expect_compilation()
            now.save(checkpoints, number)
            saved = number
            clock.resume()
    if reduction is not None:
        on_reduced(unpack_kept(now.progress.kept, state_counts(start.model)))
    if jax.process_index() == 0:
        save(folder, now.best)
    progress = now.progress
    return FitResult(now.best, progress.best_epoch, progress.best_accuracy, progress.best_loss)


def _epoch_record(
    epoch: int, number: int, steps: int, progress: Progress, evaluation: Evaluation
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


def _require_finite_loss(metrics: StepMetrics, number: int, saved: int | None) -> None:
    if not np.isfinite(float(metrics.loss)):
        raise TrainingDivergedError(_diverged(f"the loss is {float(metrics.loss)}", number, saved))


@jax.jit
def _finite(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: jnp.all(jnp.isfinite(array)) for name, array in arrays.items()}


def _require_finite_parameters(model: Network, number: int, saved: int | None) -> None:
    arrays = named_arrays(model)
    finite = jax.device_get(_finite(arrays))
    for name in arrays:
        if not finite[name]:
            raise TrainingDivergedError(_diverged(f"{name} is not finite", number, saved))


def _diverged(what: str, number: int, saved: int | None) -> str:
    kept = (
        "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} remains"
    )
    return f"training diverged at step {number}: {what}; {kept}. Try lower learning rates"
