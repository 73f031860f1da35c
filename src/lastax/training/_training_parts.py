"""Parts of a training, built from its configuration: optimizer, penalty weight, state removal."""

import functools

import jax
import optax

from lastax.pruning._methods import METHODS
from lastax.pruning._prune_with_optimizer import prune_with_optimizer
from lastax.training._configuration import TrainingConfig
from lastax.training._data import TrainingData, calibration_batch
from lastax.training._optimizer import make_optimizer
from lastax.training._reduction import InTrainingReduction
from lastax.training._run_config import RunConfig
from lastax.training._schedules import SCHEDULES


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
