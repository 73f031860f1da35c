"""Training from a configuration and a data set: what `lastax train` runs."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import optax

from lastax._errors import RunError, TrainingDivergedError
from lastax._typing import Batch, PRNGKeyArray, Record
from lastax.nn._networks import Network
from lastax.pruning._methods import METHODS
from lastax.pruning._prune_with_optimizer import prune_with_optimizer
from lastax.serialization._files import folder_written_at_once
from lastax.serialization._save import load, save
from lastax.surgery._layers import state_counts
from lastax.training._agreement import require_agreement
from lastax.training._configuration import DataConfig, Preset, TrainingConfig
from lastax.training._data import (
    TrainingData,
    calibration_batch,
    data_fingerprint,
    evaluate_split,
)
from lastax.training._evaluation import Evaluation
from lastax.training._loop import FitResult, fit
from lastax.training._optimizer import make_optimizer
from lastax.training._placement import Placement
from lastax.training._presets import TASKS
from lastax.training._reduction import InTrainingReduction, Masks
from lastax.training._run_config import (
    RunConfig,
    build_from_config,
    installed_versions,
    keep_in_config,
    save_config,
    untrained_counts,
)
from lastax.training._runs import save_results
from lastax.training._schedules import SCHEDULES
from lastax.training._state_penalty import SYSTEM_PENALTIES
from lastax.training._step import StepMetrics, TrainState, train_step

# In a run, the network that training started from, if it was not drawn, or if states are removed
# during training: `config.json` then has the remaining ones.
START_FOLDER = "start"

Stepped = tuple[TrainState, StepMetrics]
OnStep = Callable[[int, StepMetrics], None]
OnEpoch = Callable[[Record], None]


class TrainedRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: where it is.
        model: the weights of the best epoch by validation accuracy.
        best_epoch: that epoch.
        validation: what the model reaches on the validation split.
        test: what it reaches on the test split.
    """

    folder: Path
    model: Network
    best_epoch: int
    validation: Evaluation
    test: Evaluation

    def summary(self) -> Record:
        """What `results.json` holds."""
        return {
            "run": str(self.folder),
            "best_epoch": self.best_epoch,
            "validation": self.validation._asdict(),
            "test": self.test._asdict(),
        }


