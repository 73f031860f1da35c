"""TODO calibration._budgets."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from lastax.calibration._allocation import Curve, minimax_counts
from lastax.calibration._elimination import LayerPath


@dataclasses.dataclass(frozen=True)
class BudgetContext:
    """What a budget may go by: each layer's removal order and energy, bounds, and a probe.

    `probe()` gives a curve a layer: how far the network's outputs move if that layer alone is cut
    to a size. It takes a forward pass of the calibration data for each of about ten sizes a layer.
    """

    total: int
    paths: Sequence[LayerPath]
    energies: Sequence[float]
    minimum: Sequence[int]
    maximum: Sequence[int]
    probe: Callable[[], list[Curve]]

    def shared_out(self, curves: Sequence[Curve]) -> list[int]:
        """Counts within the bounds by which the costliest layer costs least (`minimax_counts`)."""
        return minimax_counts(curves, self.total, minimum=self.minimum, maximum=self.maximum)

    @property
    def sizes(self) -> list[int]:
        """Number of states of each layer."""
        return [len(path.order) for path in self.paths]


# From a context to the number of states that each layer keeps.
Budget = Callable[[BudgetContext], Sequence[int]]


def _uniform(given: BudgetContext) -> Sequence[int]:
    return given.shared_out([1 - np.arange(size + 1) / size for size in given.sizes])


def _by_relative_error(given: BudgetContext) -> Sequence[int]:
    return given.shared_out(
        [
            path.residuals / (energy if energy > 0 else 1.0)
            for path, energy in zip(given.paths, given.energies, strict=True)
        ]
    )


def _by_probe(given: BudgetContext) -> Sequence[int]:
    return given.shared_out(given.probe())


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {"uniform": _uniform, "relative-error": _by_relative_error, "probe": _by_probe}
)


def find_budget(budget: str | Budget) -> Budget:
    if not isinstance(budget, str):
        return budget
    if budget not in BUDGETS:
        raise ValueError(f"no budget {budget!r}; there are {', '.join(BUDGETS)}")
    return BUDGETS[budget]
