"""Bad items: stop at the first one, or skip and count them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lastax.data._errors import DataError

HINT = "restore it, or skip bad items with --skip-bad"


@dataclass
class Skipping:
    """Counts items that were skipped.

    Read each item inside `with skipping.item():`. A DataError is raised unless skipping is
    `allowed`.
    """

    allowed: bool
    count: int = 0

    @contextlib.contextmanager
    def item(self, count: int = 1) -> Iterator[None]:
        """If skipping is allowed, suppress a DataError in the block and count `count` items."""
        try:
            yield
        except DataError:
            if not self.allowed:
                raise
            self.count += count


def good_labels(
    where: str, labels: Int[np.ndarray, " n"], classes: int, skipping: Skipping
) -> Bool[np.ndarray, " n"]:
    """Whether each label is in 0..classes-1.

    Raises:
        DataError: if a label is not and skipping is not allowed. The message names `where` and
            the row, counted from 1.
    """
    good = (labels >= 0) & (labels < classes)
    for row in np.flatnonzero(~good):
        with skipping.item():
            raise DataError(
                f"{where}, row {row + 1}: label {labels[row]} is not in 0..{classes - 1}; {HINT}"
            )
    return good
