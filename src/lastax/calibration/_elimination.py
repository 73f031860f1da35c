"""In what order to take states out if all others are refitted each time: greedy, for all budgets.

A layer's output is a linear regression on what its states give. Dropping one state's columns and
fitting the others anew raises the residual by an amount that the inverse Gram matrix tells at once
(Hassibi & Stork, optimal brain surgeon, NeurIPS 1992), and the inverse of what is left follows by
a downdate: one sweep gives the order, and what each budget costs. Host float64.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

# Of the diagonal, once columns have unit norm. Any value from 1e-12 to 1e-2 serves as well.
RIDGE = 1e-6


@dataclasses.dataclass(frozen=True)
class EliminationPath:
    """Removal orders of `n` independent regressions, and what each removal adds to the residual.

    `order[i, k]` is the state that regression `i` loses at step `k`, `costs[i, k]` the growth of
    its mean squared residual by that. Where a regression has fewer states, the rest is -1 and
    infinity.
    """

    order: Int[np.ndarray, "n N"]
    costs: Float[np.ndarray, "n N"]


@dataclasses.dataclass(frozen=True)
class LayerPath:
    """One removal order of all `S` states of a layer: the first entry goes first."""

    order: Int[np.ndarray, " S"]
    costs: Float[np.ndarray, " S"]

    def keep(self, count: int) -> Bool[np.ndarray, " S"]:
        """Mask of the `count` states that stay longest."""
        mask = np.zeros(len(self.order), bool)
        mask[self.order[len(self.order) - count :]] = True
        return mask

    @property
    def residuals(self) -> Float[np.ndarray, " K"]:
        """Growth of the layer's mean squared residual with `k` states kept, for `k` = 0 to `S`."""
        return np.append(0.0, np.cumsum(self.costs))[::-1]


def eliminate(
    gram: Float[np.ndarray, "n M M"],
    cross: Float[np.ndarray, "n M T"],
    width: int,
    *,
    present: Bool[np.ndarray, "n N"] | None = None,
    last: Bool[np.ndarray, "n N"] | None = None,
    ridge: float = RIDGE,
) -> EliminationPath:
    """Drop states one by one, each time the one whose loss the others make up for best.

    The regressions are independent; state `i` has the columns `i width` to `(i + 1) width - 1`,
    which go together. A step costs what it adds to the ridge regression's optimum: for columns `g`,
    `tr(W_g^T (A_gg)^-1 W_g)` with `A` the inverse of the regularized Gram matrix of the columns
    that are left and `W` the weights fitted to them.

    Args:
        gram: mean products of the columns, for each regression.
        cross: mean products of columns and targets.
        width: columns of one state; `M = N width`.
        present: which states there are, where regressions have different numbers of them.
        last: states that go only when no others are left.
        ridge: added to the diagonal of the Gram matrix of columns scaled to unit norm.

    Of equal costs the earlier state goes first. Time grows with `N (n M (M + T))`.

    Raises:
        ValueError: if a number is not finite, or `width` does not divide the columns.
    """
    count, columns = gram.shape[:2]
    if columns % width:
        raise ValueError(f"eliminate: {columns} columns are no multiple of the width {width}")
    if not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        raise ValueError("eliminate: gram or cross hold numbers that are not finite")
    states = columns // width
    alive = np.ones((count, states), bool) if present is None else present.copy()
    held = np.zeros((count, states), bool) if last is None else last
    inverse, weights = _fitted(gram, cross, np.repeat(alive, width, axis=1), ridge)
    order = np.full((count, states), -1)
    costs = np.full((count, states), np.inf)
    rows = np.arange(count)
    for step in range(int(alive.sum(axis=1).max(initial=0))):
        active = np.asarray(alive.any(axis=1))
        cost = _costs(inverse, weights, alive, width)
        waiting = held & (alive & ~held).any(axis=1, keepdims=True)
        choice = np.argmin(np.where(alive & ~waiting, cost, np.inf), axis=1)
        order[active, step] = choice[active]
        costs[active, step] = cost[active, choice[active]]
        _downdate(inverse, weights, choice[:, None] * width + np.arange(width), active)
        alive[rows[active], choice[active]] = False
    return EliminationPath(order, costs)


