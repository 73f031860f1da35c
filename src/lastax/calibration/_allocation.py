"""Allocation of states to layers, from the cost of each size of each layer."""

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

Curve = Float[np.ndarray, " _"]

# Lower bound of costs before their logarithm is taken.
_LEAST_COST = 1e-12


def minimax_counts(
    curves: Sequence[Curve],
    total: int,
    *,
    minimum: int | Sequence[int] = 1,
    maximum: Sequence[int] | None = None,
) -> list[int]:
    """Counts that minimize the largest cost of a layer.

    Starts with all states. Removes one state at a time from the layer that then has the lowest
    cost, until `total` remain. Ties go to the earlier layer.

    Args:
        curves: `curves[l][k]` is the cost of layer `l` with `k` states, for `k` from 0 to all.
            Costs must be comparable across layers and should not rise with `k`.
        total: number of states to keep.
        minimum: least number of states per layer, or one number for all layers.
        maximum: largest number of states per layer. A layer with equal minimum and maximum is
            fixed.

    Raises:
        ValueError: if the bounds do not allow `total`, or a cost is NaN.
    """
    sizes = [len(curve) - 1 for curve in curves]
    low = [minimum] * len(sizes) if isinstance(minimum, int) else list(minimum)
    high = sizes if maximum is None else list(maximum)
    _check_bounds(sizes, low, high, total)
    for layer, curve in enumerate(curves):
        if np.isnan(curve).any():
            raise ValueError(f"minimax_counts: the costs of layer {layer} contain NaN")
    counts = list(high)
    queue = [
        (float(curves[layer][counts[layer] - 1]), layer)
        for layer in range(len(sizes))
        if counts[layer] > low[layer]
    ]
    heapq.heapify(queue)
    for _ in range(sum(counts) - total):
        _, layer = heapq.heappop(queue)
        counts[layer] -= 1
        if counts[layer] > low[layer]:
            heapq.heappush(queue, (float(curves[layer][counts[layer] - 1]), layer))
    return counts


def probe_sizes(states: int) -> list[int]:
    """About ten sizes, ascending, at which to measure the cost of a layer of `states` states."""
    shares = (1, 0.75, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.03)
    return sorted({max(1, round(share * states)) for share in shares} | {1})


def interpolated_curve(
    sizes: Int[np.ndarray, " m"], costs: Float[np.ndarray, " m"], states: int
) -> Float[np.ndarray, " K"]:
    """Interpolate costs that were measured at a few ascending sizes.

    The curve takes the running minimum of the costs, so it never rises. It follows a power law
    between two sizes and is constant outside them.

    Returns:
        The cost of each size from 0 to `states`.
    """
    falling = np.maximum(np.minimum.accumulate(costs), _LEAST_COST)
    every = np.log(np.maximum(np.arange(states + 1), 1))
    return np.exp(np.interp(every, np.log(sizes), np.log(falling)))


def _check_bounds(
    sizes: Sequence[int], low: Sequence[int], high: Sequence[int], total: int
) -> None:
    for layer, (size, least, most) in enumerate(zip(sizes, low, high, strict=True)):
        if not 0 <= least <= most <= size:
            raise ValueError(
                f"minimax_counts: layer {layer} has {size} states; it cannot keep at least "
                f"{least} and at most {most}"
            )
    if not sum(low) <= total <= sum(high):
        raise ValueError(
            f"minimax_counts: cannot keep {total} states: {len(sizes)} layers of {list(sizes)} "
            f"states with at least {list(low)} and at most {list(high)} allow {sum(low)} to "
            f"{sum(high)}"
        )
