"""Summary of a sweep: accuracy curves per group, and how much each method can remove.

A cell is a mapping with the keys `run`, `task`, `layer`, `bidirectional`, `method`, `ratio`,
`post_processing` (a `PostProcessing`), `finetune` (epochs), `validation_accuracy` and
`test_accuracy`; the accuracies are None where a method does not suit a network. `run_settings` has
the settings of the run; cells of older versions have none. Runs that differ only in their seed form
a group.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lastax._typing import Record
from lastax.experiments._cells import UNPRUNED
from lastax.experiments._post_processing import PostProcessing

Cell = Mapping[str, Any]

# Accuracies, one per seed, by ratio of removed states.
AccuracyCurve = Mapping[float, list[float]]
# Mean accuracy lost by ratio of removed states, from 0 to 1.
LossCurve = Mapping[float, float]


@dataclasses.dataclass(frozen=True)
class SweepCurves:
    """Accuracies of one group of runs, from 0 to 1.

    Attributes:
        unpruned: test accuracies of the unpruned networks, one per seed.
        test: by method and ratio, test accuracies of the pruned networks.
        validation_unpruned: as `unpruned`, on the validation split.
        validation: as `test`, on the validation split.
        test_losses: by method and ratio, the mean difference between the unpruned and the pruned
            network of the same run. A run on which a method failed plays no part.
        validation_losses: as `test_losses`, on the validation split.
    """

    unpruned: list[float]
    test: Mapping[str, AccuracyCurve]
    validation_unpruned: list[float]
    validation: Mapping[str, AccuracyCurve]
    test_losses: Mapping[str, LossCurve]
    validation_losses: Mapping[str, LossCurve]


def sweep_groups(cells: Iterable[Cell]) -> dict[str, SweepCurves]:
    """The curves of each group, by a name such as `speech, s5, bidirectional`.

    Where groups differ in other settings, their names have these settings, for example
    `speech, s5, bidirectional, channels 32`.
    """
    groups = cells_by_group(cells)
    label = row_labels(groups.values())
    return {name: _curves(of_group, label) for name, of_group in groups.items()}


def cells_by_group(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """The cells of each group, by the name of the group."""
    alike: dict[str, dict[frozenset[tuple[str, Any]], list[Cell]]] = {}
    for cell in cells:
        direction = "bidirectional" if cell["bidirectional"] else "unidirectional"
        settings = frozenset(cell.get("run_settings", {}).items())
        by_settings = alike.setdefault(f"{cell['task']}, {cell['layer']}, {direction}", {})
        by_settings.setdefault(settings, []).append(cell)
    groups: dict[str, list[Cell]] = {}
    for name, by_settings in alike.items():
        of_groups = [found[0].get("run_settings", {}) for found in by_settings.values()]
        different = _different_settings([settings for settings in of_groups if settings])
        for settings, found in zip(of_groups, by_settings.values(), strict=True):
            shown = [_shown(key, settings[key]) for key in different if key in settings]
            # Cells without settings may share the name of other cells.
            groups.setdefault(", ".join([name, *shown]), []).extend(found)
    return groups


def _different_settings(of_groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings that are not the same in all groups."""
    names = dict.fromkeys(name for settings in of_groups for name in settings)
    return [name for name in names if len({settings.get(name) for settings in of_groups}) > 1]


def _shown(name: str, value: Any) -> str:
    """A setting in the name of a group, such as `channels 32` or `no anneal`."""
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value}"


def row_labels(groups: Collection[Collection[Cell]]) -> Callable[[Cell], str]:
    """A function that names the row of a cell in tables: the method, and what followed it.

    Where the cells of a row differ in other settings than the seed of pruning, their names
    have these settings, for example `calibrated (sequences 64)`. The number of records that the
    cells were evaluated on counts only within a group, because groups have different data.
    """
    limited = {
        row
        for of_group in groups
        for row, names in _different_by_row(of_group).items()
        if "limit" in names
    }
    shown_names = {
        row: [n for n in names if n != "pruning_seed" and (n != "limit" or row in limited)]
        for row, names in _different_by_row(itertools.chain.from_iterable(groups)).items()
    }

    def label(cell: Cell) -> str:
        settings, method = cell.get("settings", {}), cell["method"]
        names = [] if method == UNPRUNED else shown_names[_row(cell)]
        shown = "; ".join(_shown(name, settings[name]) for name in names if name in settings)
        named = f"{method} ({shown})" if shown else method
        return PostProcessing(cell["post_processing"]).label(named, cell["finetune"])

    return label


