"""The times of an epoch."""

import contextlib
import time
from collections.abc import Iterator

from lastax._typing import Record


class Clock:
    """Times the steps of one epoch, and the time in which they wait for data."""

    def __init__(self) -> None:
        """Start the epoch."""
        self._started = self._resumed = time.monotonic()
        self._compiling = False
        self._steps, self._stepping, self._waiting = 0, 0.0, 0.0

    def expect_compilation(self) -> None:
        """Leave the next step out of the rates, because it compiles."""
        self._compiling = True

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the wait for a batch."""
        begun = time.monotonic()
        yield
        self._waiting += time.monotonic() - begun

    def step_done(self) -> None:
        """End a step. The next one begins now."""
        now = time.monotonic()
        self._steps, self._stepping = self._steps + 1, self._stepping + now - self._resumed
        if self._compiling:
            self._steps, self._stepping, self._waiting = 0, 0.0, 0.0
        self._resumed, self._compiling = now, False

    def resume(self) -> None:
        """Leave out the time since the last step, which was spent on something else."""
        self._resumed = time.monotonic()

    def record(self) -> Record:
        """End the epoch.

        Returns:
            `seconds` of the epoch, `steps_per_second`, and `data_wait`, the share of the time of
            the steps that was spent waiting for data. Both are None if no step was timed.
        """
        timed = self._steps > 0
        return {
            "seconds": round(time.monotonic() - self._started, 3),
            "steps_per_second": round(self._steps / self._stepping, 3) if timed else None,
            "data_wait": round(self._waiting / self._stepping, 4) if timed else None,
        }
