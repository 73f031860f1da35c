"""Settings: fields of a frozen dataclass of which users are told, and what each may be."""

import dataclasses
from collections.abc import Mapping
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints


def setting(default: Any, text: str | None, *, least: int = 1) -> Any:
    """A field of a configuration, with what a user reads of it; None if it is not theirs to set.

    `least` is the smallest value of a whole number.
    """
    return dataclasses.field(default=default, metadata={"help": text, "least": least})


def is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a simple type. Every int is a float, no bool is an int."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


class Allowed(NamedTuple):
    """What a setting may be: one of `choices` if there are any, else of `kind`; or None."""

    choices: tuple[str, ...]
    kind: type
    optional: bool


def allowed_values(config: Any) -> Mapping[str, Allowed]:
    """What each setting of a configuration, or of a class of them, may be."""
    config = config if isinstance(config, type) else type(config)
    found = {}
    for name, hint in get_type_hints(config).items():
        parts = get_args(hint)
        optional = NoneType in parts
        if optional:
            (hint,) = (part for part in parts if part is not NoneType)
        choices = get_args(hint)
        found[name] = Allowed(choices, str if choices else hint, optional)
    return found


def check_settings(config: Any) -> None:
    """Compare the choices, signs and ranges of a configuration.

    Raises:
        ValueError: naming the setting, the value, and what it may be.
    """
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), allowed_values(config)[field.name]
        if value is None and allowed.optional:
            continue
        if allowed.choices and value not in allowed.choices:
            choices = ", ".join(allowed.choices)
            raise ValueError(f"{field.name} must be one of {choices}; got {value!r}")
        if not is_a(value, allowed.kind):
            raise ValueError(f"{field.name} must be {allowed.kind.__name__}; got {value!r}")
        if allowed.kind is int and value < field.metadata["least"]:
            raise ValueError(
                f"{field.name} must be at least {field.metadata['least']}; got {value}"
            )
        if allowed.kind is float and not 0 <= value < float("inf"):
            raise ValueError(f"{field.name} must be finite and not negative; got {value}")
    for name in ("dropout", "label_smoothing", "norm_momentum"):
        if not 0 <= getattr(config, name, 0.0) < 1:
            raise ValueError(f"{name} must be in [0, 1); got {getattr(config, name)}")
