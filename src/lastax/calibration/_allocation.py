"""How many states each layer keeps: from what every size of every layer costs to counts."""

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

Curve = Float[np.ndarray, " _"]

# What counts as nothing where logarithms are taken.
_NOTHING = 1e-12


def minimax_counts(
    curves: Sequence[Curve],
    total: int,
    *,
    minimum: int | Sequence[int] = 1,
    maximum: Sequence[int] | None = None,
) -> list[int]:
    """Counts that keep the costliest layer as cheap as it can be.

    From full size one state after the other is taken from the layer whose cost after that is
    lowest, until `total` are left; of equal ones from the earlier layer.

    Args:
        curves: `curves[l][k]` is what it costs to leave layer `l` with `k` states, for `k` from 0
            to all; it should not rise with `k`. Any measure that compares across layers.
        total: states to keep in all.
        minimum: least number of each layer, or one number for all.
        maximum: most states of each layer. A layer with equal minimum and maximum is fixed.

    Raises:
        ValueError: if the bounds do not allow `total`, or a cost is not a number.
    """
    sizes = [len(curve) - 1 for curve in curves]
    low = [minimum] * len(sizes) if isinstance(minimum, int) else list(minimum)
    high = sizes if maximum is None else list(maximum)
    _check_bounds(sizes, low, high, total)
    for layer, curve in enumerate(curves):
        if np.isnan(curve).any():
            raise ValueError(f"minimax_counts: the curve of layer {layer} holds NaN")
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
    """About ten sizes at which to measure what a layer of `states` states costs, ascending."""
    shares = (1, 0.75, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.03)
    return sorted({max(1, round(share * states)) for share in shares} | {1})


def interpolated_curve(
    sizes: Int[np.ndarray, " m"], costs: Float[np.ndarray, " m"], states: int
) -> Float[np.ndarray, " K"]:
    """A curve over 0 to `states` from costs measured at a few ascending sizes.

    A larger size never costs more: the running minimum is taken. Between sizes costs follow a
    power law, beyond the ends they stay.
    """
    falling = np.maximum(np.minimum.accumulate(costs), _NOTHING)
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
            f"minimax_counts: {total} states to keep, but {len(sizes)} layers of {list(sizes)} "
            f"states with at least {list(low)} and at most {list(high)} allow {sum(low)} to "
            f"{sum(high)}"
        )
