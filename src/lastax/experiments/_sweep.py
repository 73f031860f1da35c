"""Sweeps: the accuracy of runs, pruned by several methods at several ratios."""

import csv
import functools
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lastax._typing import Record
from lastax.calibration._batch_norm import recalibrate_batch_norm
from lastax.experiments._cells import (
    UNPRUNED,
    Cell,
    Grid,
    append_cell,
    identity_key,
    read_cells,
    remove_partial_line,
)
from lastax.experiments._post_processing import PostProcessing
from lastax.experiments._prune_run import SPLITS, make_reducer
from lastax.experiments._summary import sweep_summary
from lastax.experiments._workers import do_nothing, map_processes
from lastax.nn._networks import Network
from lastax.serialization._files import write_atomically
from lastax.surgery._counts import keep_count
from lastax.surgery._states import expand_to_original
from lastax.training._data import TrainingData, calibration_batch, evaluate_split
from lastax.training._run_config import RunConfig, installed_versions
from lastax.training._runs import load_run
from lastax.training._trainer import fine_tune

SWEEP_TABLE = "sweep.csv"
SWEEP_RESULTS = "sweep.json"
SWEEP_FIGURE = "sweep.png"
# L-BFGS steps per block, for cells with block-wise reconstruction.
RECONSTRUCTION_STEPS = 100

OpenData = Callable[[RunConfig], TrainingData]
_Work = tuple[Path, list[Cell], Grid, OpenData, Path]


def sweep(
    runs: Sequence[Path],
    grid: Grid,
    folder: str | Path,
    open_data: OpenData,
    *,
    jobs: int = 1,
    initialize: Callable[[], None] = do_nothing,
    on_start: Callable[[int], None] = lambda cells: None,
    on_cell: Callable[[Mapping[str, Any]], None] = lambda cell: None,
    on_run: Callable[[str, int], None] = lambda run, cells: None,
) -> list[Record]:
    """Measure every cell of a grid for every run.

    Each cell is written to `cells.jsonl` in `folder` as soon as it is measured. A sweep that was
    interrupted continues when it is called again; cells that the folder holds are not measured
    again.

    Args:
        runs: folders of finished runs.
        grid: what to measure.
        folder: where the cells are kept.
        open_data: opens the data of a run, for example `lastax.data.reopen_data`. With several
            jobs it must be picklable.
        jobs: number of processes, each with whole runs and cores of its own.
        initialize: called once in each of several processes.
        on_start: called with the number of cells to measure, if there is one job.
        on_cell: called with each measured cell, if there is one job.
        on_run: called with each finished run and its number of cells, if there are several jobs.

    Returns:
        The cells of the grid, those measured earlier included.

    Raises:
        RunError: if a run or the folder cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_line(folder)
    known = {identity_key(cell) for cell in read_cells(folder)}
    missing = {
        run: [cell for cell in grid.cells() if identity_key(grid.identity(run, cell)) not in known]
        for run in runs
    }
    work = [(run, cells, grid, open_data, folder) for run, cells in missing.items() if cells]
    if jobs == 1 or len(work) < 2:
        on_start(sum(map(len, missing.values())))
        for one in work:
            for cell in _measure_run(*one):
                on_cell(cell)
    else:
        for run, count in map_processes(_count_cells, work, jobs, initialize=initialize):
            on_run(run, count)
    wanted = {identity_key(grid.identity(run, cell)) for run in runs for cell in grid.cells()}
    return [cell for cell in read_cells(folder) if identity_key(cell) in wanted]


def sweep_results(runs: Sequence[Path], cells: list[Record], command: Sequence[str] = ()) -> Record:
    """What `sweep.json` holds: cells and summary, with the command and versions that made them."""
    return {
        "command": list(command),
        "versions": installed_versions(),
        "runs": [str(run) for run in runs],
        "cells": cells,
        "summary": sweep_summary(cells),
    }


def save_sweep(folder: str | Path, results: Mapping[str, Any]) -> None:
    """Write `sweep.json`, and the cells as `sweep.csv`."""
    rows = [
        cell
        | {
            "layers": " ".join(map(str, cell["layers"])),
            "settings": " ".join(f"{name}={value}" for name, value in cell["settings"].items()),
            "error": cell["error"] or "",
        }
        for cell in results["cells"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(Path(folder) / SWEEP_TABLE, text.getvalue().encode())
    write_atomically(Path(folder) / SWEEP_RESULTS, (json.dumps(results, indent=1) + "\n").encode())


def _count_cells(work: _Work) -> tuple[str, int]:
    return str(work[0]), sum(1 for _ in _measure_run(*work))


def _measure_run(
    run: Path, cells: list[Cell], grid: Grid, open_data: OpenData, folder: Path
) -> Iterator[Record]:
    config, model = load_run(run)
    measure = _Measurement(model, config, open_data(config), grid)
    for cell in cells:
        started = time.monotonic()
        measured = {
            **grid.identity(run, cell),
            "task": config.task,
            "layer": config.model.layer,
            "bidirectional": config.model.bidirectional,
            "seed": config.seed,
            **measure(cell),
        }
        measured["seconds"] = round(time.monotonic() - started, 3)
        append_cell(folder, measured)
        yield measured


class _Measurement:
    """Measures cells of one network."""

    def __init__(
        self,
        model: Network,
        config: RunConfig,
        data: TrainingData,
        grid: Grid,
    ) -> None:
        self._model, self._config, self._data, self._grid = model, config, data, grid
        self._batch = calibration_batch(data, grid.calibration.sequences, seed=grid.seed)
        self._reducer = make_reducer(model, config, self._batch, grid.calibration, seed=grid.seed)
        # Cells of one pruned network are neighbors.
        self._reduce = functools.lru_cache(maxsize=1)(
            lambda method, count: self._reducer.reduce(method, states=count)
        )

    def __call__(self, cell: Cell) -> Record:
        """States and accuracies, or the reason why a method does not suit the network."""
        counts = list(self._config.states)
        if cell.method == UNPRUNED:
            return self._accuracies(counts, self._model)
        total = keep_count(sum(counts), cell.ratio, at_least=len(counts))
        try:
            reduction = self._reduce(cell.method, total)
        except ValueError as error:
            missing = {f"{split}_accuracy": None for split in SPLITS}
            return {"states": total, "layers": [], **missing, "error": str(error)}
        if cell.post_processing is PostProcessing.RECONSTRUCTED:
            reduction = self._reducer.reconstruct(reduction, RECONSTRUCTION_STEPS)
        if cell.post_processing.trains:
            model = self._trained(reduction.model, cell.post_processing)
        else:
            # At the original size one compiled program serves all cells of a run.
            model = expand_to_original(self._model, reduction.model, reduction.keep)
        if cell.post_processing is PostProcessing.RECALIBRATED:
            model = recalibrate_batch_norm(model, self._batch)
        return self._accuracies(reduction.states_after, model)

    def _trained(self, small: Network, post_processing: PostProcessing) -> Network:
        distill = post_processing is PostProcessing.DISTILLED
        return fine_tune(
            small,
            self._config,
            self._data,
            epochs=self._grid.finetune,
            rate=self._grid.finetune_rate,
            teacher=self._model if distill else None,
        ).model

    def _accuracies(self, counts: list[int], model: Network) -> Record:
        reached = {
            f"{split}_accuracy": evaluate_split(
                model, self._data, split, limit=self._grid.limit
            ).accuracy
            for split in SPLITS
        }
        return {"states": sum(counts), "layers": counts, **reached, "error": None}
