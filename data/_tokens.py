"""Texts as token ids: vocabularies and prepared files of a split.

The conventions are those of the published runs: id 0 is padding, id 1 is any token that is not in
the vocabulary, id 2 ends a text. The other tokens are sorted by decreasing count in the truncated
training texts.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped, UInt32

from lastax.data._errors import DataError
from lastax.data._prepared import ArrayWriter, StoredArray
from lastax.data._sources import Rows, TokenPairs, TokenSequences

SPECIALS = ("<pad>", "<unk>", "<eos>")
UNKNOWN = SPECIALS.index("<unk>")
END = SPECIALS.index("<eos>")
CODE_POINTS = 0x110000
TEXTS_AT_ONCE = 512  # about 10 MB for texts of 4,000 characters


def count_characters(texts: Iterable[str], *, length: int) -> Int64[np.ndarray, " code_points"]:
    """Count of each Unicode character in the part of `texts` that `encode_characters` keeps."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for some in in_groups(texts):
        counts += np.bincount(
            _code_points([text[: length - 1] for text in some]), None, CODE_POINTS
        )
    return counts


def character_vocabulary(
    counts: Int64[np.ndarray, " code_points"], *, minimum: int
) -> tuple[str, ...]:
    """The special tokens, then all characters that occur at least `minimum` times.

    Sorted by decreasing count, then by code point.
    """
    found = np.flatnonzero(counts >= max(minimum, 1))
    ordered = found[np.argsort(-counts[found], kind="stable")]
    return (*SPECIALS, *map(chr, ordered.tolist()))


def character_ids(vocabulary: Sequence[str]) -> Shaped[np.ndarray, " code_points"]:
    """The id of each code point, in the smallest dtype that holds all ids."""
    ids = np.full(CODE_POINTS, UNKNOWN, id_type(len(vocabulary)))
    ids[[ord(character) for character in vocabulary[len(SPECIALS) :]]] = np.arange(
        len(SPECIALS), len(vocabulary)
    )
    return ids


def encode_characters(
    texts: Sequence[str], ids: Shaped[np.ndarray, " code_points"], *, length: int
) -> tuple[Shaped[np.ndarray, " tokens"], Int64[np.ndarray, " texts"]]:
    """The tokens of all texts, concatenated, and the number of tokens of each text.

    A text is truncated to `length` - 1 characters. Then the end token follows.
    """
    cut = [text[: length - 1] for text in texts]
    lengths = np.array([len(text) for text in cut], np.int64)
    return np.insert(ids[_code_points(cut)], np.cumsum(lengths), END), lengths + 1


def id_type(vocabulary_size: int) -> np.dtype:
    """The smallest integer dtype for the ids of a vocabulary of size `vocabulary_size`."""
    return np.min_scalar_type(vocabulary_size - 1)


def in_groups(items: Iterable[Any], size: int = TEXTS_AT_ONCE) -> Iterator[list[Any]]:
    """Lists of `size` items. The last list may be shorter."""
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some


class TokenWriter:
    """Writes one split of a token data set into a prepared folder, in groups of texts."""

    def __init__(self, folder: Path, split: str, *, vocabulary_size: int):
        with contextlib.ExitStack() as files:
            self._tokens, self._offsets, self._labels = (
                files.enter_context(ArrayWriter(folder, f"{split}_{name}", dtype))
                for name, dtype in (
                    ("tokens", id_type(vocabulary_size)),
                    ("offsets", np.int64),
                    ("labels", np.uint8),
                )
            )
            self._offsets.append(np.zeros(1, np.int64))
            self._files = files.pop_all()

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def __len__(self) -> int:
        """Number of records so far."""
        return len(self._labels)

    def add(
        self,
        tokens: Shaped[np.ndarray, " tokens"],
        lengths: Int64[np.ndarray, " texts"],
        labels: Sequence[int],
    ) -> None:
        """Add concatenated texts, with one label per text or one label per pair of texts."""
        self._offsets.append(len(self._tokens) + np.cumsum(lengths))
        self._tokens.append(tokens)
        self._labels.append(np.array(labels, np.uint8))


def open_texts(
    folder: Path, split: str, *, vocabulary_size: int, length: int, rows: Rows = None
) -> TokenSequences:
    """Open what `TokenWriter` wrote, with one text per record."""
    return TokenSequences(
        *_open(folder, split, 1), rows=rows, length=length, vocabulary_size=vocabulary_size
    )


def open_pairs(folder: Path, split: str, *, vocabulary_size: int, length: int) -> TokenPairs:
    """Open what `TokenWriter` wrote, with two texts per record."""
    return TokenPairs(
        *_open(folder, split, 2), rows=None, length=length, vocabulary_size=vocabulary_size
    )


def _open(folder: Path, split: str, texts: int) -> tuple[StoredArray, StoredArray, StoredArray]:
    tokens, offsets, labels = (
        StoredArray(folder / f"{split}_{name}.npy") for name in ("tokens", "offsets", "labels")
    )
    if len(offsets) != texts * len(labels) + 1 or offsets[-1] != len(tokens):
        raise DataError(f"{split} in {folder} is damaged; remove that folder to prepare it again")
    return tokens, offsets, labels


def _code_points(texts: Sequence[str]) -> UInt32[np.ndarray, " characters"]:
    return np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