def merge_paths(
    path: EliminationPath,
    slots: Int[np.ndarray, "n N"],
    energy: Float[np.ndarray, " n"],
) -> LayerPath:
    """One order of a layer's states out of those of its regressions, each kept in its own order.

    Costs are compared relative to their regression's own `energy` (of its targets), which a
    thousandth of the mean bounds below. A costly removal that uncovers cheap ones is judged
    together with them: marginal costs are isotonic until they rise (`isotonic`), and the layer's order
    is that of the isotonic costs.

    Args:
        path: from `eliminate`.
        slots: number of each regression's states in the layer, -1 where there is none.
        energy: mean square of each regression's targets.

    Returns:
        The order by states' numbers in the layer; costs as they were, not relative.
    """
    floor = 1e-3 * energy.mean()
    scale = np.where(energy + floor > 0, energy + floor, 1.0)
    regression, step = np.nonzero(path.order >= 0)
    ranked = np.concatenate(
        [
            isotonic(costs[order >= 0] / size)
            for order, costs, size in zip(path.order, path.costs, scale, strict=True)
        ]
    )
    # Equal ones by step first: within a regression the order must stay.
    chosen = np.lexsort((regression, step, ranked))
    regression, step = regression[chosen], step[chosen]
    return LayerPath(slots[regression, path.order[regression, step]], path.costs[regression, step])


def isotonic(costs: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The nearest sequence that never falls, in squares: neighbors out of order share their mean.

    Pool adjacent violators; Barlow et al., Statistical Inference under Order Restrictions, 1972.
    """
    means: list[float] = []
    sizes: list[int] = []
    for cost in costs.tolist():
        mean, size = cost, 1
        while means and means[-1] > mean:
            before, others = means.pop(), sizes.pop()
            mean = (mean * size + before * others) / (size + others)
            size += others
        means.append(mean)
        sizes.append(size)
    return np.repeat(np.array(means, float), np.array(sizes, int))


def unit_scale(gram: Float[np.ndarray, "n M M"]) -> Float[np.ndarray, "n M"]:
    """Factors that give the columns unit norm; 0 for columns that are zero."""
    diagonal = np.einsum("nii->ni", gram)
    nonzero = diagonal > 0
    return np.where(nonzero, 1 / np.sqrt(np.where(nonzero, diagonal, 1.0)), 0.0)


def _fitted(
    gram: np.ndarray, cross: np.ndarray, present: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    scale = unit_scale(gram) * present
    scaled = scale[:, :, None] * gram * scale[:, None, :] + ridge * np.eye(gram.shape[1])
    inverse = np.linalg.inv(scaled)
    inverse = (inverse + inverse.swapaxes(1, 2)) / 2
    return inverse, inverse @ (scale[..., None] * cross)


def _costs(inverse: np.ndarray, weights: np.ndarray, alive: np.ndarray, width: int) -> np.ndarray:
    count, states = alive.shape
    blocks = np.einsum("npapb->npab", inverse.reshape(count, states, width, states, width))
    blocks = np.where(alive[..., None, None], blocks, np.eye(width))
    grouped = weights.reshape(count, states, width, -1)
    # Rounding makes costs near zero negative.
    energy = grouped @ grouped.swapaxes(2, 3)
    return np.maximum(np.einsum("npab,npab->np", np.linalg.inv(blocks), energy), 0.0)


def _downdate(
    inverse: np.ndarray, weights: np.ndarray, columns: np.ndarray, active: np.ndarray
) -> None:
    rows = np.arange(len(columns))[:, None]
    gone = inverse[rows, columns]
    block = np.take_along_axis(gone, columns[:, None, :], axis=2)
    block[~active] = np.eye(columns.shape[1])
    gain = gone.swapaxes(1, 2) @ np.linalg.inv(block)
    gain[~active] = 0
    inverse -= gain @ gone
    weights -= gain @ weights[rows, columns]
    # What rounding left of what is gone. Regressions that are done have nothing to lose.
    inverse[rows, columns] = 0
    inverse.swapaxes(1, 2)[rows, columns] = 0
    weights[rows, columns] = 0
