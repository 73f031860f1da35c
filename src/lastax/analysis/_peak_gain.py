"""The largest gain over all frequencies, from a grid that is dense near the poles."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float

_GOLDEN = (np.sqrt(5) - 1) / 2

# Number of local maxima of the grid that are refined.
_REFINED_PEAKS = 12

# Each refinement shrinks an interval to 0.62 of its width, to 4e-9 in total. Since a peak is flat,
# the remaining relative error of its height is about 1e-17.
_REFINEMENTS = 40


def peak_gains(
    gains: Callable[[np.ndarray], np.ndarray], poles: Complex[np.ndarray, "S K"]
) -> Float[np.ndarray, " S"]:
    """The largest values of several gain functions over all frequencies.

    The grid resolves every pole. The highest local maxima on the grid are refined by golden-section
    search.

    Args:
        gains: maps frequencies `(S, W)` in radians per step to gains `(S, W)`. Rows are functions.
        poles: poles of each function, shape `(S, K)`. Near the angle of a pole, and near its
            negative for conjugates and backward states, the gain varies on a scale of `1 - |pole|`.

    Returns:
        The peak of each function, shape `(S,)`, with a relative error of about 1e-12.
    """
    omega = _grid(poles)
    values = gains(omega)
    rows = np.arange(omega.shape[0])[:, None]
    # The grid is periodic.
    before, after = np.roll(values, 1, axis=1), np.roll(values, -1, axis=1)
    is_peak = (values >= before) & (values >= after)
    ranked = np.argsort(np.where(is_peak, -values, np.inf), axis=1)[:, :_REFINED_PEAKS]
    width = omega.shape[1]
    low, high = omega[rows, (ranked - 1) % width], omega[rows, (ranked + 1) % width]
    low = np.where(ranked == 0, low - 2 * np.pi, low)
    high = np.where(ranked == width - 1, high + 2 * np.pi, high)
    return np.maximum(values.max(axis=1), _golden_section(gains, low, high).max(axis=1))


def _grid(poles: Complex[np.ndarray, "S K"]) -> Float[np.ndarray, "S W"]:
    """Ascending frequencies: a uniform grid, and geometric ones around the angle of each pole."""
    count = poles.shape[0]
    angle = np.angle(poles)[..., None]
    distance = np.maximum(np.abs(1 - np.abs(poles)), 1e-14)[..., None]
    offsets = np.geomspace(1e-2, 1e4, 49)
    offsets = np.concatenate([-offsets[::-1], [0.0], offsets])
    near = np.clip(distance * offsets, -np.pi, np.pi)
    uniform = np.broadcast_to(np.linspace(-np.pi, np.pi, 720, endpoint=False), (count, 720))
    parts = [(angle + near).reshape(count, -1), (-angle + near).reshape(count, -1), uniform]
    wrapped = (np.concatenate(parts, axis=1) + np.pi) % (2 * np.pi) - np.pi
    return np.sort(wrapped, axis=1)


def _golden_section(
    gains: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The largest gains in the intervals from `low` to `high`, by golden-section search."""
    inner_low = high - _GOLDEN * (high - low)
    inner_high = low + _GOLDEN * (high - low)
    value_low, value_high = gains(inner_low), gains(inner_high)
    for _ in range(_REFINEMENTS):
        rising = value_low < value_high
        low = np.where(rising, inner_low, low)
        high = np.where(rising, high, inner_high)
        new = np.where(rising, low + _GOLDEN * (high - low), high - _GOLDEN * (high - low))
        value_new = gains(new)
        inner_low, inner_high = (
            np.where(rising, inner_high, new),
            np.where(rising, new, inner_low),
        )
        value_low, value_high = (
            np.where(rising, value_high, value_new),
            np.where(rising, value_new, value_low),
        )
    return np.maximum(value_low, value_high)
