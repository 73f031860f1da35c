"""Training batches that are read ahead, from a position that can be stored."""

import copy
from collections.abc import Generator
from typing import Protocol, runtime_checkable

from lastax._typing import Batch, Record
from lastax.training._overlap import read_ahead
from lastax.training._placement import Placement


@runtime_checkable
class Batches(Protocol):
    """Endless training batches whose position can be stored, like a Grain iterator.

    A thread uses them, and reads ahead. Each batch must have its own arrays.
    """

    def __next__(self) -> Batch:
        """The next batch."""

    def get_state(self) -> Record:
        """The position, as JSON values."""

    def set_state(self, state: Record) -> None:
        """Return to a stored position."""


class BatchReader:
    """Batches on the devices, each with the position after it. A thread reads ahead."""

    def __init__(self, batches: Batches, placement: Placement) -> None:
        """Read from the current position of `batches`, which only the reader may use from now on.

        Args:
            batches: the training batches.
            placement: the devices.
        """
        self._batches, self._placement = batches, placement
        self._reading = self._start()

    def __next__(self) -> tuple[Batch, Record]:
        """The next batch, and the position after it."""
        return next(self._reading)

    def return_to(self, position: Record) -> None:
        """Read from a stored position."""
        self.close()
        self._batches.set_state(position)
        self._reading = self._start()

    def close(self) -> None:
        """Stop the thread."""
        self._reading.close()

    def _start(self) -> Generator[tuple[Batch, Record], None, None]:
        return read_ahead(
            self._batches,
            lambda batch: (self._placement.batch(batch), copy.deepcopy(self._batches.get_state())),
        )