def make_run_config(
    task: str,
    data: TrainingData,
    preset: Preset,
    *,
    size: str | None = None,
    data_config: DataConfig | None = None,
    seed: int = 0,
    devices: int = 1,
    git_revision: str | None = None,
) -> RunConfig:
    """The configuration of a run of `task` on opened data.

    Args:
        task: a name in `TASKS`.
        data: the opened data set.
        preset: network and training; change fields with `dataclasses.replace`.
        size: name of the preset, for the record.
        data_config: how `data` were opened; the preset's way if omitted.
        seed: seed of everything random.
        devices: number of devices that share each batch.
        git_revision: revision of the code, for the record.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"make_run_config: no task {task!r}; choose one of {', '.join(TASKS)}")
    return RunConfig(
        task=task,
        size=size,
        seed=seed,
        data=data_config or TASKS[task].data_for(preset),
        input_size=data.input_size,
        classes=len(data.classes),
        length=data.length,
        labels=data.classes,
        vocabulary=data.vocabulary,
        model=preset.model,
        training=preset.training,
        states=untrained_counts(preset.model),
        devices=devices,
        git_revision=git_revision,
    )


def steps_per_epoch(training: TrainingConfig, data: TrainingData) -> int:
    """Number of training steps per epoch.

    Raises:
        ValueError: if a batch is larger than the training split.
    """
    steps = training.epoch_batches or data.records("train") // training.batch_size
    if steps == 0:
        raise ValueError(
            f"batch_size {training.batch_size} is larger than the training split of "
            f"{data.records('train')} records; choose a batch size of at most that many "
            "(--batch-size)"
        )
    return steps


def train(
    config: RunConfig,
    data: TrainingData,
    folder: str | Path,
    *,
    start: Network | None = None,
    resume: bool = False,
    workers: int = 0,
    on_start: Callable[[int], None] = lambda steps: None,
    on_step: OnStep = lambda number, metrics: None,
    on_epoch: OnEpoch = lambda record: None,
) -> TrainedRun:
    """Train a network and write a run: configuration, checkpoints, metrics, best weights, results.

    A run that was interrupted continues with `resume=True` and ends with the same weights, bit
    for bit, on the same number of devices.

    With several processes (`jax.distributed.initialize`), each of them calls this function with the
    same arguments, and `config.devices` is the number of devices of all processes. Only the first
    process writes.

    Args:
        config: network, training and data (`make_run_config`, `load_config`).
        data: the opened data set.
        folder: where the run is written.
        start: a network of this configuration whose weights training starts from; random weights
            if omitted. It is kept in `folder`, so it is not needed to resume.
        resume: continue from the newest checkpoint in `folder`.
        workers: number of processes that prepare batches.
        on_start: called with the total number of steps when training begins.
        on_step: called after each step, with its number and metrics.
        on_epoch: called after each epoch, with the record that `metrics.jsonl` gets.

    Raises:
        RunError: if `folder` exists and `resume` is false, or cannot be written or resumed; on all
            processes, if they disagree on versions, configuration or data.
        TrainingDivergedError: if the loss or a parameter is not finite. `results.json` then says
            so, and the run cannot be resumed.
    """
    folder = Path(folder)
    exists = folder.exists()
    if jax.process_count() > 1:
        require_agreement(
            {
                "the version of": dict(installed_versions()),
                "the folder of the run": "exists" if exists else "does not exist",
                "the flag --resume": resume,
                "the setting": dataclasses.asdict(config),
                "the data,": data_fingerprint(data),
            }
        )
    if exists and not resume:
        raise RunError(
            f"{folder} already exists: resume the run, remove it, or choose another folder"
        )
    writes = jax.process_index() == 0
    reduces = config.training.reduce_during_training > 0
    network = build_from_config(config) if start is None else start
    if resume and (folder / START_FOLDER).is_dir():
        network = load(folder / START_FOLDER, like=None if reduces else network)

    def begin(steps: int) -> None:
        # The folder appears last, so that a failure before this leaves nothing behind.
        if writes and not resume:
            with folder_written_at_once(folder) as fresh:
                save_config(fresh, config)
                if start is not None or reduces:
                    save(fresh / START_FOLDER, network)
        # No process goes on before the folder exists.
        require_agreement({"the number of steps": steps})
        on_start(steps)

    def record_states(keep: Masks) -> None:
        # An earlier attempt may have recorded them, and ended before it wrote the model.
        if writes and config.states == tuple(state_counts(network)):
            save_config(folder, keep_in_config(config, keep))

    try:
        result = fit_network(
            network,
            config,
            data,
            folder,
            resume=resume,
            workers=workers,
            on_start=begin,
            on_step=on_step,
            on_epoch=on_epoch,
            on_reduced=record_states,
        )
    except TrainingDivergedError as error:
        if writes:
            save_results(folder, {"run": str(folder), "diverged": str(error)})
        raise
    # The loop has measured the validation split already; large splits take minutes.
    validation = Evaluation(
        result.validation_accuracy, result.validation_loss, data.records("validation")
    )
    placement = Placement.over(jax.devices()[: config.devices])
    test = evaluate_split(result.model, data, "test", placement=placement)
    run = TrainedRun(folder, result.model, result.epoch, validation, test)
    if writes:
        save_results(folder, run.summary())
    return run


def fit_network(
    network: Network,
    config: RunConfig,
    data: TrainingData,
    folder: Path,
    *,
    resume: bool = False,
    workers: int = 0,
    teacher: Network | None = None,
    on_start: Callable[[int], None] = lambda steps: None,
    on_step: OnStep = lambda number, metrics: None,
    on_epoch: OnEpoch = lambda record: None,
    on_reduced: Callable[[Masks], None] = lambda keep: None,
) -> FitResult:
    """Train an existing network as `config` says; `train` without the files of a run.

    `folder` gets checkpoints, metrics and the best weights. With a `teacher` the loss is the KL
    divergence from its outputs, and labels are not used (distillation). `on_start` is called when
    everything is built, before anything is written. `on_reduced` is as for `fit`.
    """
    training = config.training
    placement = Placement.over(jax.devices()[: config.devices])
    steps = steps_per_epoch(training, data)
    optimizer = optimizer_for(training, steps)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    kept = placement.state((key, teacher))
    penalty_weight = penalty_weight_for(training, steps)

    def step(kept: tuple[Batch, PRNGKeyArray, Network | None], state: TrainState) -> Stepped:
        batch, key, teacher = kept
        return train_step(
            state,
            batch,
            optimizer=optimizer,
            key=key,
            label_smoothing=training.label_smoothing,
            penalty=SYSTEM_PENALTIES[training.state_penalty],
            penalty_weight=penalty_weight,
            remat=training.remat,
            scan_layers=training.scan_layers,
            teacher=teacher,
        )

    # The new state takes the memory of the old one. All leaves are arrays, so `equinox.filter_jit`,
    # whose calls take the host more than twice as long, is not needed.
    compiled = jax.jit(step, donate_argnames="state")
    batches = data.training_batches(
        batch_size=training.batch_size,
        seed=config.seed,
        augment=training.augment,
        workers=workers,
        **placement.shard,
    )
    with contextlib.ExitStack() as stack:
        if hasattr(batches, "close"):
            stack.callback(batches.close)
        state = TrainState.initialize(network, optimizer)
        reduction = reduction_for(config, data)
        on_start(steps * training.epochs)
        return fit(
            state,
            lambda state, batch: compiled((batch, *kept), state),
            batches,
            validate=lambda model: evaluate_split(model, data, "validation", placement=placement),
            folder=folder,
            epochs=training.epochs,
            steps_per_epoch=steps,
            resume=resume,
            placement=placement,
            reduction=reduction,
            on_step=on_step,
            on_epoch=on_epoch,
            on_reduced=on_reduced,
        )


def fine_tune(
    network: Network,
    config: RunConfig,
    data: TrainingData,
    *,
    epochs: int,
    rate: float = 0.1,
    teacher: Network | None = None,
    on_start: Callable[[int], None] = lambda steps: None,
    on_step: OnStep = lambda number, metrics: None,
    on_epoch: OnEpoch = lambda record: None,
) -> FitResult:
    """Train a pruned network for a few more epochs, with a new optimizer and without warm-up.

    Args:
        network: the pruned network.
        config: configuration of the run that it was pruned from.
        data: the opened data set.
        epochs: number of epochs; the best one by validation accuracy is returned.
        rate: initial learning rates, as a share of those in `config`.
        teacher: the unpruned network, to distill from its outputs instead of using labels.
        on_start: as for `train`.
        on_step: as for `train`.
        on_epoch: as for `train`.
    """
    training = dataclasses.replace(
        config.training,
        epochs=epochs,
        warmup_epochs=0,
        # The states to remove are gone.
        state_penalty="none",
        reduce_during_training=0.0,
        learning_rate=rate * config.training.learning_rate,
        ssm_learning_rate=rate * config.training.ssm_learning_rate,
    )
    tuning = dataclasses.replace(config, training=training, states=tuple(state_counts(network)))
    with tempfile.TemporaryDirectory() as folder:
        return fit_network(
            network,
            tuning,
            data,
            Path(folder),
            teacher=teacher,
            on_start=on_start,
            on_step=on_step,
            on_epoch=on_epoch,
        )


def optimizer_for(training: TrainingConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer of a training configuration, at `steps` steps per epoch."""
    schedule = functools.partial(
        SCHEDULES[training.schedule],
        steps_per_epoch=steps,
        epochs=training.epochs,
        warmup_epochs=training.warmup_epochs,
        minimum=training.minimum_learning_rate,
        anneal=training.anneal,
    )
    return make_optimizer(
        schedule(training.learning_rate),
        schedule(training.ssm_learning_rate),
        weight_decay=training.weight_decay,
        grouping=training.grouping,
        step_size_global=training.step_size_global,
    )


