"""The cells of a sweep: one pruned network each, and the file that keeps them."""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from lastax._errors import RunError
from lastax._typing import Record
from lastax.experiments._calibration_options import CalibrationOptions
from lastax.experiments._post_processing import PostProcessing
from lastax.pruning._methods import METHODS
from lastax.serialization._save import MODEL_FILE
from lastax.training._run_config import RunConfig

CELLS_FILE = "cells.jsonl"
# The "method" of the cell of the network as it is.
UNPRUNED = "unpruned"

# The keys by which a measured cell is recognized.
_IDENTITY = ("run", "weights", "method", "ratio", "post_processing", "finetune", "settings")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network, pruned in one way, and what follows."""

    method: str
    ratio: float
    post_processing: PostProcessing = PostProcessing.NONE


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a sweep measures for every run.

    Attributes:
        methods: names in `METHODS`.
        ratios: shares of states to remove.
        recalibrate: methods after which BatchNorm is also recalibrated.
        reconstruct: methods after which blocks are also reconstructed.
        finetune: epochs of training after every method; 0 for none.
        finetune_rate: learning rates of these epochs, as a share of those of the run.
        distill: whether to train once more without labels, from the unpruned network.
        seed: seed of random pruning and of the choice of calibration data.
        calibration: settings of methods that use calibration data.
        limit: number of records of each split to evaluate on; all if None.
    """

    methods: tuple[str, ...] = ("last",)
    ratios: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    recalibrate: tuple[str, ...] = ()
    reconstruct: tuple[str, ...] = ()
    finetune: int = 0
    finetune_rate: float = 0.1
    distill: bool = False
    seed: int = 0
    calibration: CalibrationOptions = dataclasses.field(default_factory=CalibrationOptions)
    limit: int | None = None

    def cells(self) -> Iterator[Cell]:
        """The unpruned network first; cells of the same pruned network are neighbors."""
        yield Cell(UNPRUNED, 0.0)
        for method, ratio in itertools.product(self.methods, self.ratios):
            yield Cell(method, ratio)
            if method in self.recalibrate:
                yield Cell(method, ratio, PostProcessing.RECALIBRATED)
            if method in self.reconstruct:
                yield Cell(method, ratio, PostProcessing.RECONSTRUCTED)
            if self.finetune:
                yield Cell(method, ratio, PostProcessing.FINE_TUNED)
                if self.distill:
                    yield Cell(method, ratio, PostProcessing.DISTILLED)

    def identity(self, run: Path, cell: Cell) -> Record:
        """What distinguishes a cell. A run that was trained again has other cells."""
        method = METHODS.get(cell.method)
        reconstructed = method is not None and self.calibration.reconstruct > 0
        calibrated = (
            cell.post_processing.needs_calibration
            or reconstructed
            or (method is not None and method.needs_calibration)
        )
        settings: Record = {} if self.limit is None else {"limit": self.limit}
        if calibrated or (method is not None and method.uses_key):
            settings["pruning_seed"] = self.seed
        if calibrated:
            settings["sequences"] = self.calibration.sequences
        if method is not None and method.uses_budget:
            settings["budget"] = self.calibration.budget
        if reconstructed:
            settings["reconstruct"] = self.calibration.reconstruct
        if method is not None and method.refit and self.calibration.dense_feedthrough:
            settings["dense_feedthrough"] = True
        if cell.post_processing.trains:
            settings["finetune_rate"] = self.finetune_rate
        return {
            "run": str(run),
            "weights": weights_digest(run),
            "method": cell.method,
            "ratio": cell.ratio,
            "post_processing": str(cell.post_processing),
            "finetune": self.finetune if cell.post_processing.trains else 0,
            "settings": settings,
        }


def weights_digest(run: Path) -> str:
    """A digest of the weights of a run."""
    weights = run / MODEL_FILE
    return _digest(weights, weights.stat().st_mtime_ns)


def run_settings(config: RunConfig) -> Record:
    """The settings that a run shares with runs of other seeds, by name, without those not given.

    The remaining states depend on the seed, and so do the files that a run was started or imported
    from. They are left out.
    """
    settings: Record = {}
    for part in (config.data, config.model, config.training):
        settings |= dataclasses.asdict(part)
    settings["dense_feedthrough"] = config.dense_feedthrough
    settings["started"] = None if config.start is None else "from a run"
    settings["imported"] = (config.imported or {}).get("format")
    pruning = config.pruning or {}
    settings |= {f"pruning_{name}": value for name, value in pruning.items() if name != "seed"}
    # Records of older versions may have lists.
    return {k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)}


def identity_key(cell: Mapping[str, Any]) -> str:
    """The identity of a cell as one string."""
    return json.dumps([cell.get(name) for name in _IDENTITY], sort_keys=True)


def read_cells(folder: str | Path) -> list[Record]:
    """All measured cells of a folder. A last line that was cut off is left out.

    Raises:
        RunError: if another line is damaged.
    """
    path = Path(folder) / CELLS_FILE
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    cells = []
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(ValueError):
            cell = json.loads(line)
            if isinstance(cell, dict):
                cells.append(cell)
                continue
        if number < len(lines):
            raise RunError(f"{path}, line {number} is damaged: remove the line")
    return cells


def append_cell(folder: Path, cell: Mapping[str, Any]) -> None:
    """Write one cell to the disk."""
    with (folder / CELLS_FILE).open("ab") as file:
        file.write(json.dumps(cell).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def pack_correct(correct: Bool[np.ndarray, " examples"]) -> Record:
    """Which test examples a cell predicts correctly, as fields of the cell; one bit per example."""
    packed = base64.b64encode(np.packbits(correct).tobytes()).decode()
    return {"test_examples": len(correct), "test_correct": packed}


def unpack_correct(cell: Mapping[str, Any]) -> Bool[np.ndarray, " examples"]:
    """The array that `pack_correct` stored in a cell.

    Raises:
        RunError: if there is none.
    """
    if cell.get("test_correct") is None:
        raise RunError(
            f"the cell {cell['method']} at {cell['ratio']:g} of {cell['run']} does not say which "
            "test examples are correct (an older version measured it): choose another folder"
        )
    packed = np.frombuffer(base64.b64decode(cell["test_correct"]), np.uint8)
    return np.unpackbits(packed, count=cell["test_examples"]).astype(bool)


def remove_partial_line(folder: Path) -> None:
    """Remove what was being written when a sweep was stopped."""
    path = folder / CELLS_FILE
    if path.is_file():
        with path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


@functools.cache
def _digest(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
