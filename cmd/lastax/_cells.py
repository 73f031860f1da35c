"""The cells of a sweep: what is measured, how, and where it is kept."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lastax
from lastax.cmd._console import SPLITS, err, progress_bar
from lastax.cmd._fitting import fine_tuned
from lastax.cmd._open import Place, evaluate_on, reopen_data, some_records
from lastax.cmd._pruning import MEASURED, CalibrationSettings, Reductions
from lastax.cmd._workers import work_apart
from lastax.data import Data

CELLS = "cells.jsonl"
UNPRUNED = "unpruned"
POLISHING_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network, made smaller in one way, and what is done after that: a key of `lastax.experiments.THEN`."""

    method: str
    ratio: float
    then: str = lastax.experiments.NOTHING


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is measured of every run."""

    methods: tuple[str, ...]
    ratios: tuple[float, ...]
    norms: tuple[str, ...]
    polish: tuple[str, ...]
    epochs: int
    rate: float
    distill: bool
    seed: int
    calibration: CalibrationSettings
    limit: int | None

    def cells(self) -> Iterator[Cell]:
        """The whole network first; what starts from the same smaller network is in a row."""
        yield Cell(UNPRUNED, 0.0)
        for method, ratio in itertools.product(self.methods, self.ratios):
            yield Cell(method, ratio)
            if method in self.norms:
                yield Cell(method, ratio, lastax.experiments.NORMS)
            if method in self.polish:
                yield Cell(method, ratio, lastax.experiments.POLISHED)
            if self.epochs:
                yield Cell(method, ratio, lastax.experiments.TUNED)
                if self.distill:
                    yield Cell(method, ratio, lastax.experiments.DISTILLED)

    def begun(self, run: Path, cell: Cell) -> dict[str, Any]:
        """What tells a cell from others. A run that was trained anew is another one."""
        weights = run / lastax.serialization.MODEL_FILE
        settings: dict[str, Any] = {} if self.limit is None else {"limit": self.limit}
        measured = cell.method in MEASURED or cell.then in (lastax.experiments.NORMS, lastax.experiments.POLISHED)
        if cell.method == "random" or measured:
            settings["pruning_seed"] = self.seed
        if measured:
            settings["sequences"] = self.calibration.sequences
        if cell.method == lastax.pruning.CALIBRATED:
            settings["budget"] = self.calibration.budget
        tuned = cell.then in (lastax.experiments.TUNED, lastax.experiments.DISTILLED)
        if tuned:
            settings["finetune_rate"] = self.rate
        return {
            "run": str(run),
            "weights": _digest(weights, weights.stat().st_mtime_ns),
            "method": cell.method,
            "ratio": cell.ratio,
            "then": cell.then,
            "finetune": self.epochs if tuned else 0,
            "settings": settings,
        }


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
                raise lastax.serialization.RunError(
                    f"{folder / CELLS}, line {number} is damaged: remove it"
                ) from error
    return cells


def measured_cells(
    runs: list[Path], grid: Grid, place: Place, folder: Path, jobs: int
) -> list[dict[str, Any]]:
    """The cells of all runs; those that the folder does not hold yet are measured and kept there.

    With several `jobs` whole runs are shared out to processes, each with cores of its own.
    """
    _end_with_a_line(folder / CELLS)
    done = {_place_of(cell) for cell in read_cells(folder)}
    missing = {
        run: [cell for cell in grid.cells() if _place_of(grid.begun(run, cell)) not in done]
        for run in runs
    }
    work = [(run, cells, grid, place, folder) for run, cells in missing.items() if cells]
    if jobs == 1 or len(work) < 2:
        with progress_bar("sweep") as bar:
            shown = bar.add_task("", total=sum(map(len, missing.values())), note="")
            for one in work:
                for cell in _measure_run(*one):
                    note = f"{one[0].name} {cell['method']} {cell['ratio']:g}"
                    bar.update(shown, advance=1, note=note)
    else:
        for run, count in work_apart(_count_run, work, jobs):
            err.print(f"{run}: {count} cells")
    asked = {_place_of(grid.begun(run, cell)) for run in runs for cell in grid.cells()}
    return [cell for cell in read_cells(folder) if _place_of(cell) in asked]


def _place_of(cell: Mapping[str, Any]) -> str:
    names = ("run", "weights", "method", "ratio", "then", "finetune", "settings")
    return json.dumps([cell.get(name) for name in names], sort_keys=True)


@functools.cache
def _digest(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _count_run(work: tuple) -> tuple[str, int]:
    return str(work[0]), sum(1 for _ in _measure_run(*work))


def _measure_run(
    run: Path, cells: list[Cell], grid: Grid, place: Place, folder: Path
) -> Iterator[dict[str, Any]]:
    config, model = lastax.training.load_run(run)
    data = reopen_data(config, place)
    measured = _Measured(model, config, data, grid)
    for cell in cells:
        started = time.monotonic()
        answer = {
            **grid.begun(run, cell),
            "task": config.task,
            "layer": config.model.layer,
            "bidirectional": config.model.bidirectional,
            "seed": config.seed,
            **measured.outcome(cell),
        }
        answer["seconds"] = round(time.monotonic() - started, 3)
        # One write, so that lines of several processes do not mix.
        with (folder / CELLS).open("ab") as file:
            file.write(json.dumps(answer).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        yield answer


class _Measured:
    """One network, and what its smaller versions reach."""

    def __init__(
        self, model: lastax.nn.Network, config: lastax.training.RunConfig, data: Data, grid: Grid
    ) -> None:
        self._model, self._config, self._data, self._grid = model, config, data, grid
        self._tested = data if grid.limit is None else some_records(data, grid.limit)
        self._reductions = Reductions(model, config, data, grid.seed, grid.calibration)
        # Variants of one smaller network stand in a row.
        self._reduce = functools.lru_cache(maxsize=1)(self._reductions.reduce)

    def outcome(self, cell: Cell) -> dict[str, Any]:
        """States and accuracies; a method that does not suit a network says why."""
        counts = list(self._config.states)
        if cell.method == UNPRUNED:
            return self._reached(counts, self._model)
        total = lastax.keep_count(sum(counts), cell.ratio, at_least=len(counts))
        try:
            pruned = self._reduce(cell.method, total)
        except ValueError as error:
            missing = {f"{split}_accuracy": None for split in SPLITS}
            return {"states": total, "layers": [], **missing, "error": str(error)}
        if cell.then == lastax.experiments.POLISHED:
            pruned = self._reductions.polished(pruned, POLISHING_STEPS)
        # At the old size one compiled program serves all cells of a run.
        model = lastax.surgery.expand_to_original(pruned.model, self._model, pruned.keep)
        if cell.then == lastax.experiments.NORMS:
            model = lastax.recalibrate_batch_norm(model, self._reductions.batch)
        elif cell.then in (lastax.experiments.TUNED, lastax.experiments.DISTILLED):
            teacher = self._model if cell.then == lastax.experiments.DISTILLED else None
            with tempfile.TemporaryDirectory() as name:
                model = fine_tuned(
                    pruned.model,
                    self._config,
                    self._data,
                    Path(name),
                    epochs=self._grid.epochs,
                    rate=self._grid.rate,
                    teacher=teacher,
                ).model
        return self._reached(pruned.states_after, model)

    def _reached(self, counts: list[int], model: lastax.nn.Network) -> dict[str, Any]:
        reached = {
            f"{split}_accuracy": evaluate_on(model, self._tested, split).accuracy
            for split in SPLITS
        }
        return {"states": sum(counts), "layers": counts, **reached, "error": None}


def _end_with_a_line(path: Path) -> None:
    """Forget what was being written when a sweep was stopped."""
    if path.is_file():
        with path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