def penalty_weight_for(training: TrainingConfig, steps: int) -> optax.ScalarOrSchedule:
    """The weight of the state penalty, which rises from 0 in a whole number of epochs.

    Args:
        training: the settings.
        steps: number of steps per epoch.
    """
    epochs = round(training.penalty_warmup * training.epochs)
    if not epochs:
        return training.penalty_weight
    return optax.linear_schedule(0.0, training.penalty_weight, epochs * steps)


def reduction_for(config: RunConfig, data: TrainingData) -> InTrainingReduction | None:
    """The removal of states during a training; None if its configuration has none.

    Raises:
        ValueError: if there is no such pruning method, or if no epoch would follow the removals.
    """
    training = config.training
    if not training.reduce_during_training:
        return None
    if training.reduce_method not in METHODS:
        raise ValueError(
            f"reduce_method: no pruning method {training.reduce_method!r}; choose one of "
            f"{', '.join(METHODS)} (--reduce-method)"
        )
    needs_data = METHODS[training.reduce_method].needs_calibration
    reduction = InTrainingReduction(
        training.reduce_during_training,
        functools.partial(
            prune_with_optimizer,
            method=training.reduce_method,
            length=data.length,
            key=jax.random.fold_in(jax.random.key(config.seed), 2),
            calibration=calibration_batch(data, 64, seed=config.seed) if needs_data else None,
        ),
        training.reduce_epochs,
        training.reduce_tolerance,
        # The smaller network has at least half of the training.
        max(training.epochs // 2 - training.reduce_epochs, 0),
    )
    reduction.check(training.epochs)
    return reduction
