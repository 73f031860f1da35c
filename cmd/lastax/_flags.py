"""Flags made from the fields of configurations, and help texts in sections."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import click

from lastax.cmd._options import MethodName
from lastax.data import DATASETS
from lastax.training import TASKS, DataConfig, allowed_values

# Wider choices would break the layout of a help text, so they are part of its second column.
_WIDEST_CHOICES = 16


class SectionedCommand(click.Command):
    """A command whose help text lists its options in sections."""

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Collection[str]], **settings: Any
    ) -> None:
        """A command with the names of the parameters of each section.

        The parameters that no section names are those of the last section.
        """
        super().__init__(*arguments, **settings)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each section."""
        options = (param for param in self.get_params(ctx) if isinstance(param, click.Option))
        rest: dict[str | None, click.Option] = {param.name: param for param in options}
        for title, names in self._sections.items():
            params = [rest.pop(name) for name in names] or rest.values()
            records = [param.get_help_record(ctx) for param in params]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


def setting_names(config: type) -> list[str]:
    """The names of the fields that have a flag."""
    fields = dataclasses.fields(config)
    return [field.name for field in fields if field.metadata["help"] is not None]


def setting_options(*configs: type) -> Callable[[Callable], Callable]:
    """One flag per field of the configurations; omitted flags keep the value of the preset."""

    def decorate(command: Callable) -> Callable:
        for config in configs:
            for field in reversed(dataclasses.fields(config)):
                if field.metadata["help"] is not None:
                    command = _option(config, field)(command)
        return command

    return decorate


def flag_of(name: str, value: object = None) -> str:
    """The flag of a setting, with a value if there is one: `--batch-size 50`, `--no-anneal`."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    return flag if value is None else f"{flag} {value}"


# Settings that refine another one, which is off by default.
_REFINED = {
    "penalty_weight": "state_penalty",
    "penalty_warmup": "state_penalty",
    "reduce_epochs": "reduce_during_training",
    "reduce_method": "reduce_during_training",
    "reduce_tolerance": "reduce_during_training",
}


def check_flags(configs: Collection[Any], given: Mapping[str, Any]) -> None:
    """Refuse flags that the other settings make ineffective.

    Args:
        configs: the configurations with all settings.
        given: the settings that the user gave.

    Raises:
        click.UsageError: naming the flag, and the setting that it needs.
    """
    chosen = {name: value for config in configs for name, value in vars(config).items()}
    needed = {"norm_momentum": ("norm", "batch"), "minimum_learning_rate": ("anneal", True)}
    for config in configs:
        for field in dataclasses.fields(config):
            layers = field.metadata.get("layers")
            if layers and field.name in given and chosen["layer"] not in layers:
                raise click.UsageError(
                    f"{_given_flag(field.name, given)} has no effect on {chosen['layer']} layers: "
                    f"leave it out, or choose --layer {' or '.join(layers)}"
                )
    for name, other in _REFINED.items():
        if name in given and chosen[other] in ("none", 0):
            raise click.UsageError(
                f"{flag_of(name)} has no effect without {flag_of(other)}: leave it out"
            )
    for rising in _rising_rates(chosen):
        if given.keys() & {rising, "minimum_learning_rate", "anneal"}:
            raise click.UsageError(
                f"{flag_of('minimum_learning_rate', chosen['minimum_learning_rate'])} is above "
                f"{flag_of(rising, chosen[rising])}, so this learning rate would rise: lower it"
            )
    for name, (other, value) in needed.items():
        if name in given and chosen[other] != value:
            raise click.UsageError(
                f"{_given_flag(name, given)} has no effect with "
                f"{flag_of(other, chosen[other])}: leave it out, or pass {flag_of(other, value)}"
            )


def _rising_rates(chosen: Mapping[str, Any]) -> list[str]:
    """The learning rates that are below the one at the end of their cosine."""
    if not chosen.get("anneal"):
        return []
    names = ("learning_rate", "ssm_learning_rate")
    return [name for name in names if chosen[name] < chosen["minimum_learning_rate"]]


def _given_flag(name: str, given: Mapping[str, Any]) -> str:
    return flag_of(name, given[name]) if isinstance(given[name], bool) else flag_of(name)


# Settings whose values are names from a registry.
_NAMES = {"reduce_method": MethodName()}


def _option(config: type, field: dataclasses.Field) -> Callable[[Callable], Callable]:
    flag = flag_of(field.name)
    allowed = allowed_values(config)[field.name]
    kind: Any = click.Choice(allowed.choices) if allowed.choices else allowed.kind
    kind = _NAMES.get(field.name, kind)
    if kind is bool:
        flag, kind = f"{flag}/--no-{flag[2:]}", None
    text, metavar = field.metadata["help"], None
    if len("|".join(allowed.choices)) > _WIDEST_CHOICES:
        text, metavar = f"{text.removesuffix('.')}: {', '.join(allowed.choices)}.", "NAME"
    return click.option(
        flag,
        field.name,
        type=kind,
        default=None,
        metavar=metavar,
        help=f"{text}  [{_default(config, field.name)}]",
        show_default=False,
    )


def _default(config: type, name: str) -> str:
    """The data sets that have a setting, if not all, and its value where all presets agree."""
    parts = [
        part
        for task in TASKS.values()
        for preset in task.presets.values()
        for part in (task.data_for(preset), preset.model, preset.training)
    ]
    values = {getattr(part, name) for part in parts if isinstance(part, config)}
    if not values:
        return "default: by format"
    known = [data_set.name for data_set in DATASETS.values() if name in data_set.options]
    if config is DataConfig and known:
        values -= {None}
    default = str(values.pop()) if len(values) == 1 else "by task"
    return f"{', '.join(known)}; default: {default}" if known else f"default: {default}"
