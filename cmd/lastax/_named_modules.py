"""The modules of users that `lastax --import` names."""

import importlib
import os
import sys
from collections.abc import Iterable

import click

# Read by worker processes too, which import the same modules.
VARIABLE = "LASTAX_IMPORT"


def named_modules() -> list[str]:
    """The modules that this command and its worker processes import."""
    return list(filter(None, os.environ.get(VARIABLE, "").split(",")))


def add_modules(modules: Iterable[str]) -> None:
    """Name further modules, after those of the environment variable `LASTAX_IMPORT`."""
    os.environ[VARIABLE] = ",".join([*named_modules(), *modules])


def import_named_modules() -> None:
    """Import the named modules, from the current folder or where they are installed.

    Raises:
        click.UsageError: if there is no such module, or if it cannot be imported.
    """
    for module in named_modules():
        if module.startswith(".") or "/" in module:
            raise click.UsageError(f"--import {module}: pass a name as in Python, such as a.b")
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise click.UsageError(f"--import {module}: {error}") from error
        except Exception as error:  # Whatever the code of the user raises.
            reason = f"{type(error).__name__}: {error}"
            raise click.UsageError(f"--import {module}: {reason}") from error
