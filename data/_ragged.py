"""Sequences of numbers of different lengths: stored one after the other, read padded."""

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
    """Records `{"x": float32 (length, d), "label": int32 ()}`, filled up with zeros.

    Attributes:
        values: of all sequences, flat: those of sequence k at `offsets[k]` up to `offsets[k + 1]`.
        offsets: (n + 1,).
        labels: (n,).
        rows: which sequences are records.
        length: steps of every record.
        decode: stored values of a sequence to its steps, at most `length`; picklable.
        with_length: whether records say by "length", int32 (), how many steps are no filling.
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
    """Keep where each sequence of so many steps of `size` values begins and ends."""
    save_array(folder, "offsets", np.concatenate([[0], np.cumsum(lengths * size)]))


def open_ragged(folder: Path, decode: Decode, *, classes: tuple[str, ...], input_size: int) -> Data:
    """A prepared folder of `values`, written flat, `save_lengths` and `save_splits`.

    What is known of it must say the "length" of records, and whether it is that of all sequences:
    "uniform".
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
    )
