"""Differences between the methods of a sweep, with intervals of a paired bootstrap."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from lastax._errors import RunError
from lastax._typing import Record
from lastax.experiments._cells import UNPRUNED, unpack_correct
from lastax.experiments._summary import Cell, cells_by_group, row_labels


class PairedDifference(NamedTuple):
    """Difference of two accuracies on the same examples, from -1 to 1.

    `str` gives percentage points and the interval, for example `-1.2 (-2.3 to -0.1)`. An end of 0.0
    belongs to an interval that contains 0; other ends near 0 have more digits.

    Attributes:
        difference: accuracy of the second network minus that of the first one.
        low: lower end of the interval.
        high: upper end of the interval.
        examples: number of test examples.
        runs: number of runs, usually one per seed.
    """

    difference: float
    low: float
    high: float
    examples: int
    runs: int

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        # Adding 0 turns -0.0 into 0.0.
        points = f"{round(100 * self.difference, 1) + 0.0:.1f}"
        return f"{points} ({self._end(self.low)} to {self._end(self.high)})"

    def _end(self, value: float) -> str:
        """An end in percentage points. It rounds to 0 only if the interval contains 0."""
        digit = round(100 * value, 1) + 0.0
        return f"{digit:.1f}" if digit or self.within_noise else f"{100 * value:.1g}"


def paired_bootstrap(
    first: Bool[np.ndarray, "runs examples"],
    second: Bool[np.ndarray, "runs examples"],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two accuracies, with a bootstrap interval over examples and runs.

    Each resample draws runs and, independently, examples, both with replacement. It keeps the pairs
    of outcomes of one run on one example. The interval has the percentiles of the differences:
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. All runs share
    the examples, so runs and examples are drawn separately. Owen, "The pigeonhole bootstrap"
    (Annals of Applied Statistics, 2007), shows that this rather overestimates the variance. Two or
    three runs say little about the variation between runs. One run says nothing about it.

    Args:
        first: whether each prediction of the first network is correct.
        second: the same for the second network, on the same examples in the same order.
        level: probability that the interval is meant to have.
        resamples: number of resamples.
        seed: seed of the resamples.

    Raises:
        ValueError: if there is no run or no example.
    """
    differences = second.astype(np.int8) - first.astype(np.int8)
    if differences.size == 0:
        raise ValueError("paired_bootstrap: no examples to compare on")
    runs, examples = differences.shape
    # Examples with the same differences in all runs are counted instead of drawn one by one.
    patterns, counts = np.unique(differences, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    of_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples)
    of_patterns = rng.multinomial(examples, counts / examples, size=resamples)
    resampled = np.einsum("nr,nr->n", of_runs, of_patterns @ patterns.T) / differences.size
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return PairedDifference(float(differences.mean()), float(low), float(high), examples, runs)


def paired_differences(cells: Iterable[Cell], baseline: str) -> list[Record]:
    """Differences in test accuracy between the rows of a sweep and one of them, at each ratio.

    Args:
        cells: measured cells.
        baseline: the row to compare with: the method, with what followed it, as in
            `SweepCurves.test`, or `UNPRUNED`.

    Returns:
        One record per group of runs, ratio and row, the unpruned networks included unless they are
        the baseline: the fields of `PairedDifference`, and `within_noise`. Runs without the row
        or the baseline are left out.

    Raises:
        RunError: if no cell belongs to the baseline, if a cell does not say which test examples are
            correct, or if the runs of a group have test splits of different sizes.
    """
    groups = cells_by_group(cells)
    label_of = row_labels(groups.values())
    known = dict.fromkeys(label_of(cell) for of_group in groups.values() for cell in of_group)
    if baseline not in known:
        raise RunError(f"no row {baseline!r} to compare with; the rows are {', '.join(known)}")
    records = []
    for group, of_group in groups.items():
        correct: dict[tuple[str, float], dict[str, np.ndarray]] = {}
        for cell in of_group:
            if cell["test_accuracy"] is not None:
                row = correct.setdefault((label_of(cell), cell["ratio"]), {})
                row[cell["run"]] = unpack_correct(cell)
        if len({len(bits) for row in correct.values() for bits in row.values()}) > 1:
            raise RunError(f"{group}: the runs have test splits of different sizes")
        labels = dict.fromkeys(label for label, _ in correct if label != baseline)
        for ratio in dict.fromkeys(ratio for label, ratio in correct if label != UNPRUNED):
            # Unpruned networks are compared at all ratios.
            at_ratio = {
                label: correct.get((label, 0.0 if label == UNPRUNED else ratio), {})
                for label in (baseline, *labels)
            }
            reference = at_ratio.pop(baseline)
            for label, row in at_ratio.items():
                common = [run for run in reference if run in row]
                if not common:
                    continue
                found = paired_bootstrap(
                    np.stack([reference[run] for run in common]),
                    np.stack([row[run] for run in common]),
                )
                names = {"group": group, "ratio": ratio, "method": label, "baseline": baseline}
                records.append(names | found._asdict() | {"within_noise": found.within_noise})
    return records
