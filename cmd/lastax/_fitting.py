"""Training a network on the data of a run: optimizer, batches, devices and display around `fit`."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lastax
from lastax.cmd._console import err, percent, progress_bar
from lastax.cmd._open import evaluate_on
from lastax.data import Data, batches_per_epoch, training_batches


def fit_network(
    network: lastax.nn.Network,
    config: lastax.training.RunConfig,
    data: Data,
    folder: Path,
    *,
    resume: bool = False,
    workers: int = 0,
    teacher: lastax.nn.Network | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> lastax.training.FitResult:
    """Train `network` as `config` says, and leave its checkpoints and best weights in `folder`.

    With a `teacher` its answers take the place of the labels. `on_ready` is called when everything
    is built, before anything is written.
    """
    training, source = config.training, data.sources["train"]
    place = _placing(jax.devices()[: config.devices])
    steps = training.epoch_batches or batches_per_epoch(source, training.batch_size)
    optimizer = _optimizer(training, steps)
    state = lastax.training.TrainState.initialize(network, optimizer)
    pure_step = eqx.filter_jit(
        functools.partial(
            lastax.training.train_step,
            optimizer=optimizer,
            key=jax.random.fold_in(jax.random.key(config.seed), 1),
            label_smoothing=training.label_smoothing,
            remat=training.remat,
        )
    )
    batches = training_batches(
        source,
        batch_size=training.batch_size,
        seed=config.seed,
        augment=data.augment if training.augment else None,
        workers=workers,
    )
    on_ready()
    size = f"{steps} steps an epoch, {training.epochs} epochs, {sum(config.states)} states"
    err.print(f"{config.task}: {size}; {folder}")
    with contextlib.closing(batches), _Display(steps * training.epochs) as display:
        return lastax.training.fit(
            state,
            lambda state, batch: pure_step(state, place(batch), teacher=teacher),
            batches,
            validate=lambda model: evaluate_on(model, data, "validation"),
            folder=folder,
            epochs=training.epochs,
            steps_per_epoch=steps,
            resume=resume,
            on_step=display.step,
            on_epoch=display.epoch,
        )


def fine_tuned(
    network: lastax.nn.Network,
    config: lastax.training.RunConfig,
    data: Data,
    folder: Path,
    *,
    epochs: int,
    rate: float,
    teacher: lastax.nn.Network | None = None,
) -> lastax.training.FitResult:
    """The best of some epochs of training more, by validation, from a fresh optimizer.

    Learning rates begin at `rate` times those of the run that the network was pruned from, and
    fall as there, without warming up.
    """
    training = dataclasses.replace(
        config.training,
        epochs=epochs,
        warmup_epochs=0,
        learning_rate=rate * config.training.learning_rate,
        ssm_learning_rate=rate * config.training.ssm_learning_rate,
    )
    states = tuple(lastax.state_counts(network))
    tuning = dataclasses.replace(config, training=training, states=states)
    return fit_network(network, tuning, data, folder, teacher=teacher)


class _Display:
    """A bar over all steps, and a line for each epoch."""

    def __init__(self, steps: int) -> None:
        self._bar = progress_bar("training")
        self._shown = self._bar.add_task("", total=steps, note="")

    def __enter__(self) -> "_Display":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, number: int, metrics: lastax.training.StepMetrics) -> None:
        self._bar.update(self._shown, completed=number, note=f"loss {float(metrics.loss):.3f}")

    def epoch(self, record: dict[str, Any]) -> None:
        self._bar.console.print(
            f"epoch {record['epoch']:3d}  loss {record['train_loss']:.3f}  "
            f"train {percent(record['train_accuracy'])}  "
            f"validation {percent(record['validation_accuracy'])}  {record['seconds']:.1f} s"
        )


def _optimizer(training: lastax.training.TrainingConfig, steps_per_epoch: int) -> Any:
    schedule = functools.partial(
        lastax.training.SCHEDULES[training.schedule],
        steps_per_epoch=steps_per_epoch,
        epochs=training.epochs,
        warmup_epochs=training.warmup_epochs,
        minimum=training.minimum_learning_rate,
        anneal=training.anneal,
    )
    return lastax.training.make_optimizer(
        schedule(training.learning_rate),
        schedule(training.ssm_learning_rate),
        weight_decay=training.weight_decay,
        grouping=training.grouping,
        step_size_global=training.step_size_global,
    )


def _placing(devices: list[jax.Device]) -> Callable[[lastax.training.Batch], lastax.training.Batch]:
    """Spread each batch over the devices by rows; the model is on all of them."""
    # With automatic axes the compiler adds what the devices have to tell each other.
    mesh = jax.make_mesh((len(devices),), ("batch",), devices=devices, axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    return lambda batch: {name: jax.device_put(rows, sharding) for name, rows in batch.items()}
