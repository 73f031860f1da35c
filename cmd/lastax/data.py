"""`lastax data`: what there is, getting it, making it, checking it, looking at it."""

import dataclasses
import functools
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import lastax
from lastax._files import write_atomically
from lastax.cmd._check import Split, as_answer, check_split
from lastax.cmd._console import debug_option, emit, err, json_option, out, progress_bar
from lastax.cmd._draw_data import draw_data
from lastax.cmd._flags import setting_options
from lastax.cmd._open import data_settings, open_data, root_option
from lastax.data import DATASETS, Data, DataError, DataSet, data_folder
from lastax.data._fetch import fetch
from lastax.data._labels import all_labels

_SAMPLES = 8
# What a generator gets from the program itself, not as one of its sizes.
_OF_PROGRAM = {"root", "on_progress"}


@click.group()
def data() -> None:
    """Data sets: list, fetch, make, check and show them."""


def task_argument(command: Callable) -> Callable:
    """TASK, the name of a data set."""
    return click.argument("task", type=click.Choice(sorted(DATASETS)))(command)


@data.command("list")
@root_option
@json_option
@debug_option
def list_data(root: Path | None, as_json: bool) -> None:
    """What each task's data are, whether they are here, and how to get them."""
    folder = data_folder(root)
    rows = [_listed(data_set, folder) for data_set in DATASETS.values()]
    if as_json:
        emit({"root": str(folder), "tasks": rows})
        return
    table = Table(title=f"data below {folder}")
    for name in ("task", "here", "get it by", "size", "license"):
        table.add_column(name, overflow="fold")
    for row in rows:
        here = {True: "yes", False: "no", None: ""}[row["present"]]
        table.add_row(row["task"], here, row["get_it_by"], row["size"], row["license"])
    out.print(table)
    for row in rows:
        if not row["present"]:
            out.print(f"{row['task']}: {row['needs']}")


def _listed(data_set: DataSet, folder: Path) -> dict[str, Any]:
    own = "data" in data_set.options
    ways = {
        "--data": own,
        "fetch": bool(data_set.remotes),
        "make": data_set.generate is not None,
    }
    return {
        "task": data_set.name,
        "present": None if own else data_set.present(folder),
        "get_it_by": ", ".join(way for way, there in ways.items() if there),
        "needs": data_set.needs,
        "size": data_set.size,
        "license": data_set.license,
        "citation": data_set.citation,
        "records": dict(data_set.expected),
    }


@data.command("fetch")
@task_argument
@root_option
@json_option
@debug_option
def fetch_data(task: str, root: Path | None, as_json: bool) -> None:
    """Download the data of TASK from their publisher, check them and unpack them.

    What broke off is gone on with.
    """
    data_set, folder = DATASETS[task], data_folder(root)
    if not data_set.remotes:
        raise click.UsageError(f"{task} is not offered for download; it needs {data_set.needs}")
    made = []
    for remote in data_set.remotes:
        with _bytes_bar(remote.unpacks_to) as bar:
            made.append(
                fetch(
                    remote,
                    folder,
                    on_progress=_advance(bar, "downloading"),
                    on_unpack=_advance(bar, "unpacking"),
                )
            )
    if as_json:
        emit({"task": task, "files": [str(path) for path in made]})
    else:
        out.print(f"{task}: {', '.join(map(str, made))}")


