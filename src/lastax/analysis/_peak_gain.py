"""Peaks over the unit circle: a grid that is dense where poles are near, then refinement."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float

_GOLDEN = (np.sqrt(5) - 1) / 2

_REFINED_PEAKS = 12

# Each leaves .62 of an interval. A peak is flat: 4e-9 of a grid's cell is 1e-17 of its height.
_REFINEMENTS = 40


def peak_gains(
    gains: Callable[[np.ndarray], np.ndarray], poles: Complex[np.ndarray, "S K"]
) -> Float[np.ndarray, " S"]:
    """The largest value over all frequencies of each of `S` gain functions.

    Args:
        gains: takes angles `(S, W)` to gains `(S, W)`, one row a function.
        poles: those of each function. A gain varies slowest over `1 - |pole|` around an angle
            `arg(pole)`, and around its mirror image if conjugates or both directions take part.

    Returns:
        The peaks, to about 1e-12 of their size: local maxima of a grid that resolves every pole,
        the highest of them refined by golden sections.
    """
    omega = _grid(poles)
    values = gains(omega)
    rows = np.arange(omega.shape[0])[:, None]
    # The grid is a circle: its ends are neighbors.
    left, right = np.roll(values, 1, axis=1), np.roll(values, -1, axis=1)
    is_peak = (values >= left) & (values >= right)
    ranked = np.argsort(np.where(is_peak, -values, np.inf), axis=1)[:, :_REFINED_PEAKS]
    width = omega.shape[1]
    low, high = omega[rows, (ranked - 1) % width], omega[rows, (ranked + 1) % width]
    low = np.where(ranked == 0, low - 2 * np.pi, low)
    high = np.where(ranked == width - 1, high + 2 * np.pi, high)
    return np.maximum(values.max(axis=1), _golden_section(gains, low, high).max(axis=1))


def _grid(poles: Complex[np.ndarray, "S K"]) -> Float[np.ndarray, "S W"]:
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
    inner_low = high - _GOLDEN * (high - low)
    inner_high = low + _GOLDEN * (high - low)
    value_low, value_high = gains(inner_low), gains(inner_high)
    for _ in range(_REFINEMENTS):
        rising = value_low < value_high
        low = np.where(rising, inner_low, low)
        high = np.where(rising, high, inner_high)
        fresh = np.where(rising, low + _GOLDEN * (high - low), high - _GOLDEN * (high - low))
        value_fresh = gains(fresh)
        inner_low, inner_high = (
            np.where(rising, inner_high, fresh),
            np.where(rising, fresh, inner_low),
        )
        value_low, value_high = (
            np.where(rising, value_high, value_fresh),
            np.where(rising, value_fresh, value_low),
        )
    return np.maximum(value_low, value_high)
