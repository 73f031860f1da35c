"""`lastax train`."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import equinox as eqx
import jax

from lastax import ModelConfig
from lastax.cmd._console import RUNS, Counter, emit, err, git_revision, out, percent
from lastax.cmd._distributed import (
    DISTRIBUTED_FLAGS,
    Processes,
    distributed_options,
    is_inner_process,
    run_inner_process,
)
from lastax.cmd._flags import (
    SectionedCommand,
    setting_names,
    setting_options,
)
from lastax.cmd._options import Name, debug_option, json_option, root_option
from lastax.cmd._resume import (
    check_resume,
    device_count,
    devices_to_resume_on,
    newest_unfinished,
    runs_of,
)
from lastax.cmd._train_settings import (
    chosen_data_settings,
    override_all,
    parts_from_run,
    parts_of_preset,
    preset_for,
    print_settings,
)
from lastax.data import DATASETS, Data, open_data, reopen_data
from lastax.nn import Network
from lastax.serialization import MODEL_FILE, RunError, named_arrays, with_named_arrays
from lastax.training import (
    CONFIG_FILE,
    TASKS,
    DataConfig,
    Preset,
    RunConfig,
    StepMetrics,
    TrainingConfig,
    build_from_config,
    installed_versions,
    load_config,
    load_results,
    load_run,
    make_run_config,
)
from lastax.training import train as train_run

SIZES = sorted({size for task in TASKS.values() for _, size in task.presets})
SECTIONS = {
    "What to train": ("task", "size", "source", "seed", "show_settings"),
    "Data": ("root", *setting_names(DataConfig)),
    "Network": setting_names(ModelConfig),
    "Training": (*setting_names(TrainingConfig), "devices", "workers"),
    "Several processes": ("distributed", *DISTRIBUTED_FLAGS),
    "Output": (),  # all others
}

# Fewest steps per epoch where `train` chooses the batch size.
STEPS_OF_SMALL_DATA = 4


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.option(
    "--task",
    type=Name("task", lambda: TASKS),
    help="What to learn (lastax data list).  [required without --from]",
)
@click.option(
    "--size", type=click.Choice(SIZES), help="Preset.  [default: first of the task, small]"
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
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Start from the weights of a finished run, with its settings.",
)
@click.option("--show-settings", is_flag=True, help="Print all settings, and do not train.")
@click.option("--resume", is_flag=True, help="Resume an unfinished run, bit for bit.")
@click.option("--if-missing", is_flag=True, help="Do nothing if a run of the task has finished.")
@click.option(
    "--devices", type=int, help="Devices that share each batch.  [default: as many as possible]"
)
@click.option(
    "--workers", type=click.IntRange(0), default=0, help="Processes that prepare batches."
)
@distributed_options
@root_option
@json_option
@debug_option
@setting_options(TrainingConfig, ModelConfig, DataConfig)
def train(
    task: str | None,
    size: str | None,
    source: Path | None,
    seed: int | None,
    show_settings: bool,
    folder: Path | None,
    resume: bool,
    if_missing: bool,
    devices: int | None,
    workers: int,
    distributed: Processes | None,
    root: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a network on a task, and keep the weights of the best epoch by validation accuracy.

    The task's preset gives the settings, and a flag overrides one of them. `--show-settings` prints
    all settings. With `--from RUN` training starts from the weights and the settings of RUN; flags
    override settings such as `--epochs` and `--learning-rate`.
    """
    if distributed is not None:
        if not is_inner_process():
            raise click.exceptions.Exit(run_inner_process(distributed))
        distributed.join()
    chosen = {name: value for name, value in settings.items() if value is not None}
    if source is not None:
        task = _task_of(source, task, resume=resume, if_missing=if_missing)
    if task is None:
        raise click.UsageError("pass --task, one of " + ", ".join(sorted(TASKS)))
    chosen |= chosen_data_settings(TASKS[task].data.name, chosen)
    if if_missing:
        finished = [folder] if folder is not None else runs_of(task, size, finished=True)
        if finished and (finished[-1] / MODEL_FILE).is_file():
            if as_json:
                emit(load_results(finished[-1]))
            return
        unfinished = [folder] if folder is not None else runs_of(task, size, finished=False)
        resume = bool(unfinished) and unfinished[-1].exists()
    start = None
    if show_settings:
        parts = parts_from_run(source, chosen) if source else parts_of_preset(task, size, chosen)
        print_settings(parts, as_json)
        return
    if resume:
        folder = folder or newest_unfinished(task, size)
        config = load_config(folder)
        # Its own data may have been moved; `reopen_data` checks that they are the same.
        data_path = chosen.pop("data", None)
        given = {"task": task, "size": size, "seed": seed, **chosen}
        check_resume(folder, config, {k: v for k, v in given.items() if v is not None})
        config = dataclasses.replace(config, devices=devices_to_resume_on(devices, config))
        with err.status(f"opening {config.data.name}"):
            data = reopen_data(config, root, data=data_path)
    else:
        if source is None:
            size, preset = preset_for(task, chosen.get("layer"), size)
            config, data = _new_config(task, size, preset, seed or 0, devices, chosen, root)
        else:
            config, data, start = _continued(source, seed, devices, chosen, root)
        folder = folder or _free_folder(RUNS / task / _name(config))
        if source is not None:
            config = dataclasses.replace(config, start=os.path.relpath(source, folder))
        if folder.exists():
            raise RunError(f"{folder} already exists: pass --resume to resume it, or another --out")
    with contextlib.nullcontext() if distributed is None else distributed.explain_losses():
        result = _train(config, data, folder, start, resume, workers, root)
    if jax.process_index() > 0:
        return
    if as_json:
        emit(result)
        return
    reached = [f"{split} {percent(result[split]['accuracy'])}" for split in ("validation", "test")]
    out.print(f"best epoch {result['best_epoch']}: {', '.join(reached)}")
    if config.training.reduce_during_training:
        out.print(_remaining(config, load_config(folder)))
    out.print(f"run: {result['run']}")


