"""Sweeps: the accuracy of runs, pruned by several methods at several ratios."""

import csv
import dataclasses
import functools
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any

import jax

from lastax._errors import RunError, TrainingDivergedError
from lastax._typing import Record
from lastax.calibration._batch_norm import recalibrate_batch_norm
from lastax.experiments._cells import (
    UNPRUNED,
    Cell,
    Grid,
    append_cell,
    identity_key,
    pack_correct,
    read_cells,
    remove_partial_line,
    run_settings,
)
from lastax.experiments._post_processing import PostProcessing
from lastax.experiments._prune_run import SPLITS, make_reducer
from lastax.experiments._summary import sweep_summary
from lastax.nn._networks import Network
from lastax.serialization._files import write_atomically
from lastax.surgery._counts import keep_count
from lastax.surgery._states import expand_to_original
from lastax.training._data import TrainingData, calibration_batch, evaluate_split
from lastax.training._evaluation import correct_predictions
from lastax.training._fine_tune import fine_tune
from lastax.training._placement import Placement
from lastax.training._run_config import RunConfig, installed_versions, load_config
from lastax.training._runs import load_run

SWEEP_TABLE = "sweep.csv"
SWEEP_RESULTS = "sweep.json"
SWEEP_FIGURE = "sweep.png"
# L-BFGS steps per block, for cells with block-wise reconstruction.
RECONSTRUCTION_STEPS = 100
# Cells of a run after which the process drops its compiled programs. Each pruned network has shapes
# of its own. Linux allows a process 65,530 memory maps, and programs of a cell take up to 1,200.
CELLS_PER_CACHE = 16

OpenData = Callable[[RunConfig], TrainingData]


@dataclasses.dataclass(frozen=True)
class _Work:
    """Cells of one run that share a pruned network."""

    run: Path
    cells: tuple[Cell, ...]
    grid: Grid
    open_data: OpenData


