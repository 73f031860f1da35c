"""`lastax sweep`."""

import csv
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

import lastax
from lastax.serialization import write_atomically
from lastax.cmd._cells import POLISHING_STEPS, Grid, measured_cells
from lastax.cmd._console import (
    RUNS,
    debug_option,
    emit,
    err,
    json_option,
    out,
    report_unstable,
    resolve_run,
    seed_option,
)
from lastax.cmd._open import Place, place_options
from lastax.cmd._pruning import (
    SUMMARIES,
    CalibrationSettings,
    calibration_options,
    finetune_rate_option,
)
from lastax.cmd._workers import work_apart

TABLE, ANSWER, PICTURE = "sweep.csv", "sweep.json", "sweep.png"
ONE_WAY = "-one-way"
LAYERS = lastax.training.allowed_values(lastax.ModelConfig)["layer"].choices


class Several(click.ParamType):
    """Values with commas between them."""

    def __init__(self, name: str, one: Any) -> None:
        self.name = name
        self._one = one

    def convert(self, value: Any, param: Any, ctx: Any) -> list[Any]:
        """From text to the list of different values."""
        if isinstance(value, list):
            return value
        try:
            return list(dict.fromkeys(self._one(part) for part in value.split(",")))
        except ValueError as error:
            self.fail(f"{value!r}, a list of {self.name} with commas: {error}", param, ctx)


def _ratio(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number, as in 0.1,0.3") from None
    if not 0 <= number < 1:
        raise ValueError(f"{text} must be at least 0 and below 1")
    return number


def _one_of(known: Iterable[str], what: str) -> Any:
    names = list(known)

    def check(text: str) -> str:
        if text not in names:
            raise ValueError(f"no {what} {text!r}; there are {', '.join(names)}")
        return text

    return check


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--task",
    "tasks",
    type=Several("tasks", _one_of(lastax.training.TASKS, "task")),
    help="Or: presets of these tasks, trained if they never were.",
)
@click.option(
    "--layer",
    "layers",
    type=Several("layers", _one_of([*LAYERS, *(x + ONE_WAY for x in LAYERS)], "layer")),
    default="s5",
    help=f"Kinds of layers of these presets; s5{ONE_WAY} runs in one direction alone.",
)
@click.option("--size", default="small", help="Size of these presets.")
@click.option("--seeds", type=Several("seeds", int), default="0", help="Seeds of these presets.")
@click.option(
    "--methods",
    type=Several("methods", _one_of(SUMMARIES, "method")),
    default=",".join(SUMMARIES),
    help="Which to compare.",
)
@click.option(
    "--ratios",
    type=Several("numbers", _ratio),
    default="0.1,0.3,0.5,0.7,0.9",
    help="Shares of states to remove.",
)
@click.option(
    "--finetune",
    "epochs",
    type=click.IntRange(0),
    default=0,
    help="Also train each pruned network for so many epochs.",
)
@finetune_rate_option
@click.option(
    "--distill", is_flag=True, help="And once more without labels, by the whole network's answers."
)
@click.option(
    "--norms",
    type=Several("methods", _one_of(SUMMARIES, "method")),
    default="last",
    help="Also measure batch norms again after these methods.",
)
@click.option(
    "--polish",
    type=Several("methods", _one_of(SUMMARIES, "method")),
    default=[],
    help=f"Also polish for {POLISHING_STEPS} steps a block after these methods.  [default: none]",
)
@click.option("--limit", type=click.IntRange(1), help="Evaluate on so many records of a split.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    help="Processes, each with whole runs and cores of its own.",
)
@calibration_options
@seed_option
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the sweep; one that is there already goes on.  [default: sweep in the first "
    "RUN]",
)
@place_options
@json_option
@debug_option
def sweep(
    runs: tuple[Path, ...],
    tasks: list[str] | None,
    layers: list[str],
    size: str,
    seeds: list[int],
    methods: list[str],
    ratios: list[float],
    epochs: int,
    rate: float,
    distill: bool,
    norms: list[str],
    polish: list[str],
    limit: int | None,
    jobs: int,
    sequences: int,
    budget: str,
    seed: int,
    folder: Path | None,
    place: Place,
    as_json: bool,
) -> None:
    """Accuracy of RUNS (default: the newest trained run) pruned by each method at each ratio.

    Runs that differ in nothing but their seed give means and ranges. Every measured cell is
    written down at once: a sweep that was interrupted goes on when called again.
    """
    chosen = [*runs, *_trained(tasks or [], layers, size, seeds, place, jobs)]
    chosen = chosen or [resolve_run(None)]
    folder = folder or chosen[0] / "sweep"
    grid = Grid(
        methods=tuple(methods),
        ratios=tuple(ratios),
        norms=tuple(norms),
        polish=tuple(polish),
        epochs=epochs,
        rate=rate,
        distill=distill,
        seed=seed,
        calibration=CalibrationSettings(sequences, budget),
        limit=limit,
    )
    for run in chosen:
        report_unstable(lastax.systems(lastax.training.load_run(run)[1]), f"{run.name}, ")
    folder.mkdir(parents=True, exist_ok=True)
    cells = measured_cells(chosen, grid, place, folder, jobs)
    answer: dict[str, Any] = {
        "command": ["lastax", *sys.argv[1:]],
        "versions": lastax.training.installed_versions(),
        "runs": [str(run) for run in chosen],
        "cells": cells,
        "summary": lastax.experiments.sweep_summary(cells),
    }
    _write(folder, answer)
    if as_json:
        emit(answer | {"csv": str(folder / TABLE)})
        return
    for group, of_group in lastax.experiments.sweep_groups(cells).items():
        out.print(_table(group, of_group, ratios))
    out.print(_summary_table(answer["summary"]))
    out.print(f"{folder / TABLE}, {folder / ANSWER}, {folder / PICTURE}")


