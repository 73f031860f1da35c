"""`lastax train`."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import equinox as eqx
import jax

from lastax import ModelConfig
from lastax.cmd._console import RUNS, Counter, emit, err, git_revision, out, percent
from lastax.cmd._distributed import (
    Processes,
    distributed_options,
    is_inner_process,
    run_inner_process,
)
from lastax.cmd._flags import (
    SectionedCommand,
    check_flags,
    flag_of,
    setting_names,
    setting_options,
)
from lastax.cmd._options import Name, debug_option, json_option, root_option
from lastax.data import DATASETS, Data, data_settings, open_data, reopen_data
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
    check_settings,
    failure_reason,
    find_runs,
    installed_versions,
    load_config,
    load_results,
    load_run,
    make_run_config,
)
from lastax.training import train as train_run

SIZES = sorted({size for task in TASKS.values() for _, size in task.presets})
# Settings of a network that change with its weights unchanged.
NOT_IN_WEIGHTS = ("dropout", "norm_momentum", "scan_method", "precision")
SECTIONS = {
    "What to train": ("task", "size", "source", "seed", "show_settings"),
    "Data": ("root", *setting_names(DataConfig)),
    "Network": setting_names(ModelConfig),
    "Training": (*setting_names(TrainingConfig), "devices", "workers"),
    "Several processes": ("distributed", "coordinator", "process", "processes", "join_timeout"),
    "Output": (),  # all others
}

# Fewest steps per epoch where `train` chooses the batch size.
STEPS_OF_SMALL_DATA = 4

Parts = tuple[DataConfig, ModelConfig, TrainingConfig]
Config = TypeVar("Config", ModelConfig, TrainingConfig, DataConfig)


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
    chosen |= _data_settings(TASKS[task].data.name, chosen)
    if if_missing:
        finished = [folder] if folder is not None else _runs_of(task, size, finished=True)
        if finished and (finished[-1] / MODEL_FILE).is_file():
            if as_json:
                emit(load_results(finished[-1]))
            return
        unfinished = [folder] if folder is not None else _runs_of(task, size, finished=False)
        resume = bool(unfinished) and unfinished[-1].exists()
    start = None
    if show_settings:
        parts = _parts_from(source, chosen) if source else _parts(task, size, chosen)
        _show(parts, as_json)
        return
    if resume:
        folder = folder or _newest_unfinished(task, size)
        config = load_config(folder)
        # Its own data may have been moved; `reopen_data` checks that they are the same.
        data_path = chosen.pop("data", None)
        given = {"task": task, "size": size, "seed": seed, **chosen}
        _check_resume(folder, config, {k: v for k, v in given.items() if v is not None})
        config = dataclasses.replace(config, devices=_devices_to_resume_on(devices, config))
        with err.status(f"opening {config.data.name}"):
            data = reopen_data(config, root, data=data_path)
    else:
        if source is None:
            size, preset = _preset(task, chosen.get("layer"), size)
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
    data_config, model, training = _override_all(
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
    """The requested number of devices, or the largest one that divides a batch.

    Several processes use all devices.
    """
    present = len(jax.devices())
    if jax.process_count() > 1:
        if wanted not in (None, present):
            raise click.UsageError(f"--devices {wanted}: --distributed uses all {present} devices")
        wanted = present
    if wanted is None:
        return max(n for n in range(1, present + 1) if batch_size % n == 0)
    if not 1 <= wanted <= present:
        raise click.UsageError(f"--devices {wanted}: there are {present}; choose 1 to {present}")
    if batch_size % wanted:
        raise click.UsageError(
            f"--batch-size {batch_size} does not divide among {wanted} devices; pass --batch-size "
            f"{max(batch_size - batch_size % wanted, wanted)} or another number of --devices"
        )
    return wanted


def _devices_to_resume_on(wanted: int | None, config: RunConfig) -> int:
    """The number of devices of the run, if it is not chosen and there are as many."""
    if wanted is None and jax.process_count() == 1 and config.devices <= len(jax.devices()):
        wanted = config.devices
    devices = _device_count(wanted, config.training.batch_size)
    if devices != config.devices:
        err.print(
            f"the run began on {config.devices} devices and continues on {devices}: "
            "rounding errors will differ"
        )
    return devices


def _override(preset: Config, chosen: Mapping[str, Any]) -> Config:
    names = {field.name for field in dataclasses.fields(preset)}
    return dataclasses.replace(preset, **{k: v for k, v in chosen.items() if k in names})


def _override_all(parts: Parts, chosen: Mapping[str, Any]) -> Parts:
    """The settings that flags change, checked."""
    data, model, training = parts
    changed = _override(data, chosen), _override(model, chosen), _override(training, chosen)
    for part in changed:
        check_settings(part)
    check_flags(changed, chosen)
    return changed


def _parts(task: str, size: str | None, chosen: Mapping[str, Any]) -> Parts:
    """The settings of a preset, with those that flags change."""
    _, preset = _preset(task, chosen.get("layer"), size)
    return _override_all((TASKS[task].data_for(preset), preset.model, preset.training), chosen)


def _parts_from(source: Path, chosen: Mapping[str, Any]) -> Parts:
    """The settings of a run, with those that flags change.

    Raises:
        click.UsageError: if a flag does not suit the weights of the run.
    """
    config = load_config(source)
    fixed = {k: v for k, v in vars(config.model).items() if k not in NOT_IN_WEIGHTS}
    fixed |= {k: v for k, v in vars(config.data).items() if k not in ("data", "skip_bad")}
    for name, value in chosen.items():
        if fixed.get(name, value) != value:
            raise click.UsageError(
                f"{flag_of(name, value)}: the network of {source} has "
                f"{flag_of(name, fixed[name])}; leave the flag out, or train without --from"
            )
    return _override_all((config.data, config.model, config.training), chosen)


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
    data_config, model, training = _parts_from(source, chosen)
    with err.status(f"opening {data_config.name}"):
        data = reopen_data(dataclasses.replace(config, data=data_config), root)
    training = _fitting(training, data, chosen)
    continued = dataclasses.replace(
        config,
        seed=config.seed if seed is None else seed,
        data=data_config,
        model=model,
        training=training,
        devices=_device_count(devices, training.batch_size),
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


def _show(parts: Parts, as_json: bool) -> None:
    """Print settings as flags, without those that have no effect."""
    data, model, training = parts
    shown: dict[str, dict[str, Any]] = {}
    titled: list[tuple[str, DataConfig | ModelConfig | TrainingConfig]]
    titled = [("data", data), ("network", model), ("training", training)]
    for title, part in titled:
        layers = {field.name: field.metadata.get("layers") for field in dataclasses.fields(part)}
        shown[title] = {
            name: getattr(part, name)
            for name in setting_names(type(part))
            if model.layer in (layers[name] or (model.layer,))
        }
    own = DATASETS[data.name].options
    shown["data"] = {
        name: value for name, value in shown["data"].items() if name in own or value is not None
    }
    if as_json:
        emit(shown)
        return
    for title, values in shown.items():
        out.print(f"{title}:")
        for name, value in values.items():
            out.print(f"  {flag_of(name, value)}{' (not given)' if value is None else ''}")


def _check_resume(folder: Path, config: RunConfig, given: dict[str, Any]) -> None:
    """A resumed run is the same run: flags may repeat its settings, not change them."""
    own = {name: getattr(config, name) for name in ("task", "size", "seed")}
    recorded = vars(config.data) | vars(config.model) | vars(config.training) | own
    for name, value in given.items():
        if recorded[name] != value:
            raise click.UsageError(
                f"--{name.replace('_', '-')} {value}: the run to resume has {recorded[name]}; "
                "leave the flag out, or start a new run"
            )
    if (folder / MODEL_FILE).is_file():
        raise RunError(
            f"run {folder} has finished: there is nothing to resume; to train further, start a "
            f"run from it: lastax train --from {folder}"
        )
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
