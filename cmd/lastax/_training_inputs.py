"""Configuration, data and initial weights of a training: new, continued or resumed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import equinox as eqx

from lastax.cmd._console import RUNS, err, git_revision
from lastax.cmd._resume import check_resume, device_count, devices_to_resume_on
from lastax.cmd._train_settings import override_all, parts_from_run
from lastax.data import DATASETS, Data, open_data, reopen_data
from lastax.nn import Network
from lastax.serialization import named_arrays, with_named_arrays
from lastax.training import (
    TASKS,
    Preset,
    RunConfig,
    TrainingConfig,
    build_from_config,
    installed_versions,
    load_config,
    load_run,
    make_run_config,
)

# Fewest steps per epoch where `lastax train` chooses the batch size.
STEPS_OF_SMALL_DATA = 4


def new_run(
    task: str,
    size: str,
    preset: Preset,
    chosen: dict[str, Any],
    *,
    seed: int,
    devices: int | None,
    root: Path | None,
) -> tuple[RunConfig, Data]:
    """Configuration and data of a run with the settings of a preset."""
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


def continued_run(
    source: Path,
    chosen: dict[str, Any],
    *,
    seed: int | None,
    devices: int | None,
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


def resumed_run(
    folder: Path, given: Mapping[str, Any], *, devices: int | None, root: Path | None
) -> tuple[RunConfig, Data]:
    """Configuration and data of a run that was interrupted.

    Args:
        folder: the run.
        given: settings of the run that flags repeat. `data` may have another value, if the data
            were moved; `reopen_data` checks that they are the same.
        devices: number of devices. If None, that of the run, if as many are present.
        root: folder of the data sets.
    """
    config = load_config(folder)
    check_resume(folder, config, given)
    config = dataclasses.replace(config, devices=devices_to_resume_on(devices, config))
    with err.status(f"opening {config.data.name}"):
        return config, reopen_data(config, root, data=given.get("data"))


def unused_folder(config: RunConfig) -> Path:
    """A folder that does not exist yet, named after the run."""
    wanted = RUNS / config.task / _name(config)
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _name(config: RunConfig) -> str:
    """Name of a run's folder; the first size of a task is not part of it."""
    first = next(iter(TASKS[config.task].presets))[1]
    size = "" if config.size == first else f"-{config.size}"
    return f"{config.model.layer}{size}-seed{config.seed}"


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
