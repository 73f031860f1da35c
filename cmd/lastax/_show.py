"""`lastax data show`: a picture of what a data set is made of."""

import io
from pathlib import Path
from typing import Any

import click
import numpy as np
from jaxtyping import Int

import lastax
from lastax.serialization import write_atomically
from lastax.cmd._console import debug_option, emit, json_option, out
from lastax.cmd._draw_data import draw_data
from lastax.cmd._flags import setting_options
from lastax.cmd._open import described_data, open_data, root_option, task_argument
from lastax.data import DATASETS
from lastax.data._labels import all_labels


@click.command()
@task_argument
@root_option
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="train",
    help="Where the records are from.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1, 64), default=8, help="How many records to draw.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Which ones.")
@click.option(
    "--out", "path", type=click.Path(path_type=Path, dir_okay=False), help="[default: TASK.png]"
)
@json_option
@debug_option
@setting_options(lastax.training.DataConfig)
def show(
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
        raise lastax.serialization.RunError(f"{path} is there already: name another by --out, or remove it")
    opened = open_data(described_data(task, settings), root)
    labels = {name: all_labels(source) for name, source in opened.sources.items()}
    shares = {
        name: np.bincount(found, minlength=len(opened.classes)) / len(found)
        for name, found in labels.items()
    }
    numbers = of_all_classes(labels[split], count, seed)
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


def of_all_classes(labels: Int[np.ndarray, " n"], count: int, seed: int) -> list[int]:
    """Numbers of records, drawn so that classes take turns."""
    drawn = np.random.default_rng(seed).permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        own = drawn[labels[drawn] == label]
        turn[own] = np.arange(len(own))
    order = drawn[np.lexsort((labels[drawn], turn[drawn]))]
    return order[:count].tolist()
