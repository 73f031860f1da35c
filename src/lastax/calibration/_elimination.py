"""Greedy elimination of states, with a refit of the remaining ones after each removal.

The output of a layer is a linear regression on features of its states. The inverse Gram matrix
gives the growth of the residual when the columns of one state are dropped and the others are
refitted (Hassibi & Stork, optimal brain surgeon, NeurIPS 1992). A downdate gives the inverse for
the remaining columns. One sweep therefore gives the order and the cost of every size. All
computations run in float64 on the host.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from lastax.calibration._unit_scale import unit_scale

# Added to the diagonal when columns have unit norm. Values from 1e-12 to 1e-2 work as well.
RIDGE = 1e-6


@dataclasses.dataclass(frozen=True)
class EliminationPath:
    """Order of elimination in `n` independent regressions.

    Attributes:
        order: `order[i, k]` is the state that regression `i` loses at step `k`; -1 after its last
            state.
        costs: `costs[i, k]` is the growth of its mean squared residual at step `k`; infinity after
            its last state.
    """

    order: Int[np.ndarray, "n N"]
    costs: Float[np.ndarray, "n N"]


@dataclasses.dataclass(frozen=True)
class LayerPath:
    """Order of elimination of all `S` states of a layer.

    Attributes:
        order: states, the first to be removed first.
        costs: growth of the mean squared residual at each removal.
    """

    order: Int[np.ndarray, " S"]
    costs: Float[np.ndarray, " S"]

    def keep(self, count: int) -> Bool[np.ndarray, " S"]:
        """Mask of the `count` states that are removed last."""
        mask = np.zeros(len(self.order), bool)
        mask[self.order[len(self.order) - count :]] = True
        return mask

    @property
    def residuals(self) -> Float[np.ndarray, " K"]:
        """Growth of the mean squared residual when `k` states remain, for `k` from 0 to `S`."""
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
    """Remove states one by one, each time the one that raises the residual least.

    The cost of a step is the growth of the optimum of the ridge regression. For the columns `g` of
    a state it is `tr(W_g^T (A_gg)^-1 W_g)`, where `A` is the inverse of the regularized Gram matrix
    of the remaining columns and `W` the weights fitted to them. Ties go to the earlier state. The
    time is proportional to `N (n M (M + T))`.

    Args:
        gram: mean products of the columns, for each of `n` regressions.
        cross: mean products of columns and targets.
        width: number of columns per state, `M = N width`. State `i` has the columns `i width` to
            `(i + 1) width - 1`.
        present: mask of existing states, if regressions have different numbers of states.
        last: states that are removed only when no others remain.
        ridge: added to the diagonal of the Gram matrix of columns scaled to unit norm.

    Raises:
        ValueError: if a value is not finite, or `width` does not divide the columns.
    """
    count, columns = gram.shape[:2]
    if columns % width:
        raise ValueError(
            f"eliminate: the number of columns, {columns}, must be a multiple of width={width}"
        )
    if not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        raise ValueError("eliminate: gram and cross must be finite; check the calibration data")
    states = columns // width
    alive = np.ones((count, states), bool) if present is None else present.copy()
    held = np.zeros((count, states), bool) if last is None else last
    inverse, weights = _fitted(gram, cross, alive, width, ridge)
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
    """Merge the orders of a layer's regressions into one; the order within each is kept.

    Costs are compared relative to the `energy` of their regression plus a thousandth of the mean
    energy. A costly removal that makes the next ones cheap is averaged with them (`isotonic`), and
    the states are sorted by these isotonic costs.

    Args:
        path: result of `eliminate`.
        slots: index in the layer of each regression's states, -1 in empty slots.
        energy: mean square of each regression's targets.

    Returns:
        The order, as indices in the layer, with the original costs.
    """
    offset = 1e-3 * energy.mean()
    scale = np.where(energy + offset > 0, energy + offset, 1.0)
    regression, step = np.nonzero(path.order >= 0)
    ranked = np.concatenate(
        [
            isotonic(costs[order >= 0] / size)
            for order, costs, size in zip(path.order, path.costs, scale, strict=True)
        ]
    )
    # Ties are sorted by step, which keeps the order within each regression.
    chosen = np.lexsort((regression, step, ranked))
    regression, step = regression[chosen], step[chosen]
    return LayerPath(slots[regression, path.order[regression, step]], path.costs[regression, step])


def isotonic(costs: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The nondecreasing sequence that is nearest in least squares (isotonic regression).

    Pool adjacent violators: Barlow et al., Statistical Inference under Order Restrictions, 1972.
    """
    means: list[float] = []
    sizes: list[int] = []
    for cost in costs.tolist():
        mean, size = cost, 1
        while means and means[-1] > mean:
            previous, others = means.pop(), sizes.pop()
            mean = (mean * size + previous * others) / (size + others)
            size += others
        means.append(mean)
        sizes.append(size)
    return np.repeat(np.array(means, float), np.array(sizes, int))


def _fitted(
    gram: np.ndarray, cross: np.ndarray, present: np.ndarray, width: int, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    owners = np.arange(gram.shape[1]) // width
    scale = unit_scale(gram, owners) * np.repeat(present, width, axis=1)
    scaled = scale[:, :, None] * gram * scale[:, None, :] + ridge * np.eye(gram.shape[1])
    inverse = np.linalg.inv(scaled)
    inverse = (inverse + inverse.swapaxes(1, 2)) / 2
    return inverse, inverse @ (scale[..., None] * cross)


def _costs(inverse: np.ndarray, weights: np.ndarray, alive: np.ndarray, width: int) -> np.ndarray:
    count, states = alive.shape
    blocks = np.einsum("npapb->npab", inverse.reshape(count, states, width, states, width))
    blocks = np.where(alive[..., None, None], blocks, np.eye(width))
    grouped = weights.reshape(count, states, width, -1)
    # Rounding can make costs near zero negative.
    energy = grouped @ grouped.swapaxes(2, 3)
    return np.maximum(np.einsum("npab,npab->np", np.linalg.inv(blocks), energy), 0.0)


def _downdate(
    inverse: np.ndarray, weights: np.ndarray, columns: np.ndarray, active: np.ndarray
) -> None:
    rows = np.arange(len(columns))[:, None]
    removed = inverse[rows, columns]
    block = np.take_along_axis(removed, columns[:, None, :], axis=2)
    block[~active] = np.eye(columns.shape[1])
    gain = removed.swapaxes(1, 2) @ np.linalg.inv(block)
    gain[~active] = 0
    inverse -= gain @ removed
    weights -= gain @ weights[rows, columns]
    # Clear what rounding left in removed columns. Finished regressions have no columns to clear.
    inverse[rows, columns] = 0
    inverse.swapaxes(1, 2)[rows, columns] = 0
    weights[rows, columns] = 0
