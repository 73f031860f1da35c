"""`lastax sweep`."""

import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.table import Table

import lastax
from lastax._files import write_atomically
from lastax.cmd._console import (
    RUNS,
    SPLITS,
    debug_option,
    emit,
    err,
    json_option,
    keep_compiled_programs,
    out,
    progress_bar,
    report_unstable,
    resolve_run,
    seed_option,
)
from lastax.cmd._fitting import fit_network
from lastax.cmd._open import Place, evaluate_on, place_options, reopen_data
from lastax.cmd._pruning import (
    CALIBRATED,
    SUMMARIES,
    Calibration,
    calibration_options,
    reducer,
)
from lastax.data import Data

CELLS, TABLE, ANSWER, PICTURE = "cells.jsonl", "sweep.csv", "sweep.json", "sweep.png"
UNPRUNED = "unpruned"
LAYERS = lastax.allowed_values(lastax.ModelConfig)["layer"].choices


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


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is measured of every run."""

    methods: tuple[str, ...]
    ratios: tuple[float, ...]
    epochs: int
    rate: float
    seed: int
    calibration: Calibration

    def settings(self, method: str, epochs: int) -> dict[str, Any]:
        """What else a cell depends on: another value makes another cell."""
        settings: dict[str, Any] = {}
        if method in ("random", CALIBRATED):
            settings["pruning_seed"] = self.seed
        if method == CALIBRATED:
            settings |= dataclasses.asdict(self.calibration)
        if epochs:
            settings["finetune_rate"] = self.rate
        return settings

    def cells(self) -> Iterator[tuple[str, float, int]]:
        """Method, ratio, and epochs of fine-tuning; the whole network first."""
        yield UNPRUNED, 0.0, 0
        yield from itertools.product(self.methods, self.ratios, (0,))
        if self.epochs:
            yield from itertools.product(self.methods, self.ratios, (self.epochs,))


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--task",
    "tasks",
    type=Several("tasks", _one_of(lastax.TASKS, "task")),
    help="Or: presets of these tasks, trained if they never were.",
)
@click.option(
    "--layer",
    "layers",
    type=Several("layers", _one_of(LAYERS, "layer")),
    default="s5",
    help="Kinds of layers of these presets.",
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
@click.option(
    "--finetune-rate",
    "rate",
    type=click.FloatRange(0, min_open=True),
    default=0.1,
    help="Learning rates of that, as a share of the run's own.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes, each with whole runs.")
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
    chosen = [*runs, *_trained(tasks or [], layers, size, seeds, place)] or [resolve_run(None)]
    folder = folder or chosen[0] / "sweep"
    grid = Grid(tuple(methods), tuple(ratios), epochs, rate, seed, Calibration(sequences, budget))
    for run in chosen:
        report_unstable(lastax.systems(lastax.load_run(run)[1]), f"{run.name}, ")
    folder.mkdir(parents=True, exist_ok=True)
    _measure_all(chosen, grid, place, folder, jobs)
    asked = {_place(run, cell, grid) for run in chosen for cell in grid.cells()}
    cells = [cell for cell in read_cells(folder) if _place_of(cell) in asked]
    answer: dict[str, Any] = {
        "command": ["lastax", *sys.argv[1:]],
        "versions": lastax.installed_versions(),
        "runs": [str(run) for run in chosen],
        "cells": cells,
        "summary": lastax.sweep_summary(cells),
    }
    _write(folder, answer)
    if as_json:
        emit(answer | {"csv": str(folder / TABLE)})
        return
    for group, of_group in lastax.sweep_groups(cells).items():
        out.print(_table(group, of_group, ratios))
    out.print(_summary_table(answer["summary"]))
    out.print(f"{folder / TABLE}, {folder / ANSWER}, {folder / PICTURE}")


def _trained(
    tasks: list[str], layers: list[str], size: str, seeds: list[int], place: Place
) -> list[Path]:
    """Runs of presets, trained now if they never were, by the program itself."""
    found = []
    for task, layer, seed in itertools.product(tasks, layers, seeds):
        if (layer, size) not in lastax.TASKS[task].presets:
            raise click.UsageError(f"--task {task} --layer {layer}: there is no preset {size!r}")
        suffix = "" if size == "small" else f"-{size}"
        run = RUNS / task / f"{layer}{suffix}-seed{seed}"
        found.append(run)
        if (run / lastax.MODEL_FILE).is_file():
            continue
        command = ["train", "--task", task, "--layer", layer, "--size", size, "--seed", str(seed)]
        command += ["--out", str(run)] + (["--resume"] if run.exists() else [])
        for flag, value in (("--data-dir", place.root), ("--data", place.data)):
            command += [] if value is None else [flag, str(value)]
        err.print(f"lastax {' '.join(command)}")
        done = subprocess.run([sys.executable, "-m", "lastax.cmd.main", *command], check=False)
        if done.returncode:
            raise lastax.RunError(f"training of {run} ended with status {done.returncode}")
    return found


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """All cells that were measured; a line that was cut off while it was written is none."""
    try:
        lines = (folder / CELLS).read_text().splitlines()
    except FileNotFoundError:
        return []
    cells = []
    for number, line in enumerate(lines, 1):
        try:
            cells.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise lastax.RunError(
                    f"{folder / CELLS}, line {number} is damaged: remove it"
                ) from error
    return cells


def _place_of(cell: Mapping[str, Any]) -> str:
    names = ("run", "weights", "method", "ratio", "finetune", "settings")
    return json.dumps([cell[name] for name in names], sort_keys=True)


def _place(run: Path, cell: tuple[str, float, int], grid: Grid) -> str:
    return _place_of(_begun(run, cell, grid))


def _begun(run: Path, cell: tuple[str, float, int], grid: Grid) -> dict[str, Any]:
    """What tells a cell from others. A run that was trained anew is another one."""
    method, ratio, epochs = cell
    return {
        "run": str(run),
        "weights": _digest(run / lastax.MODEL_FILE, (run / lastax.MODEL_FILE).stat().st_mtime_ns),
        "method": method,
        "ratio": ratio,
        "finetune": epochs,
        "settings": grid.settings(method, epochs),
    }


@functools.cache
def _digest(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _measure_all(runs: list[Path], grid: Grid, place: Place, folder: Path, jobs: int) -> None:
    _end_with_a_line(folder / CELLS)
    done = {_place_of(cell) for cell in read_cells(folder)}
    missing = {
        run: [cell for cell in grid.cells() if _place(run, cell, grid) not in done] for run in runs
    }
    work = [(run, cells, grid, place, folder) for run, cells in missing.items() if cells]
    if jobs == 1 or len(work) < 2:
        with progress_bar("sweep") as bar:
            shown = bar.add_task("", total=sum(map(len, missing.values())), note="")
            for one in work:
                for cell in _measure_run(*one):
                    note = f"{one[0].name} {cell['method']} {cell['ratio']:g}"
                    bar.update(shown, advance=1, note=note)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=context) as pool:
        for name, count in pool.map(_measure_run_apart, work):
            err.print(f"{name}: {count} cells")


def _measure_run_apart(work: tuple) -> tuple[str, int]:
    keep_compiled_programs()
    return work[0].name, sum(1 for _ in _measure_run(*work))


def _measure_run(
    run: Path, cells: list[tuple[str, float, int]], grid: Grid, place: Place, folder: Path
) -> Iterator[dict[str, Any]]:
    config, model = lastax.load_run(run)
    data = reopen_data(config, place)
    for place_in_grid in cells:
        started = time.monotonic()
        cell = {
            **_begun(run, place_in_grid, grid),
            "task": config.task,
            "layer": config.model.layer,
            "bidirectional": config.model.bidirectional,
            "seed": config.seed,
            **_outcome(model, config, data, place_in_grid, grid),
        }
        cell["seconds"] = round(time.monotonic() - started, 3)
        # One write, so that lines of several processes do not mix.
        with (folder / CELLS).open("ab") as file:
            file.write(json.dumps(cell).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        yield cell


def _outcome(
    model: lastax.Network,
    config: lastax.RunConfig,
    data: Data,
    cell: tuple[str, float, int],
    grid: Grid,
) -> dict[str, Any]:
    """States and accuracies of one cell; a method that does not suit a network says why."""
    method, ratio, epochs = cell
    measured = model
    counts = list(config.states)
    if method != UNPRUNED:
        total = lastax.keep_count(sum(counts), ratio, at_least=len(counts))
        reduce = reducer(
            model, method, config=config, data=data, seed=grid.seed, calibration=grid.calibration
        )
        try:
            pruned = reduce(total)
        except ValueError as error:
            missing = {f"{split}_accuracy": None for split in SPLITS}
            return {"states": total, "layers": [], **missing, "error": str(error)}
        counts = pruned.states_after
        # At the old size one compiled program serves all cells of a run.
        measured = lastax.padded(pruned.model, model, pruned.keep)
        if epochs:
            measured = _tuned(pruned.model, config, data, epochs, grid.rate)
    reached = {f"{split}_accuracy": evaluate_on(measured, data, split).accuracy for split in SPLITS}
    return {"states": sum(counts), "layers": counts, **reached, "error": None}


def _tuned(
    model: lastax.Network, config: lastax.RunConfig, data: Data, epochs: int, rate: float
) -> lastax.Network:
    """The best of some epochs of training more, by validation, from a fresh optimizer."""
    training = dataclasses.replace(
        config.training,
        epochs=epochs,
        warmup_epochs=0,
        learning_rate=rate * config.training.learning_rate,
        ssm_learning_rate=rate * config.training.ssm_learning_rate,
    )
    tuning = dataclasses.replace(config, training=training)
    with tempfile.TemporaryDirectory() as name:
        return fit_network(model, tuning, data, Path(name)).model


def _end_with_a_line(path: Path) -> None:
    """Forget what was being written when a sweep was stopped."""
    if path.is_file():
        with path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


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
    lastax.draw_sweep(lastax.sweep_groups(answer["cells"])).savefig(picture, format="png", dpi=110)
    write_atomically(folder / TABLE, text.getvalue().encode())
    write_atomically(folder / PICTURE, picture.getvalue())
    write_atomically(folder / ANSWER, (json.dumps(answer, indent=1) + "\n").encode())


def _table(group: str, curves: lastax.SweepCurves, ratios: list[float]) -> Table:
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