def _trained(
    tasks: list[str], layers: list[str], size: str, seeds: list[int], place: Place, jobs: int
) -> list[Path]:
    """Runs of presets, trained now if they never were, by the program itself."""
    found, missing = [], []
    for task, layer, seed in itertools.product(tasks, layers, seeds):
        kind = layer.removesuffix(ONE_WAY)
        if (kind, size) not in lastax.training.TASKS[task].presets:
            raise click.UsageError(f"--task {task} --layer {kind}: there is no preset {size!r}")
        suffix = "" if size == "small" else f"-{size}"
        run = RUNS / task / f"{layer}{suffix}-seed{seed}"
        found.append(run)
        if (run / lastax.serialization.MODEL_FILE).is_file():
            continue
        command = ["train", "--task", task, "--layer", kind, "--size", size, "--seed", str(seed)]
        command += ["--no-bidirectional"] if layer != kind else []
        command += ["--out", str(run)] + (["--resume"] if run.exists() else [])
        for flag, value in (("--data-dir", place.root), ("--data", place.data)):
            command += [] if value is None else [flag, str(value)]
        missing.append(command)
    answers = map(_train, missing) if jobs == 1 else work_apart(_train, missing, jobs)
    for command, status in zip(missing, answers, strict=True):
        if status:
            raise lastax.serialization.RunError(f"lastax {' '.join(command)} ended with status {status}")
    return found


def _train(command: list[str]) -> int:
    err.print(f"lastax {' '.join(command)}")
    done = subprocess.run([sys.executable, "-m", "lastax.cmd.main", *command], check=False)
    return done.returncode


def _write(folder: Path, answer: Mapping[str, Any]) -> None:
    rows = [
        cell
        | {
            "layers": " ".join(map(str, cell["layers"])),
            "settings": " ".join(f"{name}={value}" for name, value in cell["settings"].items()),
            "error": cell["error"] or "",
        }
        for cell in answer["cells"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    picture = io.BytesIO()
    lastax.plots.draw_sweep(lastax.experiments.sweep_groups(answer["cells"])).savefig(picture, format="png", dpi=110)
    write_atomically(folder / TABLE, text.getvalue().encode())
    write_atomically(folder / PICTURE, picture.getvalue())
    write_atomically(folder / ANSWER, (json.dumps(answer, indent=1) + "\n").encode())


def _table(group: str, curves: lastax.experiments.SweepCurves, ratios: list[float]) -> Table:
    table = Table(title=f"{group}: test accuracy, %; unpruned {_percent(curves.unpruned)}")
    table.add_column("method")
    for ratio in ratios:
        table.add_column(f"{100 * ratio:g} %", justify="right")
    for method, points in curves.test.items():
        table.add_row(method, *(_percent(points.get(ratio, [])) for ratio in ratios))
    return table


def _summary_table(summary: list[dict[str, Any]]) -> Table:
    table = Table(title="most removed at a loss of one validation point, mean over groups")
    for name in ("method", "removed", "test loss", "removed, compressible", "test loss"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in summary:
        alone = row["compressible"]
        table.add_row(
            row["method"],
            f"{100 * row['ratio']:.1f} %",
            f"{row['loss']:.2f}",
            f"{100 * row['ratio_compressible']:.1f} %" if alone else "-",
            f"{row['loss_compressible']:.2f}" if alone else "-",
        )
    return table


def _percent(values: list[float]) -> str:
    return f"{100 * sum(values) / len(values):.2f}" if values else "-"
