"""Training an existing network as a configuration says."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import jax

from lastax._typing import Batch, PRNGKeyArray, Record
from lastax.nn._networks import Network
from lastax.training._data import TrainingData, evaluate_split
from lastax.training._loop import FitResult, fit
from lastax.training._placement import Placement
from lastax.training._reduction import Masks
from lastax.training._run_config import RunConfig
from lastax.training._state_penalty import SYSTEM_PENALTIES
from lastax.training._step import StepMetrics, TrainState, train_step
from lastax.training._training_parts import (
    optimizer_for,
    penalty_weight_for,
    reduction_for,
    steps_per_epoch,
)

Stepped = tuple[TrainState, StepMetrics]
OnStep = Callable[[int, StepMetrics], None]
OnEpoch = Callable[[Record], None]


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