def sweep(
    runs: Sequence[Path],
    grid: Grid,
    folder: str | Path,
    open_data: OpenData,
    *,
    executor: Executor | None = None,
    on_start: Callable[[int], None] = lambda cells: None,
    on_cell: Callable[[Mapping[str, Any]], None] = lambda cell: None,
) -> list[Record]:
    """Measure every cell of a grid for every run.

    Each cell is written to `cells.jsonl` in `folder` as soon as it is measured. A sweep that was
    interrupted continues when it is called again; cells that the folder holds are not measured
    again. JAX's compiled programs are dropped from time to time, since each pruned network has its
    own.

    Args:
        runs: folders of finished runs.
        grid: what to measure.
        folder: where the cells are kept. Only this process writes to it.
        open_data: opens the data of a run, for example `lastax.data.reopen_data`. With an executor
            it must be picklable.
        executor: where cells are measured: any `concurrent.futures.Executor`, for example of
            `local_cluster` or `scheduler_cluster`. This process if None.
        on_start: called with the number of cells to measure.
        on_cell: called with each measured cell.

    Returns:
        The cells of the grid, those measured earlier included.

    Raises:
        RunError: if a run or the folder cannot be read, or if the workers of the executor died.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_line(folder)
    known = {identity_key(cell) for cell in read_cells(folder)}
    missing = {
        run: [cell for cell in grid.cells() if identity_key(grid.identity(run, cell)) not in known]
        for run in runs
    }
    on_start(sum(map(len, missing.values())))
    measured = (
        itertools.chain.from_iterable(
            _measure_run(run, cells, grid, open_data) for run, cells in missing.items() if cells
        )
        if executor is None
        else _measure_elsewhere(_divide(missing, grid, open_data), executor)
    )
    settings = {str(run): run_settings(load_config(run)) for run in runs}

    def with_settings(cell: Record) -> Record:
        return cell | {"run_settings": settings[cell["run"]]}

    for cell in map(with_settings, measured):
        append_cell(folder, cell)
        on_cell(cell)
    wanted = {identity_key(grid.identity(run, cell)) for run in runs for cell in grid.cells()}
    # Cells of older versions have no settings.
    return [with_settings(cell) for cell in read_cells(folder) if identity_key(cell) in wanted]


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
    """Write `sweep.json`, and `sweep.csv` with the cells without single examples and settings."""
    rows = [
        cell
        | {
            "layers": " ".join(map(str, cell["layers"])),
            "settings": " ".join(f"{name}={value}" for name, value in cell["settings"].items()),
            "error": cell["error"] or "",
            # Cells of older versions and failed cells have none.
            "test_examples": cell.get("test_examples", ""),
        }
        for cell in results["cells"]
    ]
    text = io.StringIO()
    names = [name for name in rows[0] if name not in ("test_correct", "run_settings")]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(Path(folder) / SWEEP_TABLE, text.getvalue().encode())
    write_atomically(Path(folder) / SWEEP_RESULTS, (json.dumps(results, indent=1) + "\n").encode())


def _divide(
    missing: Mapping[Path, Sequence[Cell]], grid: Grid, open_data: OpenData
) -> Iterator[_Work]:
    for run, cells in missing.items():
        for _, same in itertools.groupby(cells, lambda cell: (cell.method, cell.ratio)):
            yield _Work(run, tuple(same), grid, open_data)


def _measure_elsewhere(works: Iterator[_Work], executor: Executor) -> Iterator[Record]:
    # A worker may have another working directory.
    work_of = {
        executor.submit(_measure_work, dataclasses.replace(work, run=work.run.resolve())): work
        for work in works
    }
    try:
        for future in as_completed(work_of):
            work = work_of[future]
            error = future.exception()
            # Executors have different names for this: `BrokenProcessPool`, `KilledWorker`.
            if error is not None and type(error).__name__ in {"BrokenProcessPool", "KilledWorker"}:
                raise RunError(
                    f"sweep: {work.run}, {work.cells[0].method} at {work.cells[0].ratio:g}: the "
                    "worker died each time, perhaps for lack of memory: see its log"
                ) from error
            for cell in future.result():
                yield {**cell, "run": str(work.run)}
    finally:
        for future in work_of:
            future.cancel()


def _measure_work(work: _Work) -> list[Record]:
    weights = work.grid.identity(work.run, work.cells[0])["weights"]
    measurement = _kept_measurement(work.run, weights, work.grid, work.open_data)
    return [measurement.record(cell) for cell in work.cells]


# A worker measures many cells of one run, and what they share takes long.
@functools.lru_cache(maxsize=1)
def _kept_measurement(run: Path, weights: str, grid: Grid, open_data: OpenData) -> "_Measurement":
    return _Measurement(run, grid, open_data)


def _measure_run(run: Path, cells: list[Cell], grid: Grid, open_data: OpenData) -> Iterator[Record]:
    measurement = _Measurement(run, grid, open_data)
    yield from map(measurement.record, cells)


class _Measurement:
    """Measures cells of one run."""

    def __init__(self, run: Path, grid: Grid, open_data: OpenData) -> None:
        self._run, self._grid = run, grid
        self._cell_numbers = itertools.count()
        self._config, self._model = config, model = load_run(run)
        self._data = open_data(config)
        self._placement = Placement.of_this_process()
        self._batch = calibration_batch(
            self._data,
            grid.calibration.sequences,
            seed=grid.seed,
            placement=self._placement,
        )
        self._reducer = make_reducer(model, config, self._batch, grid.calibration, seed=grid.seed)
        # Cells of one pruned network are neighbors.
        self._reduce = functools.lru_cache(maxsize=1)(
            lambda method, count: self._reducer.reduce(method, states=count)
        )

    def record(self, cell: Cell) -> Record:
        """What is known of a cell and its run, with what was measured."""
        # Also before the first cell: no run uses the programs of another one.
        if next(self._cell_numbers) % CELLS_PER_CACHE == 0:
            jax.clear_caches()
        started = time.monotonic()
        return {
            **self._grid.identity(self._run, cell),
            "task": self._config.task,
            "layer": self._config.model.layer,
            "bidirectional": self._config.model.bidirectional,
            "seed": self._config.seed,
            **self._measure(cell),
            "seconds": round(time.monotonic() - started, 3),
        }

    def _measure(self, cell: Cell) -> Record:
        """States and accuracies, or the reason why a method does not suit the network."""
        counts = list(self._config.states)
        if cell.method == UNPRUNED:
            return self._accuracies(counts, self._model)
        total = keep_count(sum(counts), cell.ratio, at_least=len(counts))
        try:
            reduction = self._reduce(cell.method, total)
        except ValueError as error:
            return _failed(total, [], error)
        if cell.post_processing is PostProcessing.RECONSTRUCTED:
            reduction = self._reducer.reconstruct(reduction, RECONSTRUCTION_STEPS)
        if cell.post_processing.trains:
            try:
                model = self._trained(reduction.model, cell.post_processing)
            except TrainingDivergedError as error:
                return _failed(total, list(reduction.states_after), error)
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
        limit, placement = self._grid.limit, self._placement
        validation = evaluate_split(
            model, self._data, "validation", limit=limit, placement=placement
        )
        batches = self._data.evaluation_batches("test", limit=limit)
        test = correct_predictions(model, batches, placement=placement)
        return {
            "states": sum(counts),
            "layers": counts,
            "validation_accuracy": validation.accuracy,
            "test_accuracy": float(test.mean()),
            "error": None,
            **pack_correct(test),
        }


def _failed(states: int, layers: list[int], error: Exception) -> Record:
    """The record of a cell without accuracies."""
    missing = {f"{split}_accuracy": None for split in SPLITS}
    return {"states": states, "layers": layers, **missing, "error": str(error)}
