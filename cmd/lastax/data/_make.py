"""`lastax data make`: one command per generator, with one flag per argument."""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from lastax.cmd._console import emit, out, progress_bar
from lastax.cmd._options import debug_option, json_option, root_option
from lastax.data import DATASETS, DataSet, data_folder

# Arguments of a generator that are not flags of their own.
_NOT_FLAGS = {"root", "on_progress"}


@click.group()
def make() -> None:
    """Generate the data of a task.

    The same flags generate the same data.
    """


def _add_generator(data_set: DataSet) -> None:
    """Add a command with one flag per argument of the generator of a data set."""
    generate = data_set.generate
    assert generate is not None
    arguments = {
        name: it
        for name, it in inspect.signature(generate).parameters.items()
        if name not in _NOT_FLAGS
    }
    hints, texts = _documented(generate)

    @root_option
    @json_option
    @debug_option
    def command(root: Path | None, as_json: bool, **sizes: Any) -> None:
        folder = data_folder(root)
        with progress_bar(data_set.name) as bar:
            shown = bar.add_task("", total=None, note="")
            generate(
                folder,
                on_progress=lambda done, total: bar.update(shown, completed=done, total=total),
                **sizes,
            )
        if as_json:
            emit({"task": data_set.name, "root": str(folder), **sizes})
        else:
            out.print(f"{data_set.name}: generated in {folder}")

    for name, argument in reversed(arguments.items()):
        option = click.option(
            "--" + name.replace("_", "-"),
            name,
            type=_click_type(hints[name]),
            default=argument.default,
            help=texts.get(name, ""),
        )
        command = option(command)
    make.command(data_set.name, help=texts[""])(command)


def _documented(generate: Callable) -> tuple[dict[str, Any], dict[str, str]]:
    """Types of the arguments of a generator, and their descriptions; "" is its summary."""
    while isinstance(generate, functools.partial):
        generate = generate.func
    doc = inspect.getdoc(generate) or ""
    texts = {"": doc.partition("\n\n")[0].replace("`", "")}
    for name, text in re.findall(r"^    (\w+): (.+)$", doc, re.MULTILINE):
        texts[name] = text[:1].upper() + text[1:]
    return get_type_hints(generate), texts


def _click_type(hint: Any) -> Any:
    return click.Choice(get_args(hint)) if get_origin(hint) is Literal else hint


for _data_set in DATASETS.values():
    if _data_set.generate is not None:
        _add_generator(_data_set)
