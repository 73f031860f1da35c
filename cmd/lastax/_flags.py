"""Flags made from the fields of configurations."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from lastax.data import DATASETS
from lastax.training import TASKS, DataConfig, allowed_values


def setting_options(*configs: type) -> Callable[[Callable], Callable]:
    """One flag per field of the configurations; omitted flags keep the value of the preset."""

    def decorate(command: Callable) -> Callable:
        for config in configs:
            for field in reversed(dataclasses.fields(config)):
                if field.metadata["help"] is not None:
                    command = _option(config, field)(command)
        return command

    return decorate


def _option(config: type, field: dataclasses.Field) -> Callable[[Callable], Callable]:
    flag = "--" + field.name.replace("_", "-")
    allowed = allowed_values(config)[field.name]
    kind: Any = click.Choice(allowed.choices) if allowed.choices else allowed.kind
    if kind is bool:
        flag, kind = f"{flag}/--no-{flag[2:]}", None
    text = f"{field.metadata['help']}  [{_default(config, field.name)}]"
    return click.option(flag, field.name, type=kind, default=None, help=text, show_default=False)


def _default(config: type, name: str) -> str:
    """The data sets that have a setting, if not all, and its value where all presets agree."""
    parts = [
        part
        for task in TASKS.values()
        for preset in task.presets.values()
        for part in (task.data_for(preset), preset.model, preset.training)
    ]
    values = {getattr(part, name) for part in parts if isinstance(part, config)}
    known = [data_set.name for data_set in DATASETS.values() if name in data_set.options]
    if config is DataConfig and known:
        values -= {None}
    default = str(values.pop()) if len(values) == 1 else "by task"
    return f"{', '.join(known)}; default: {default}" if known else f"default: {default}"
