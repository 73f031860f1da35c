"""Random-access sources over prepared arrays.

A source holds a few paths and numbers, so its pickle is small. Reading a record touches only the
pages of that record.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float32, Int, Int32, Shaped

from lastax.data._errors import DataError
from lastax.data._pipeline import Example
from lastax.data._prepared import StoredArray

# Rows of the arrays that are the records of a source, in order; None: all rows.
Rows = StoredArray | range | Int[np.ndarray, " n"] | None


@dataclass(frozen=True, eq=False)
class Sequences:
    """Numeric sequences of equal length: records `{"x": float32 (L, d), "label": int32 ()}`.

    `decode` maps a row of `x` to steps. It must be picklable (a function of a module, or
    `functools.partial` of one).
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

    `tokens` holds the ids of all texts. Text k is `tokens[offsets[k]:offsets[k + 1]]`. `x` is
    padded with 0; "length" is the number of tokens without padding. All ids are below
    `vocabulary_size`, the size of the embedding table.
    """

    tokens: StoredArray
    offsets: StoredArray
    labels: StoredArray
    rows: Rows
    length: int
    vocabulary_size: int

    def __len__(self) -> int:
        return _count(self.rows, len(self.labels))

    def __getitem__(self, index: SupportsIndex) -> Example:
        row = _row(self.rows, len(self), index)
        x, length = _padded(self, row)
        return {"x": x, "label": np.int32(self.labels[row]), "length": length}


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Pairs of texts: `{"x": int32 (2, length), "label": int32 (), "length": int32 (2,)}`.

    Like `TokenSequences`. Pair k consists of texts 2 k and 2 k + 1.
    """

    tokens: StoredArray
    offsets: StoredArray
    labels: StoredArray
    rows: Rows
    length: int
    vocabulary_size: int

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
    """Row of record `index`. IndexError ends a loop over the source."""
    number = index.__index__()
    if not -count <= number < count:
        raise IndexError(f"no record {number}; there are {count} records")
    number %= count
    return number if rows is None else int(rows[number])


def _padded(
    source: TokenSequences | TokenPairs, text: int
) -> tuple[Int32[np.ndarray, " length"], np.int32]:
    start, end = source.offsets[text : text + 2].tolist()
    tokens = source.tokens[start:end]
    if not 0 < end - start <= source.length or tokens.max() >= source.vocabulary_size:
        raise DataError(
            f"{source.tokens.path} is damaged at text {text}; remove "
            f"{source.tokens.path.parent} to prepare it again"
        )
    x = np.zeros(source.length, np.int32)
    x[: end - start] = tokens
    return x, np.int32(end - start)
