"""Percentiles of times, in constant memory."""

import math

import numpy as np

_FASTEST, _SLOWEST = 1e-6, 1e3  # seconds
_PER_DECADE = 200


class Latencies:
    """A histogram of times from 1 us to 1,000 s with bins of 1.2 %."""

    def __init__(self) -> None:
        """No times yet."""
        decades = math.log10(_SLOWEST / _FASTEST)
        self._counts = np.zeros(round(decades * _PER_DECADE) + 1, np.int64)

    @property
    def count(self) -> int:
        """Number of times."""
        return int(self._counts.sum())

    def add(self, seconds: float) -> None:
        """Count a time."""
        place = math.log10(max(seconds, _FASTEST) / _FASTEST) * _PER_DECADE
        self._counts[min(round(place), len(self._counts) - 1)] += 1

    def percentile(self, percent: float | int) -> float:
        """The time in seconds that `percent` of all times do not exceed; 0 without times."""
        if not self.count:
            return 0.0
        rank = math.ceil(self.count * percent / 100)
        place = int(np.searchsorted(np.cumsum(self._counts), max(rank, 1)))
        return _FASTEST * 10 ** (place / _PER_DECADE)
