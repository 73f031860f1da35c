"""Values of the options of `lastax sweep`: lists, and flags for training."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import click

import lastax
from lastax.cmd._options import MethodName

UNIDIRECTIONAL = "-unidirectional"


class Several(click.ParamType):
    """Values separated by commas."""

    def __init__(self, name: str, one: Callable[[str], Any], *, may_be_empty: bool = False) -> None:
        self.name = name
        self._one = one
        self._may_be_empty = may_be_empty

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Any]:
        """From text to the list of different values."""
        if isinstance(value, list):
            return value
        if self._may_be_empty and not value.strip():
            return []
        try:
            return list(dict.fromkeys(self._one(part) for part in value.split(",")))
        except ValueError as error:
            self.fail(f"{value!r} is no list of {self.name} with commas: {error}", param, ctx)


# The sweep chooses these flags of `lastax train` itself, or they train nothing.
_OWN_FLAGS = (
    *("--task", "--layer", "--size", "--seed", "--out", "--resume", "--if-missing", "--from"),
    *("--data-dir", "--data", "--json", "--debug", "--help", "-h", "--show-settings"),
)


class FlagList(click.ParamType):
    """Flags of `lastax train` for a sweep, as a shell reads them."""

    name = "flags"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """From text to the list of words."""
        try:
            words = shlex.split(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        for word in words:
            if word.partition("=")[0] in _OWN_FLAGS:
                self.fail(f"{word} cannot be changed here; the sweep sets it", param, ctx)
        return words


def ratio(text: str) -> float:
    """A share of states, from text."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number, as in 0.1,0.3") from None
    if not 0 <= number < 1:
        raise ValueError(f"{text} must be at least 0 and below 1")
    return number


def _one_of(known: Callable[[], list[str]], what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in known():
            raise ValueError(f"no {what} {text!r}; choose one of {', '.join(known())}")
        return text

    return check


def _layers() -> list[str]:
    kinds = lastax.training.allowed_values(lastax.ModelConfig)["layer"].choices
    return [*kinds, *(kind + UNIDIRECTIONAL for kind in kinds)]


_METHOD = _one_of(lambda: MethodName().choices, "method")
METHOD_NAMES = Several("methods", _METHOD)
METHOD_NAMES_OR_NONE = Several("methods", _METHOD, may_be_empty=True)
TASK_NAMES = Several("tasks", _one_of(lambda: list(lastax.training.TASKS), "task"))
LAYER_NAMES = Several("layers", _one_of(_layers, "layer"))
