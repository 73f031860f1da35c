"""`lastax train`."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import equinox as eqx
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lastax
from lastax.cmd._console import (
    EVALUATION_BATCH,
    RUNS,
    debug_option,
    emit,
    err,
    git_revision,
    json_option,
    open_data,
    out,
    percent,
    progress_bar,
    use_devices,
)
from lastax.data import Source, batches_per_epoch, evaluation_batches, training_batches


def setting_options(*configs: type) -> Callable[[Callable], Callable]:
    """One flag a field of the configurations; left out, the task's own value holds."""

    def decorate(command: Callable) -> Callable:
        for config in configs:
            hints = get_type_hints(config)
            for field in reversed(dataclasses.fields(config)):
                flag = "--" + field.name.replace("_", "-")
                choices = get_args(hints[field.name])
                kind: Any = click.Choice(choices) if choices else hints[field.name]
                if kind is bool:
                    flag, kind = f"{flag}/--no-{flag[2:]}", None
                text = field.metadata["help"]
                command = click.option(
                    flag, field.name, type=kind, default=None, help=text, show_default=False
                )(command)
        return command

    return decorate


@click.command()
@click.option(
    "--task", type=click.Choice(sorted(lastax.TASKS)), required=True, help="What to learn."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of everything random.  [default: 0]"
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: runs/TASK/LAYER-seedSEED]",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run, bit for bit.")
@click.option(
    "--if-missing",
    is_flag=True,
    help="Only if no run of the task has finished; go on with an unfinished one.",
)
@click.option("--devices", type=int, help="Devices that share each batch.  [default: all]")
@click.option(
    "--workers", type=click.IntRange(0), default=0, help="Processes that prepare batches."
)
@json_option
@debug_option
@setting_options(lastax.TrainingConfig, lastax.ModelConfig)
def train(
    task: str,
    seed: int | None,
    folder: Path | None,
    resume: bool,
    if_missing: bool,
    devices: int | None,
    workers: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a network on a task; keep the weights that do best on the validation split.

    The values of the task's preset can each be overridden by a flag.
    """
    chosen = {name: value for name, value in settings.items() if value is not None}
    if if_missing:
        if _runs_of(task, finished=True):
            return
        resume = bool(_runs_of(task, finished=False))
    if resume:
        folder = folder or _newest_unfinished(task)
        config = lastax.load_config(folder)
        _refuse_changes(config, task, seed, chosen)
        if (folder / lastax.MODEL_FILE).is_file():
            raise lastax.RunError(f"run {folder} has finished: there is nothing to resume")
    else:
        config = _new_config(task, seed or 0, chosen)
        folder = folder or _free_folder(RUNS / task / f"{config.model.layer}-seed{config.seed}")
        if folder.exists():
            raise lastax.RunError(
                f"{folder} is there already: --resume goes on with it, --out names another"
            )
    answer = _run(config, folder, resume, use_devices(devices), workers)
    if as_json:
        emit(answer)
        return
    reached = [f"{split} {percent(answer[split]['accuracy'])}" for split in ("validation", "test")]
    out.print(f"best epoch {answer['best_epoch']}: {', '.join(reached)}")
    out.print(f"run: {folder}", soft_wrap=True)


def _new_config(task: str, seed: int, chosen: dict[str, Any]) -> lastax.RunConfig:
    preset = lastax.TASKS[task]
    data = lastax.data.DATASETS[preset.data]
    model = _override(preset.model, chosen)
    training = _override(preset.training, chosen)
    lastax.check_settings(training)
    lastax.check_settings(model)
    return lastax.RunConfig(
        task=task,
        seed=seed,
        input_size=data.input_size,
        classes=len(data.classes),
        length=data.length,
        model=model,
        training=training,
        states=(model.states,) * model.layers,
        git_revision=git_revision(),
    )


def _override(preset: Any, chosen: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(preset)}
    return dataclasses.replace(preset, **{k: v for k, v in chosen.items() if k in names})


def _refuse_changes(
    config: lastax.RunConfig, task: str, seed: int | None, chosen: dict[str, Any]
) -> None:
    """A resumed run is the same run: flags may repeat its settings, not change them."""
    recorded = dataclasses.asdict(config.training) | dataclasses.asdict(config.model)
    given = chosen | {"task": task} | ({} if seed is None else {"seed": seed})
    recorded |= {"task": config.task, "seed": config.seed}
    for name, value in given.items():
        if recorded[name] != value:
            raise click.UsageError(
                f"--{name.replace('_', '-')} {value}: the run to resume has {recorded[name]}; "
                "leave the flag out, or start a new run"
            )


def _runs_of(task: str, *, finished: bool) -> list[Path]:
    return [run for run in lastax.find_runs(RUNS, finished=finished) if run.parent.name == task]


def _newest_unfinished(task: str) -> Path:
    found = _runs_of(task, finished=False)
    if not found:
        raise lastax.RunError(f"no unfinished run below {RUNS / task}: start one without --resume")
    return found[-1]


def _free_folder(wanted: Path) -> Path:
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _run(
    config: lastax.RunConfig, folder: Path, resume: bool, devices: list[jax.Device], workers: int
) -> dict[str, Any]:
    """Build everything the run needs, then let the loop go. The folder appears last."""
    training, data = config.training, open_data(config)
    place = _placing(devices, training.batch_size)
    sources = {split: data.source(split) for split in ("train", "validation", "test")}
    steps = batches_per_epoch(sources["train"], training.batch_size)
    optimizer = _optimizer(training, steps)
    state = lastax.TrainState.initialize(lastax.build_from_config(config), optimizer)
    pure_step = eqx.filter_jit(
        functools.partial(
            lastax.train_step,
            optimizer=optimizer,
            key=jax.random.fold_in(jax.random.key(config.seed), 1),
            label_smoothing=training.label_smoothing,
        )
    )
    batches = training_batches(
        sources["train"],
        batch_size=training.batch_size,
        seed=config.seed,
        augment=data.augment if training.augment else None,
        workers=workers,
    )
    if not resume:
        with lastax.folder_written_at_once(folder) as fresh:
            lastax.save_config(fresh, config)
    size = f"{steps} steps an epoch, {training.epochs} epochs, {sum(config.states)} states"
    err.print(f"{config.task}: {size}; {folder}", soft_wrap=True)
    with contextlib.closing(batches), _Display(steps * training.epochs) as display:
        result = lastax.fit(
            state,
            lambda state, batch: pure_step(state, place(batch)),
            batches,
            validate=lambda model: _evaluate(model, sources["validation"]),
            folder=folder,
            epochs=training.epochs,
            steps_per_epoch=steps,
            resume=resume,
            on_step=display.step,
            on_epoch=display.epoch,
        )
    answer = {
        "run": str(folder),
        "best_epoch": result.epoch,
        **{s: _evaluate(result.model, sources[s])._asdict() for s in ("validation", "test")},
    }
    lastax.save_results(folder, answer)
    return answer


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

    def step(self, number: int, metrics: lastax.StepMetrics) -> None:
        self._bar.update(self._shown, completed=number, note=f"loss {float(metrics.loss):.3f}")

    def epoch(self, record: dict[str, Any]) -> None:
        self._bar.console.print(
            f"epoch {record['epoch']:3d}  loss {record['train_loss']:.3f}  "
            f"train {percent(record['train_accuracy'])}  "
            f"validation {percent(record['validation_accuracy'])}  {record['seconds']:.1f} s"
        )


def _optimizer(training: lastax.TrainingConfig, steps_per_epoch: int) -> Any:
    schedule = functools.partial(
        lastax.SCHEDULES[training.schedule],
        steps_per_epoch=steps_per_epoch,
        epochs=training.epochs,
        warmup_epochs=training.warmup_epochs,
        minimum=training.minimum_learning_rate,
        anneal=training.anneal,
    )
    return lastax.make_optimizer(
        schedule(training.learning_rate),
        schedule(training.ssm_learning_rate),
        weight_decay=training.weight_decay,
        grouping=training.grouping,
        step_size_global=training.step_size_global,
    )


def _evaluate(model: lastax.Network, source: Source) -> lastax.Evaluation:
    return lastax.evaluate(model, evaluation_batches(source, batch_size=EVALUATION_BATCH))


def _placing(devices: list[jax.Device], batch_size: int) -> Callable[[lastax.Batch], lastax.Batch]:
    """Spread each batch over the devices by rows; the model is on all of them."""
    if batch_size % len(devices):
        raise click.UsageError(
            f"--batch-size {batch_size} does not divide among {len(devices)} devices"
        )
    # With automatic axes the compiler adds what the devices have to tell each other.
    mesh = jax.make_mesh((len(devices),), ("batch",), devices=devices, axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    return lambda batch: {name: jax.device_put(rows, sharding) for name, rows in batch.items()}
