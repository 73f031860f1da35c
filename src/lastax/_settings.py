"""Settings: documented fields of frozen configuration dataclasses, and their allowed values."""

import dataclasses
from collections.abc import Mapping
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

Value = TypeVar("Value")


def setting(
    default: Value,
    text: str | None,
    *,
    least: int = 1,
    most: float | None = None,
    below: float | None = None,
    layers: tuple[str, ...] = (),
) -> Value:
    """A field of a configuration dataclass.

    Args:
        default: default value.
        text: description for users, or None if users do not set this field.
        least: smallest allowed value of an integer setting. A float setting is never negative.
        most: inclusive upper limit of a float setting.
        below: exclusive upper limit of a float setting. Pass at most one of the two limits.
        layers: kinds of layers that use the setting; all if empty.
    """
    if layers and text is not None:
        text = f"{text.removesuffix('.')} ({', '.join(layers)})."
    metadata = {"help": text, "least": least, "most": most, "below": below, "layers": layers}
    return dataclasses.field(default=default, metadata=metadata)


def has_type(value: object, expected: type) -> bool:
    """Whether `value` has a simple type. An int also counts as a float; a bool only as a bool."""
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, (int, float) if expected is float else expected)


class AllowedValues(NamedTuple):
    """Allowed values of a setting.

    Attributes:
        choices: the allowed strings; empty if every value of type `kind` is allowed.
        kind: type of the value.
        optional: whether None is allowed.
    """

    choices: tuple[str, ...]
    kind: type
    optional: bool


def allowed_values(config: object) -> Mapping[str, AllowedValues]:
    """The allowed values of each setting of a configuration dataclass or instance."""
    config = config if isinstance(config, type) else type(config)
    allowed = {}
    for name, hint in get_type_hints(config).items():
        parts = get_args(hint)
        optional = NoneType in parts
        if optional:
            (hint,) = (part for part in parts if part is not NoneType)
        choices = get_args(hint)
        allowed[name] = AllowedValues(choices, str if choices else hint, optional)
    return allowed


def check_settings(config: Any) -> None:
    """Check the types, choices and ranges of all settings of a configuration.

    Raises:
        ValueError: if a setting is not allowed. The message has its name, its value and the
            allowed values.
    """
    all_allowed = allowed_values(config)
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), all_allowed[field.name]
        if value is None and allowed.optional:
            continue
        if allowed.choices and value not in allowed.choices:
            choices = ", ".join(allowed.choices)
            raise ValueError(f"{field.name} must be one of {choices}; got {value!r}")
        if not has_type(value, allowed.kind):
            raise ValueError(f"{field.name} must be {allowed.kind.__name__}; got {value!r}")
        if allowed.kind is int and value < field.metadata["least"]:
            raise ValueError(
                f"{field.name} must be at least {field.metadata['least']}; got {value}"
            )
        if allowed.kind is float:
            _check_range(field, value)


def _check_range(field: dataclasses.Field[float], value: float) -> None:
    most, below = field.metadata["most"], field.metadata["below"]
    if most is not None:
        inside, interval = 0 <= value <= most, f"in [0, {most:g}]"
    elif below is not None:
        inside, interval = 0 <= value < below, f"in [0, {below:g})"
    else:
        inside, interval = 0 <= value < float("inf"), "finite and not negative"
    if not inside:
        raise ValueError(f"{field.name} must be {interval}; got {value}")