def _train(
    config: RunConfig,
    data: Data,
    folder: Path,
    start: Network | None,
    resume: bool,
    workers: int,
    root: Path | None,
) -> dict[str, Any]:
    with Counter("training") as counter:

        def begin(steps: int) -> None:
            per_epoch = steps // config.training.epochs
            counter.print(
                f"{config.task}: {config.training.epochs} epochs of {per_epoch} steps, "
                f"{sum(config.states)} states; {folder}"
            )
            counter.start(steps)

        def step(number: int, metrics: StepMetrics) -> None:
            speed = "" if counter.speed is None else f"  {counter.speed:.1f} steps/s"
            counter.update(f"loss {float(metrics.loss):.3f}{speed}", completed=number)

        def epoch(record: dict[str, Any]) -> None:
            counter.print(
                f"epoch {record['epoch']:3d}  loss {record['train_loss']:.3f}  "
                f"train {percent(record['train_accuracy'])}  "
                f"validation {percent(record['validation_accuracy'])}  {record['seconds']:.1f} s"
                + _speed(record)
                + _states(record)
            )

        try:
            run = train_run(
                config,
                data,
                folder,
                start=start,
                resume=resume,
                workers=workers,
                on_start=begin,
                on_step=step,
                on_epoch=epoch,
            )
        except KeyboardInterrupt as error:
            if not (folder / CONFIG_FILE).is_file():
                raise
            again = f"lastax train --task {config.task} --out {folder} --resume"
            again += f" --data-dir {root}" if root is not None else ""
            raise click.Abort(f"resume the run with: {again}") from error
    return run.summary()


def _speed(record: dict[str, Any]) -> str:
    """The rate of the steps of an epoch, and how much of their time was spent waiting for data."""
    if record["steps_per_second"] is None:
        return ""
    return (
        f"  {record['steps_per_second']:.1f} steps/s  data wait {100 * record['data_wait']:.0f} %"
    )


