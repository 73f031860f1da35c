"""Allocation of states to layers, from the cost of each size of each layer."""

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from lastax.calibration._elimination import isotonic

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
    low, high = _bounds("minimax_counts", curves, total, minimum, maximum)
    counts = list(high)
    queue = [
        (float(curves[layer][counts[layer] - 1]), layer)
        for layer in range(len(curves))
        if counts[layer] > low[layer]
    ]
    heapq.heapify(queue)
    for _ in range(sum(counts) - total):
        _, layer = heapq.heappop(queue)
        counts[layer] -= 1
        if counts[layer] > low[layer]:
            heapq.heappush(queue, (float(curves[layer][counts[layer] - 1]), layer))
    return counts


def least_sum_counts(
    curves: Sequence[Curve],
    total: int,
    *,
    minimum: int | Sequence[int] = 1,
    maximum: Sequence[int] | None = None,
) -> list[int]:
    """Counts that minimize the sum of the costs of all layers.

    A costly removal that makes the next ones cheap is averaged with them (`isotonic`), so the sum
    is the least one on the lower convex envelopes of the curves. Arguments, ties and errors are
    those of `minimax_counts`.
    """
    low, high = _bounds("least_sum_counts", curves, total, minimum, maximum)
    removals = [
        isotonic(-np.diff(curve[least : most + 1])[::-1])
        for curve, least, most in zip(curves, low, high, strict=True)
    ]
    layer = np.repeat(np.arange(len(curves)), [len(costs) for costs in removals])
    cheapest = np.argsort(np.concatenate(removals), stable=True)[: sum(high) - total]
    removed = np.bincount(layer[cheapest], minlength=len(curves))
    return [most - int(count) for most, count in zip(high, removed, strict=True)]


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


def _bounds(
    function: str,
    curves: Sequence[Curve],
    total: int,
    minimum: int | Sequence[int],
    maximum: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Least and largest number of states per layer."""
    sizes = [len(curve) - 1 for curve in curves]
    low = [minimum] * len(sizes) if isinstance(minimum, int) else list(minimum)
    high = sizes if maximum is None else list(maximum)
    for layer, (size, least, most) in enumerate(zip(sizes, low, high, strict=True)):
        if not 0 <= least <= most <= size:
            raise ValueError(
                f"{function}: layer {layer} has {size} states; it cannot keep at least "
                f"{least} and at most {most}"
            )
    if not sum(low) <= total <= sum(high):
        raise ValueError(
            f"{function}: cannot keep {total} states: {len(sizes)} layers of {sizes} "
            f"states with at least {low} and at most {high} allow {sum(low)} to {sum(high)}"
        )
    for layer, curve in enumerate(curves):
        if np.isnan(curve).any():
            raise ValueError(f"{function}: the costs of layer {layer} contain NaN")
    return low, high
