"""What a sweep over methods and ratios says, from its cells: curves a group, and a summary.

A cell is a mapping with `run`, `task`, `layer`, `bidirectional`, `method`, `ratio`, `then` (what
was done after pruning, a key of `THEN`), `finetune` (for how many epochs), `validation_accuracy`
and `test_accuracy`, None where a method does not suit a network. Runs that differ in their seed
alone are a group.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

NOTHING, NORMS, POLISHED, TUNED, DISTILLED = "", "norms", "polished", "tuned", "distilled"

# What may be done to a pruned network, and what its method is called then.
THEN: Mapping[str, str] = MappingProxyType(
    {
        NOTHING: "{method}",
        NORMS: "{method}, norms measured again",
        POLISHED: "{method}, polished",
        TUNED: "{method} + {finetune} epochs",
        DISTILLED: "{method} + {finetune} epochs, distilled",
    }
)

Cell = Mapping[str, Any]

Curve = Mapping[float, list[float]]


@dataclasses.dataclass(frozen=True)
class SweepCurves:
    """Accuracies of one group: of the whole networks, and by method and ratio a list over seeds."""

    unpruned: list[float]
    test: Mapping[str, Curve]
    validation_unpruned: list[float]
    validation: Mapping[str, Curve]


def sweep_groups(cells: Iterable[Cell]) -> dict[str, SweepCurves]:
    """The curves of each group, by a name such as `speech, s5, both ways`."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        ways = "both ways" if cell["bidirectional"] else "one way"
        groups.setdefault(f"{cell['task']}, {cell['layer']}, {ways}", []).append(cell)
    return {name: _curves(of_group) for name, of_group in groups.items()}


def _curves(cells: Sequence[Cell]) -> SweepCurves:
    whole: dict[str, list[float]] = {"test": [], "validation": []}
    curves: dict[str, dict[str, dict[float, list[float]]]] = {"test": {}, "validation": {}}
    for cell in cells:
        name = THEN[cell["then"]].format(**cell)
        for split in ("test", "validation"):
            accuracy = cell[f"{split}_accuracy"]
            if accuracy is None:
                continue
            if cell["method"] == "unpruned":
                whole[split].append(accuracy)
            else:
                points = curves[split].setdefault(name, {})
                points.setdefault(cell["ratio"], []).append(accuracy)
    return SweepCurves(whole["test"], curves["test"], whole["validation"], curves["validation"])


def compressible_ratio(curves: SweepCurves, method: str, *, most: float = 1.0) -> float:
    """The largest ratio that costs at most so many points of validation accuracy; 0 if none does.

    Means over seeds. The test split has no say.
    """
    unpruned = np.mean(curves.validation_unpruned)
    fitting = [
        ratio
        for ratio, values in curves.validation.get(method, {}).items()
        # Accuracies are ratios of counts: the margin is for their rounding alone.
        if 100 * (unpruned - np.mean(values)) <= most + 1e-7
    ]
    return max(fitting, default=0.0)


def sweep_summary(cells: Iterable[Cell], *, most: float = 1.0) -> list[dict[str, Any]]:
    """For each method how much can be removed at a loss of `most` validation points, and the cost.

    `ratio` and `loss` (points of test accuracy) are means over the groups that the method was
    measured on, one from which nothing can be removed counting with 0 and 0; `ratio_compressible`
    and `loss_compressible` those over the `compressible` other ones. Most removed first.
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
            loss = 0.0
            if ratio > 0:
                loss = 100 * float(np.mean(curves.unpruned) - np.mean(curves.test[method][ratio]))
            found.append((ratio, loss))
        left = [pair for pair in found if pair[0] > 0]
        rows.append(
            {
                "method": method,
                "ratio": float(np.mean([ratio for ratio, _ in found])),
                "loss": float(np.mean([loss for _, loss in found])),
                "groups": len(found),
                "compressible": len(left),
                "ratio_compressible": float(np.mean([r for r, _ in left])) if left else None,
                "loss_compressible": float(np.mean([x for _, x in left])) if left else None,
            }
        )
    return sorted(rows, key=lambda row: -row["ratio"])
