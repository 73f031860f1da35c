"""Random-access sources over prepared arrays: what Grain reads, and worker processes are sent.

All of them are a few paths and numbers: pickled they are small, and reading one record touches
that record's pages of the files alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float32, Int, Int32, Shaped

from lastax.data._errors import DataError
from lastax.data._pipeline import Example
from lastax.data._prepared import StoredArray

# Which records of the arrays a source has, and in which order; None: all, as they come.
Rows = StoredArray | range | Int[np.ndarray, " n"] | None


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of numbers, all of one length: records `{"x": float32 (L, d), "label": int32 ()}`.

    `decode` turns what `x` holds of a record into steps; it must be picklable (a function of a
    module, or `functools.partial` of one).
    """

    x: StoredArray
    labels: StoredArray
    rows: Rows
    decode: Callable[[Shaped[np.ndarray, "..."]], Float32[np.ndarray, "L d"]]

    def __len__(self) -> int:
        return _count(self.rows, len(self.labels))

    def __getitem__(self, index: SupportsIndex) -> Example:
        row = _row(self.rows, len(self), index)
        return {"x": self.decode(np.asarray(self.x[row])), "label": np.int32(self.labels[row])}


@dataclass(frozen=True, eq=False)
class TokenSequences:
    """Texts: records `{"x": int32 (length,), "label": int32 (), "length": int32 ()}`.

    `tokens` holds the ids of all texts one after the other, text k at `offsets[k]` up to
    `offsets[k + 1]`. `x` is filled up with 0, the id of padding; "length" counts what is not.
    Every id is below `kinds`: the network looks them up in a table of that size.
    """

    tokens: StoredArray
    offsets: StoredArray
    labels: StoredArray
    rows: Rows
    length: int
    kinds: int

    def __len__(self) -> int:
        return _count(self.rows, len(self.labels))

    def __getitem__(self, index: SupportsIndex) -> Example:
        row = _row(self.rows, len(self), index)
        x, length = _padded(self, row)
        return {"x": x, "label": np.int32(self.labels[row]), "length": length}


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Pairs of texts: `{"x": int32 (2, length), "label": int32 (), "length": int32 (2,)}`.

    As `TokenSequences`; pair k is texts 2 k and 2 k + 1.
    """

    tokens: StoredArray
    offsets: StoredArray
    labels: StoredArray
    rows: Rows
    length: int
    kinds: int

    def __len__(self) -> int:
        return _count(self.rows, len(self.labels))

    def __getitem__(self, index: SupportsIndex) -> Example:
        row = _row(self.rows, len(self), index)
        one, other = _padded(self, 2 * row), _padded(self, 2 * row + 1)
        return {
            "x": np.stack([one[0], other[0]]),
            "label": np.int32(self.labels[row]),
            "length": np.array([one[1], other[1]], np.int32),
        }


def _count(rows: Rows, records: int) -> int:
    return records if rows is None else len(rows)


def _row(rows: Rows, count: int, index: SupportsIndex) -> int:
    """The row of the arrays that record `index` is; IndexError ends a loop over the source."""
    number = index.__index__()
    if not -count <= number < count:
        raise IndexError(f"record {number} of {count}")
    number %= count
    return number if rows is None else int(rows[number])


def _padded(
    source: TokenSequences | TokenPairs, text: int
) -> tuple[Int32[np.ndarray, " length"], np.int32]:
    start, end = source.offsets[text : text + 2].tolist()
    tokens = source.tokens[start:end]
    if not 0 < end - start <= source.length or tokens.max() >= source.kinds:
        raise DataError(
            f"{source.tokens.path} is damaged at text {text}; remove {source.tokens.path.parent}, "
            "it is made again"
        )
    x = np.zeros(source.length, np.int32)
    x[: end - start] = tokens
    return x, np.int32(end - start)
