"""Flags made of the fields of configurations."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

import lastax
from lastax.data import DATASETS


def setting_options(*configs: type) -> Callable[[Callable], Callable]:
    """One flag a field of the configurations; left out, the value of the task's preset holds."""

    def decorate(command: Callable) -> Callable:
        for config in configs:
            for field in reversed(dataclasses.fields(config)):
                if field.metadata["help"] is not None:
                    command = _option(config, field)(command)
        return command

    return decorate


def data_config(task: lastax.training.Task, preset: lastax.training.Preset) -> lastax.training.DataConfig:
    """The data of a task as a preset reads them."""
    return dataclasses.replace(task.data, length=preset.length, every=preset.every)


def _option(config: type, field: dataclasses.Field) -> Callable[[Callable], Callable]:
    flag = "--" + field.name.replace("_", "-")
    allowed = lastax.training.allowed_values(config)[field.name]
    kind: Any = click.Choice(allowed.choices) if allowed.choices else allowed.kind
    if kind is bool:
        flag, kind = f"{flag}/--no-{flag[2:]}", None
    text = f"{field.metadata['help']}  [{_holds(config, field.name)}]"
    return click.option(flag, field.name, type=kind, default=None, help=text, show_default=False)


def _holds(config: type, name: str) -> str:
    """Where a setting holds, if not everywhere, and its value where all presets have the same."""
    parts = [
        part
        for task in lastax.training.TASKS.values()
        for preset in task.presets.values()
        for part in (data_config(task, preset), preset.model, preset.training)
    ]
    values = {getattr(part, name) for part in parts if isinstance(part, config)}
    known = [data_set.name for data_set in DATASETS.values() if name in data_set.options]
    if config is lastax.training.DataConfig and known:
        values -= {None}
    default = str(values.pop()) if len(values) == 1 else "the task's own"
    return f"{', '.join(known)}; default: {default}" if known else f"default: {default}"
