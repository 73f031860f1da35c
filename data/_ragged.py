"""Numeric sequences of different lengths: stored concatenated, read with padding."""

from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64

from lastax.data._data_set import Data
from lastax.data._pipeline import Example
from lastax.data._prepared import StoredArray, load_about
from lastax.data._sequence_files import Decode, save_array
from lastax.data._sources import Rows


@dataclass(frozen=True, eq=False)
class RaggedSequences:
    """Records `{"x": float32 (length, d), "label": int32 ()}`, padded with zeros.

    Attributes:
        values: values of all sequences, flat. Sequence k is `values[offsets[k]:offsets[k + 1]]`.
        offsets: shape (n + 1,).
        labels: shape (n,).
        rows: which sequences are records, in order; None: all.
        length: number of steps per record.
        decode: maps the stored values of a sequence to at most `length` steps; picklable.
        with_length: whether records have "length", int32 (), the number of steps without padding.
    """

    values: StoredArray
    offsets: StoredArray
    labels: StoredArray
    rows: Rows
    length: int
    decode: Decode
    with_length: bool

    def __len__(self) -> int:
        return len(self.labels) if self.rows is None else len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> Example:
        number = range(len(self))[index]
        row = number if self.rows is None else int(self.rows[number])
        start, end = self.offsets[row : row + 2].tolist()
        steps = self.decode(np.asarray(self.values[start:end]))
        x = steps
        if len(steps) != self.length:
            x = np.zeros((self.length, steps.shape[1]), np.float32)
            x[: len(steps)] = steps
        record: Example = {"x": x, "label": np.int32(self.labels[row])}
        if self.with_length:
            record["length"] = np.int32(len(steps))
        return record


def save_lengths(folder: Path, lengths: Int64[np.ndarray, " n"], size: int) -> None:
    """Save the offsets of sequences with `lengths` steps of `size` values."""
    save_array(folder, "offsets", np.concatenate([[0], np.cumsum(lengths * size)]))


def open_ragged(folder: Path, decode: Decode, *, classes: tuple[str, ...], input_size: int) -> Data:
    """Open a prepared folder: flat `values`, `save_lengths` and `save_splits`.

    Its facts must hold "length", the number of steps per record, and "uniform", whether all
    sequences have this length.
    """
    about = load_about(folder)
    stored = {name: StoredArray(folder / f"{name}.npy") for name in ("values", "offsets", "labels")}
    sources = {
        split: RaggedSequences(
            **stored,
            rows=StoredArray(folder / f"{split}.npy"),
            length=about["length"],
            decode=decode,
            with_length=not about["uniform"],
        )
        for split in about["splits"]
    }
    return Data(
        sources=sources,
        classes=classes,
        input_size=input_size,
        length=about["length"],
        skipped=about["skipped"],
        notes=tuple(about.get("notes", ())),
    )
