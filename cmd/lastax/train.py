"""`lastax train`."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import click
import jax

from lastax import ModelConfig
from lastax.cmd._console import RUNS, Counter, emit, err, git_revision, out, percent
from lastax.cmd._flags import setting_options
from lastax.cmd._options import debug_option, json_option, root_option
from lastax.data import DATASETS, Data, data_settings, open_data, reopen_data
from lastax.serialization import MODEL_FILE, RunError
from lastax.training import (
    CONFIG_FILE,
    TASKS,
    DataConfig,
    Preset,
    RunConfig,
    StepMetrics,
    TrainingConfig,
    check_settings,
    failure_reason,
    find_runs,
    installed_versions,
    load_config,
    load_results,
    make_run_config,
)
from lastax.training import train as train_run

SIZES = sorted({size for task in TASKS.values() for _, size in task.presets})

Config = TypeVar("Config", ModelConfig, TrainingConfig, DataConfig)


@click.command()
@click.option("--task", type=click.Choice(sorted(TASKS)), required=True, help="What to learn.")
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
@click.option("--resume", is_flag=True, help="Resume an unfinished run, bit for bit.")
@click.option("--if-missing", is_flag=True, help="Do nothing if a run of the task has finished.")
@click.option("--devices", type=int, help="Devices that share each batch.  [default: all]")
@click.option(
    "--workers", type=click.IntRange(0), default=0, help="Processes that prepare batches."
)
@root_option
@json_option
@debug_option
@setting_options(TrainingConfig, ModelConfig, DataConfig)
def train(
    task: str,
    size: str | None,
    seed: int | None,
    folder: Path | None,
    resume: bool,
    if_missing: bool,
    devices: int | None,
    workers: int,
    root: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a network on a task, and keep the weights of the best epoch by validation accuracy.

    The task's preset gives the settings; a flag overrides one of them.
    """
    chosen = {name: value for name, value in settings.items() if value is not None}
    chosen |= _data_settings(TASKS[task].data.name, chosen)
    if if_missing:
        finished = [folder] if folder is not None else _runs_of(task, size, finished=True)
        if finished and (finished[-1] / MODEL_FILE).is_file():
            if as_json:
                emit(load_results(finished[-1]))
            return
        unfinished = [folder] if folder is not None else _runs_of(task, size, finished=False)
        resume = bool(unfinished) and unfinished[-1].exists()
    if resume:
        folder = folder or _newest_unfinished(task, size)
        config = load_config(folder)
        # Its own data may have been moved; `reopen_data` checks that they are the same.
        data_path = chosen.pop("data", None)
        given = {"task": task, "size": size, "seed": seed, "devices": devices, **chosen}
        _check_resume(folder, config, {k: v for k, v in given.items() if v is not None})
        with err.status(f"opening {config.data.name}"):
            data = reopen_data(config, root, data=data_path)
    else:
        size, preset = _preset(task, chosen.get("layer"), size)
        config, data = _new_config(task, size, preset, seed or 0, devices, chosen, root)
        folder = folder or _free_folder(RUNS / task / _name(config))
        if folder.exists():
            raise RunError(f"{folder} already exists: pass --resume to resume it, or another --out")
    result = _train(config, data, folder, resume, workers, root)
    if as_json:
        emit(result)
        return
    reached = [f"{split} {percent(result[split]['accuracy'])}" for split in ("validation", "test")]
    out.print(f"best epoch {result['best_epoch']}: {', '.join(reached)}")
    out.print(f"run: {result['run']}")