def _bytes_bar(name: str) -> Progress:
    return Progress(
        TextColumn(name + " {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _advance(bar: Progress, what: str) -> Callable[[int, int], None]:
    """A bar that appears when there is something to tell."""
    shown: list[Any] = []

    def advance(done: int, total: int) -> None:
        if not shown:
            shown.append(bar.add_task(what, total=total))
        bar.update(shown[0], completed=done, total=total)

    return advance


@data.group("make")
def make() -> None:
    """Make the data of a task anew, by its generator: the same ones for the same flags."""


def _add_generator(data_set: DataSet) -> None:
    """A command that has a flag for each argument of the data set's generator."""
    generate = data_set.generate
    assert generate is not None
    arguments = {
        name: it for name, it in inspect.signature(generate).parameters.items()
        if name not in _OF_PROGRAM
    }  # fmt: skip
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
            out.print(f"{data_set.name}: made below {folder}")

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
    """The types of a generator's arguments, and what its docstring says of them and of all ("")."""
    while isinstance(generate, functools.partial):
        generate = generate.func
    told = inspect.getdoc(generate) or ""
    texts = {"": told.partition("\n\n")[0].replace("`", "")}
    for name, text in re.findall(r"^    (\w+): (.+)$", told, re.MULTILINE):
        texts[name] = text[:1].upper() + text[1:]
    return get_type_hints(generate), texts


def _click_type(hint: Any) -> Any:
    return click.Choice(get_args(hint)) if get_origin(hint) is Literal else hint


for _data_set in DATASETS.values():
    if _data_set.generate is not None:
        _add_generator(_data_set)


@data.command("check")
@task_argument
@root_option
@click.option("--any-size", is_flag=True, help="Do not compare numbers of records.")
@json_option
@debug_option
@setting_options(lastax.DataConfig)
def check_data(
    task: str, root: Path | None, any_size: bool, as_json: bool, **settings: Any
) -> None:
    """Read every record of TASK and compare with what is published.

    Exit status 1 if anything is wrong: records that are missing or damaged, labels, lengths,
    tokens or numbers that cannot be.
    """
    opened, damage = _open_whatever(_config(task, settings), root)
    published = {} if any_size else DATASETS[task].expected
    splits: dict[str, Split] = {}
    with progress_bar(task) as bar:
        for split, source in opened.sources.items():
            shown = bar.add_task(split, total=len(source), note="")
            splits[split] = check_split(
                opened,
                split,
                published=published.get(split),
                on_record=functools.partial(bar.advance, shown),
            )
    wrong = damage is not None or any(split.problems for split in splits.values())
    if as_json:
        emit(
            {
                "task": task,
                "ok": not wrong,
                "damaged": opened.skipped,
                "first_damage": damage,
                "splits": {name: as_answer(split) for name, split in splits.items()},
            }
        )
    else:
        _print_check(task, opened, splits)
        if damage is not None:
            out.print(f"{opened.skipped} damaged, the first: {damage}")
        for name, checked in splits.items():
            for problem in checked.problems:
                out.print(f"{name}: {problem}")
        out.print("all is well" if not wrong else "not as it should be")
    if wrong:
        raise click.exceptions.Exit(1)


def _config(task: str, settings: dict[str, Any]) -> lastax.DataConfig:
    config = dataclasses.replace(lastax.TASKS[task].data, **data_settings(task, settings))
    lastax.check_settings(config)
    return config


def _open_whatever(config: lastax.DataConfig, root: Path | None) -> tuple[Data, str | None]:
    """The data, and what is wrong with the first damaged record if there is one."""
    try:
        return open_data(config, root), None
    except DataError as error:
        if config.skip_bad:
            raise
        # What is missing altogether fails again.
        return open_data(dataclasses.replace(config, skip_bad=True), root), str(error)


def _print_check(task: str, opened: Data, splits: dict[str, Split]) -> None:
    sizes = f"{opened.length:,} steps of {opened.input_size}"
    table = Table(title=f"{task}: {len(opened.classes)} classes, {sizes}")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    table.add_row("records", *(f"{split.records:,}" for split in splits.values()))
    known = [split.published for split in splits.values()]
    if any(known):
        table.add_row("published", *("" if n is None else f"{n:,}" for n in known))
    for index, what in enumerate(("shortest", "median", "longest")):
        table.add_row(what, *(f"{split.lengths[index]:,}" for split in splits.values()))
    table.add_section()
    for name in opened.classes:
        table.add_row(name, *(f"{100 * split.shares[name]:.2f} %" for split in splits.values()))
    out.print(table)


@data.command("show")
@task_argument
@root_option
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="train",
    help="Where the records are from.",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(1, 64), default=_SAMPLES, help="How many records to draw."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Which ones.")
@click.option(
    "--out", "path", type=click.Path(path_type=Path, dir_okay=False), help="[default: TASK.png]"
)
@json_option
@debug_option
@setting_options(lastax.DataConfig)
def show_data(
    task: str,
    root: Path | None,
    split: str,
    count: int,
    seed: int,
    path: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Draw a few records of TASK, of as many classes as there are, and how often each occurs."""
    path = path or Path(f"{task}.png")
    if path.exists():
        raise lastax.RunError(f"{path} is there already: name another by --out, or remove it")
    opened = open_data(_config(task, settings), root)
    labels = {name: all_labels(source) for name, source in opened.sources.items()}
    shares = {
        name: np.bincount(found, minlength=len(opened.classes)) / len(found)
        for name, found in labels.items()
    }
    numbers = _of_all_classes(labels[split], count, seed)
    samples = {
        f"{opened.classes[labels[split][number]]}  ({split} {number})": opened.sources[split][
            number
        ]
        for number in numbers
    }
    sizes = ", ".join(f"{len(found):,} {name}" for name, found in labels.items())
    figure = draw_data(
        opened,
        DATASETS[task].kind,
        samples=samples,
        shares=shares,
        title=f"{task}: {sizes}; {opened.length:,} steps of {opened.input_size}",
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture.getvalue())
    if as_json:
        emit({"task": task, "picture": str(path), "split": split, "records": numbers})
    else:
        out.print(path)


def _of_all_classes(labels: np.ndarray, count: int, seed: int) -> list[int]:
    """Numbers of records, drawn so that classes take turns."""
    drawn = np.random.default_rng(seed).permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        own = drawn[labels[drawn] == label]
        turn[own] = np.arange(len(own))
    order = drawn[np.lexsort((labels[drawn], turn[drawn]))]
    return order[:count].tolist()
