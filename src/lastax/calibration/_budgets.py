"""Budgets: how the states to keep are distributed over the layers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from lastax.calibration._allocation import Curve, least_sum_counts, minimax_counts
from lastax.calibration._calibration import Calibration
from lastax.calibration._elimination import LayerPath


@dataclasses.dataclass(frozen=True)
class BudgetContext:
    """What a budget can use.

    Attributes:
        total: number of states to keep.
        paths: order of elimination of each layer.
        energies: mean square of each layer's output, summed over channels.
        minimum: least number of states per layer.
        maximum: largest number of states per layer.
        probe: returns one curve per layer: divergence of the model's outputs if this layer alone
            is cut to a size. It passes the calibration data about ten times per layer.
    """

    total: int
    paths: Sequence[LayerPath]
    energies: Sequence[float]
    minimum: Sequence[int]
    maximum: Sequence[int]
    probe: Callable[[], list[Curve]]

    def distribute(self, curves: Sequence[Curve]) -> list[int]:
        """Counts within the bounds that minimize the largest cost (`minimax_counts`)."""
        return minimax_counts(curves, self.total, minimum=self.minimum, maximum=self.maximum)

    @property
    def sizes(self) -> list[int]:
        """Number of states of each layer."""
        return [len(path.order) for path in self.paths]


# A function from a context to the number of states that each layer keeps.
Budget = Callable[[BudgetContext], Sequence[int]]


def _uniform(context: BudgetContext) -> Sequence[int]:
    return context.distribute([1 - np.arange(size + 1) / size for size in context.sizes])


def _by_relative_error(context: BudgetContext) -> Sequence[int]:
    return context.distribute(
        [
            path.residuals / (energy if energy > 0 else 1.0)
            for path, energy in zip(context.paths, context.energies, strict=True)
        ]
    )


def _by_probe(context: BudgetContext) -> Sequence[int]:
    return least_sum_counts(
        context.probe(), context.total, minimum=context.minimum, maximum=context.maximum
    )


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {"uniform": _uniform, "relative-error": _by_relative_error, "probe": _by_probe}
)


def find_budget(function: str, budget: str | Budget) -> Budget:
    """The budget of a name in `BUDGETS`; a function is returned as it is.

    Raises:
        ValueError: in the name of `function`, if the name is unknown.
    """
    if not isinstance(budget, str):
        return budget
    if budget not in BUDGETS:
        raise ValueError(f"{function}: unknown budget {budget!r}; use one of {', '.join(BUDGETS)}")
    return BUDGETS[budget]


def distribute_states(
    calibration: Calibration,
    total: int,
    *,
    budget: str | Budget = "probe",
    minimum: int | np.integer | Sequence[int] = 1,
    maximum: Sequence[int] | None = None,
) -> list[int]:
    """Number of states that each layer keeps.

    Args:
        calibration: the model and its calibration.
        total: number of states to keep, including those that new dense `D` matrices count as.
        budget: a name in `BUDGETS`, or a function.
        minimum: least number of states per layer, or one number for all layers.
        maximum: largest number of states per layer.

    Raises:
        ValueError: if the bounds do not allow `total`, or the budget does not respect them.
    """
    sizes = calibration.sizes
    least, most = _bounds(calibration, minimum, maximum)
    matrices = sum(calibration.feedthrough_states)
    if not sum(least) + matrices <= total <= sum(most) + matrices:
        counted = f", {matrices} of which count for dense feedthrough matrices" if matrices else ""
        raise ValueError(
            f"refit: cannot keep {total} states: {len(sizes)} layers of {sizes} states allow "
            f"{sum(least) + matrices} to {sum(most) + matrices}{counted}"
        )
    remaining = total - matrices
    if remaining == sum(sizes):
        return sizes
    energies = [float(moments.energy.sum()) for moments in calibration.moments]
    context = BudgetContext(
        remaining, calibration.paths, energies, least, most, lambda: calibration.probe_curves
    )
    counts = [int(count) for count in find_budget("refit", budget)(context)]
    fits = len(counts) == len(sizes) and all(
        low <= count <= high for low, count, high in zip(least, counts, most, strict=True)
    )
    if sum(counts) != remaining or not fits:
        raise ValueError(
            f"refit: the budget returned {counts} for layers of {sizes} states; it must keep "
            f"{remaining} in total, at least {least} and at most {most}"
        )
    return counts


def _bounds(
    calibration: Calibration,
    minimum: int | np.integer | Sequence[int],
    maximum: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Least and largest number of states per layer. Unstable states must be kept."""
    sizes = calibration.sizes
    if isinstance(minimum, int | np.integer):
        minimum = [int(minimum)] * len(sizes)
    least = list(minimum)
    most = sizes if maximum is None else list(maximum)
    for name, bounds in (("minimum", least), ("maximum", most)):
        if len(bounds) != len(sizes):
            raise ValueError(
                f"refit: {name} must hold one number per layer ({len(sizes)}), got {len(bounds)}"
            )
    least = [
        max(low, int(mask.sum())) for low, mask in zip(least, calibration.unstable, strict=True)
    ]
    if not all(
        1 <= low <= high <= size for low, high, size in zip(least, most, sizes, strict=True)
    ):
        raise ValueError(
            f"refit: layers of {sizes} states cannot keep at least {least} (at least one, and all "
            f"with |lam| >= 1) and at most {most}"
        )
    return least, most
