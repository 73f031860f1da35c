"""What to do about a bad item: stop at the first, or leave it out and count it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lastax.data._errors import DataError

CURE = "restore it, or leave bad items out by --skip-bad"


@dataclass
class Skipping:
    """Items are read inside `with skipping.item():`, where a DataError stops unless `allowed`."""

    allowed: bool
    count: int = 0

    @contextlib.contextmanager
    def item(self, count: int = 1) -> Iterator[None]:
        """A block whose DataError counts as `count` items left out, if that is allowed."""
        try:
            yield
        except DataError:
            if not self.allowed:
                raise
            self.count += count


def good_labels(
    where: str, labels: Int[np.ndarray, " n"], classes: int, skipping: Skipping
) -> Bool[np.ndarray, " n"]:
    """Which labels are in 0..classes-1.

    Raises:
        DataError: at the first that is not, naming its row (from 1) in `where`, unless they may be
            left out.
    """
    good = (labels >= 0) & (labels < classes)
    for row in np.flatnonzero(~good):
        with skipping.item():
            raise DataError(
                f"{where}, row {row + 1}: label {labels[row]} is not in 0..{classes - 1}; {CURE}"
            )
    return good