def _train(
    config: RunConfig,
    data: Data,
    folder: Path,
    resume: bool,
    workers: int,
    root: Path | None,
) -> dict[str, Any]:
    with Counter("training") as counter:

        def start(steps: int) -> None:
            per_epoch = steps // config.training.epochs
            counter.print(
                f"{config.task}: {config.training.epochs} epochs of {per_epoch} steps, "
                f"{sum(config.states)} states; {folder}"
            )
            counter.start(steps)

        def step(number: int, metrics: StepMetrics) -> None:
            counter.update(f"loss {float(metrics.loss):.3f}", completed=number)

        def epoch(record: dict[str, Any]) -> None:
            counter.print(
                f"epoch {record['epoch']:3d}  loss {record['train_loss']:.3f}  "
                f"train {percent(record['train_accuracy'])}  "
                f"validation {percent(record['validation_accuracy'])}  {record['seconds']:.1f} s"
            )

        try:
            run = train_run(
                config,
                data,
                folder,
                resume=resume,
                workers=workers,
                on_start=start,
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


def _data_settings(name: str, given: dict[str, Any]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(DataConfig)}
    try:
        return data_settings(name, {k: v for k, v in given.items() if k in fields})
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error


def _preset(task: str, layer: str | None, size: str | None) -> tuple[str, Preset]:
    """The first preset of the task that has the requested layer and size, and its size."""
    presets = TASKS[task].presets
    for (kind, named), preset in presets.items():
        if layer in (None, kind) and size in (None, named):
            return named, preset
    requested = " ".join(
        f"--{name} {value}" for name, value in (("layer", layer), ("size", size)) if value
    )
    known = ", ".join(f"{named} of {kind}" for kind, named in presets)
    raise click.UsageError(f"{requested}: the presets of {task} are {known}")


def _new_config(
    task: str,
    size: str,
    preset: Preset,
    seed: int,
    devices: int | None,
    chosen: dict[str, Any],
    root: Path | None,
) -> tuple[RunConfig, Data]:
    model = _override(preset.model, chosen)
    training = _override(preset.training, chosen)
    data_config = _override(TASKS[task].data_for(preset), chosen)
    for part in (training, model, data_config):
        check_settings(part)
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
    config = make_run_config(
        task,
        data,
        dataclasses.replace(preset, model=model, training=training),
        size=size,
        data_config=data_config,
        seed=seed,
        devices=_device_count(devices, training.batch_size),
        git_revision=git_revision(),
    )
    return config, data


def _name(config: RunConfig) -> str:
    """Name of a run's folder; the first size of a task is not part of it."""
    first = next(iter(TASKS[config.task].presets))[1]
    size = "" if config.size == first else f"-{config.size}"
    return f"{config.model.layer}{size}-seed{config.seed}"


def _device_count(wanted: int | None, batch_size: int) -> int:
    """The requested number of devices, or the largest one that divides a batch."""
    present = len(jax.devices())
    if wanted is None:
        return max(n for n in range(1, present + 1) if batch_size % n == 0)
    if not 1 <= wanted <= present:
        raise click.UsageError(f"--devices {wanted}: there are {present}; choose 1 to {present}")
    if batch_size % wanted:
        raise click.UsageError(f"--batch-size {batch_size} does not divide among {wanted} devices")
    return wanted


def _override(preset: Config, chosen: dict[str, Any]) -> Config:
    names = {field.name for field in dataclasses.fields(preset)}
    return dataclasses.replace(preset, **{k: v for k, v in chosen.items() if k in names})


def _check_resume(folder: Path, config: RunConfig, given: dict[str, Any]) -> None:
    """A resumed run is the same run: flags may repeat its settings, not change them."""
    own = {name: getattr(config, name) for name in ("task", "size", "seed", "devices")}
    recorded = vars(config.data) | vars(config.model) | vars(config.training) | own
    for name, value in given.items():
        if recorded[name] != value:
            raise click.UsageError(
                f"--{name.replace('_', '-')} {value}: the run to resume has {recorded[name]}; "
                "leave the flag out, or start a new run"
            )
    present = len(jax.devices())
    if config.devices > present:
        raise RunError(
            f"the run shares batches among {config.devices} devices, and there are {present}: "
            "resume it where there are as many"
        )
    if (folder / MODEL_FILE).is_file():
        raise RunError(f"run {folder} has finished: there is nothing to resume")
    reason = failure_reason(folder)
    if reason is not None:
        raise RunError(f"run {folder} would fail again: {reason}")
    installed = installed_versions()
    changed = [name for name, version in config.versions.items() if installed.get(name) != version]
    if changed:
        err.print(f"versions differ from those the run began with: {', '.join(changed)}")


def _runs_of(task: str, size: str | None, *, finished: bool) -> list[Path]:
    found = [(run, load_config(run)) for run in find_runs(RUNS, finished=finished)]
    return [run for run, it in found if it.task == task and size in (None, it.size)]


def _newest_unfinished(task: str, size: str | None) -> Path:
    found = _runs_of(task, size, finished=False)
    if not found:
        raise RunError(f"no unfinished run below {RUNS / task}: start one without --resume")
    return found[-1]


def _free_folder(wanted: Path) -> Path:
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
