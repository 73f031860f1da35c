"""A source with only some of its records."""

import dataclasses
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from lastax.data._pipeline import Example, Source


def some(source: Source, limit: int) -> Source:
    """At most `limit` records of `source`, in order. The random choice is deterministic."""
    if len(source) <= limit:
        return source
    drawn = np.random.default_rng(0).permutation(len(source))[:limit]
    return Records(source, np.sort(drawn))


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The records of `source` at `positions`."""

    source: Source
    positions: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self.source[int(self.positions[index.__index__()])]
