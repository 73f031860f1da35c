"""The settings of a training: those of a preset or a run, with those that flags change."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from lastax import ModelConfig
from lastax.cmd._console import emit, out
from lastax.cmd._flags import check_flags, flag_of, setting_names
from lastax.cmd._resume import check_settings_of_run
from lastax.data import DATASETS, data_settings
from lastax.training import (
    TASKS,
    DataConfig,
    Preset,
    TrainingConfig,
    check_settings,
    load_config,
)

# Settings of a network that change with its weights unchanged.
NOT_IN_WEIGHTS = ("dropout", "norm_momentum", "scan_method", "precision")

Parts = tuple[DataConfig, ModelConfig, TrainingConfig]
Config = TypeVar("Config", ModelConfig, TrainingConfig, DataConfig)


def chosen_data_settings(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the data set `name` among the given ones.

    Raises:
        click.UsageError: if the data set does not have one of them.
    """
    fields = {field.name for field in dataclasses.fields(DataConfig)}
    try:
        return data_settings(name, {k: v for k, v in given.items() if k in fields})
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error


def preset_for(task: str, layer: str | None, size: str | None) -> tuple[str, Preset]:
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


def _override(preset: Config, chosen: Mapping[str, Any]) -> Config:
    names = {field.name for field in dataclasses.fields(preset)}
    return dataclasses.replace(preset, **{k: v for k, v in chosen.items() if k in names})


def override_all(parts: Parts, chosen: Mapping[str, Any]) -> Parts:
    """The settings that flags change, checked."""
    data, model, training = parts
    changed = _override(data, chosen), _override(model, chosen), _override(training, chosen)
    for part in changed:
        check_settings(part)
    check_flags(changed, chosen)
    return changed


def parts_of_preset(task: str, size: str | None, chosen: Mapping[str, Any]) -> Parts:
    """The settings of a preset, with those that flags change."""
    _, preset = preset_for(task, chosen.get("layer"), size)
    return override_all((TASKS[task].data_for(preset), preset.model, preset.training), chosen)


def parts_of_run(run: Path, given: Mapping[str, Any]) -> Parts:
    """The settings of a run, which flags may repeat but not change."""
    config = load_config(run)
    check_settings_of_run(config, given)
    return config.data, config.model, config.training


def parts_from_run(source: Path, chosen: Mapping[str, Any]) -> Parts:
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
    # A run that removed states during its training has its final size.
    training = dataclasses.replace(config.training, reduce_during_training=0.0)
    return override_all((config.data, config.model, training), chosen)


def print_settings(parts: Parts, as_json: bool) -> None:
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