def _different_by_row(cells: Iterable[Cell]) -> dict[tuple[str, str, int], list[str]]:
    """The names of the settings that are not the same in all cells of a row."""
    rows: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for cell in cells:
        rows.setdefault(_row(cell), []).append(cell.get("settings", {}))
    return {row: _different_settings(found) for row, found in rows.items()}


def _row(cell: Cell) -> tuple[str, str, int]:
    return cell["method"], cell["post_processing"], cell["finetune"]


def _curves(cells: Sequence[Cell], label: Callable[[Cell], str]) -> SweepCurves:
    unpruned: dict[str, list[float]] = {"test": [], "validation": []}
    curves: dict[str, dict[str, dict[float, list[float]]]] = {"test": {}, "validation": {}}
    for cell in cells:
        name = label(cell)
        for split in ("test", "validation"):
            accuracy = cell[f"{split}_accuracy"]
            if accuracy is None:
                continue
            if cell["method"] == UNPRUNED:
                unpruned[split].append(accuracy)
            else:
                points = curves[split].setdefault(name, {})
                points.setdefault(cell["ratio"], []).append(accuracy)
    return SweepCurves(
        unpruned["test"],
        curves["test"],
        unpruned["validation"],
        curves["validation"],
        _mean_losses(cells, label, "test_accuracy"),
        _mean_losses(cells, label, "validation_accuracy"),
    )


def _mean_losses(
    cells: Sequence[Cell], label: Callable[[Cell], str], accuracy: str
) -> dict[str, dict[float, float]]:
    """For each row and ratio, the mean loss of accuracy within runs."""
    measured = [cell for cell in cells if cell[accuracy] is not None]
    unpruned: dict[Any, float] = {}
    for cell in measured:
        if cell["method"] == UNPRUNED:
            unpruned[_network(cell)] = cell[accuracy]
            # Cells of older versions say less.
            unpruned.setdefault(cell["run"], cell[accuracy])
    losses: dict[str, dict[float, list[float]]] = {}
    for cell in measured:
        before = unpruned.get(_network(cell), unpruned.get(cell["run"]))
        if cell["method"] != UNPRUNED and before is not None:
            points = losses.setdefault(label(cell), {})
            points.setdefault(cell["ratio"], []).append(before - cell[accuracy])
    return {
        name: {ratio: float(np.mean(found)) for ratio, found in points.items()}
        for name, points in losses.items()
    }


def _network(cell: Cell) -> tuple[str, str | None, int | None]:
    """What a cell shares with the cell of its unpruned network: run, weights and records."""
    return cell["run"], cell.get("weights"), cell.get("settings", {}).get("limit")


def compressible_ratio(curves: SweepCurves, method: str, *, most: float = 1.0) -> float:
    """The largest ratio that costs at most `most` percentage points of validation accuracy.

    Means over seeds; 0 if no ratio qualifies. The test split plays no part.
    """
    qualifying = [
        ratio
        for ratio, loss in curves.validation_losses.get(method, {}).items()
        # Accuracies are ratios of counts; the margin covers their rounding.
        if 100 * loss <= most + 1e-7
    ]
    return max(qualifying, default=0.0)


def sweep_summary(cells: Iterable[Cell], *, most: float = 1.0) -> list[Record]:
    """How much each method removes at a loss of at most `most` validation points, and the cost.

    Returns:
        One record per method, the most removed first. `ratio` and `loss` (percentage points of
        test accuracy) are means over the `groups` that the method was measured on; a group from
        which nothing can be removed counts as 0 and 0. `ratio_compressible` and
        `loss_compressible` are means over the `compressible` other groups.
    """
    groups = sweep_groups(cells)
    methods = dict.fromkeys(method for curves in groups.values() for method in curves.test)
    rows = []
    for method in methods:
        found = []
        for curves in groups.values():
            if method not in curves.test:
                continue
            ratio = compressible_ratio(curves, method, most=most)
            loss = 100 * curves.test_losses[method][ratio] if ratio > 0 else 0.0
            found.append((ratio, loss))
        compressible = [pair for pair in found if pair[0] > 0]
        rows.append(
            {
                "method": method,
                "ratio": float(np.mean([ratio for ratio, _ in found])),
                "loss": float(np.mean([loss for _, loss in found])),
                "groups": len(found),
                "compressible": len(compressible),
                "ratio_compressible": float(np.mean([r for r, _ in compressible]))
                if compressible
                else None,
                "loss_compressible": float(np.mean([x for _, x in compressible]))
                if compressible
                else None,
            }
        )
    return sorted(rows, key=lambda row: -row["ratio"])
