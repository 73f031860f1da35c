"""Training a pruned network for a few more epochs."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from lastax.nn._networks import Network
from lastax.surgery._layers import state_counts
from lastax.training._data import TrainingData
from lastax.training._fit_network import OnEpoch, OnStep, fit_network
from lastax.training._loop import FitResult
from lastax.training._run_config import RunConfig


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
        rate: all learning rates, as a share of those in `config`.
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
        minimum_learning_rate=rate * config.training.minimum_learning_rate,
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