def _states(record: dict[str, Any]) -> str:
    """The states of a training that removes some, and whether their removal is undone."""
    if "states" not in record:
        return ""
    return f"  {record['states']} states" + (", undone" if record["undone"] else "")


def _remaining(before: RunConfig, after: RunConfig) -> str:
    """How many states a training has removed, beside what was asked for."""
    total, states = sum(before.states), sum(after.states)
    share = before.training.reduce_during_training
    return f"{states} of {total} states remain: {1 - states / total:.0%} removed of {share:.0%}"


def _new_config(
    task: str,
    size: str,
    preset: Preset,
    seed: int,
    devices: int | None,
    chosen: dict[str, Any],
    root: Path | None,
) -> tuple[RunConfig, Data]:
    data_config, model, training = override_all(
        (TASKS[task].data_for(preset), preset.model, preset.training), chosen
    )
    data_set = DATASETS[data_config.name]
    if data_config.data is None and "data" in data_set.options:
        raise click.UsageError(f"{data_config.name} needs {data_set.needs}")
    with err.status(f"opening {data_config.name}; new data are prepared once"):
        data = open_data(data_config, root)
    for note in data.notes:
        err.print(f"{data_config.name}: {note}")
    damaged = data.skipped - sum(data.left_out.values())
    if damaged:
        err.print(f"{data_config.name}: {damaged} damaged records left out")
    if chosen.get("augment") and data.augment is None:
        raise click.UsageError(f"--augment: {data_config.name} has no augmentation")
    training = _fitting(training, data, chosen)
    config = make_run_config(
        task,
        data,
        dataclasses.replace(preset, model=model, training=training),
        size=size,
        data_config=data_config,
        seed=seed,
        devices=device_count(devices, training.batch_size),
        git_revision=git_revision(),
    )
    return config, data


def _name(config: RunConfig) -> str:
    """Name of a run's folder; the first size of a task is not part of it."""
    first = next(iter(TASKS[config.task].presets))[1]
    size = "" if config.size == first else f"-{config.size}"
    return f"{config.model.layer}{size}-seed{config.seed}"


def _task_of(source: Path, task: str | None, *, resume: bool, if_missing: bool) -> str:
    """The task of a run to start from."""
    if resume or if_missing:
        other = "--resume" if resume else "--if-missing"
        raise click.UsageError(f"--from starts a new run: leave out {other} or --from")
    own = load_config(source).task
    if task not in (None, own):
        raise click.UsageError(f"--task {task}: {source} was trained on {own}")
    return own


def _continued(
    source: Path,
    seed: int | None,
    devices: int | None,
    chosen: dict[str, Any],
    root: Path | None,
) -> tuple[RunConfig, Data, Network]:
    """Configuration, data and weights of a run that starts from another one."""
    config, network = load_run(source)
    data_config, model, training = parts_from_run(source, chosen)
    with err.status(f"opening {data_config.name}"):
        data = reopen_data(dataclasses.replace(config, data=data_config), root)
    training = _fitting(training, data, chosen)
    continued = dataclasses.replace(
        config,
        seed=config.seed if seed is None else seed,
        data=data_config,
        model=model,
        training=training,
        devices=device_count(devices, training.batch_size),
        parent=None,
        pruning=None,
        imported=None,
        git_revision=git_revision(),
        versions=installed_versions(),
    )
    # Only shapes are needed, because all arrays are replaced.
    fresh = eqx.filter_eval_shape(build_from_config, continued)
    return continued, data, with_named_arrays(fresh, named_arrays(network))


def _fitting(training: TrainingConfig, data: Data, chosen: Mapping[str, Any]) -> TrainingConfig:
    """A batch size for small data sets, where the preset's is larger than the training split."""
    records = data.records("train")
    if "batch_size" in chosen or training.batch_size <= records:
        return training
    smaller = max(1, records // STEPS_OF_SMALL_DATA)
    err.print(
        f"{records} training records are less than a batch of {training.batch_size}: "
        f"the batch size is {smaller}; --batch-size chooses another"
    )
    return dataclasses.replace(training, batch_size=smaller)


def _free_folder(wanted: Path) -> Path:
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
