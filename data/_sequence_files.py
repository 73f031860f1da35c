"""Prepared sequences of equal length, with labels and splits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64, Shaped

from lastax.data._data_set import Data
from lastax.data._errors import DataError
from lastax.data._prepared import StoredArray, load_about, save_about, write_array
from lastax.data._sources import Sequences

Decode = Callable[[Shaped[np.ndarray, "..."]], Float32[np.ndarray, "L d"]]


def create_sequences(folder: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """A writable array for all records. `shape` is (records, *shape of a record)."""
    return write_array(folder, "x", shape, dtype)


def save_splits(
    folder: Path,
    labels: Int32[np.ndarray, " n"],
    splits: Mapping[str, Int[np.ndarray, " m"]],
    good: Bool[np.ndarray, " n"],
    *,
    where: Path,
    **about: Any,
) -> None:
    """Save labels, the rows of each split, and facts about the data set.

    Args:
        folder: the folder of the prepared data set.
        labels: labels of all rows.
        splits: rows of each split.
        good: whether each row is usable. Other rows belong to no split.
        where: location of the source files, for the error message.
        about: further facts.

    Raises:
        DataError: if no row of a split is good.
    """
    save_array(folder, "labels", labels)
    for split, rows in splits.items():
        kept = rows[good[rows]]
        if not len(kept):
            raise DataError(f"{where} has no good record for {split}; restore it")
        save_array(folder, split, kept)
    save_about(folder, {"splits": list(splits), **about})


def held_out(records: int) -> tuple[int, int]:
    """Sizes of the training and validation splits, if a tenth of `records` is held out."""
    training = int(records * 0.9)
    return training, records - training


def mean_and_deviation(
    moments: Int64[np.ndarray, "2 d"], count: int
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " d"]]:
    """Mean and standard deviation of `count` integers, from their sums and sums of squares.

    The deviation is at least 1, the smallest step of an integer, because constant values must not
    cause a division by zero.
    """
    mean, squares = moments / max(count, 1)
    return mean, np.sqrt(np.maximum(squares - mean**2, 1))


def save_array(folder: Path, name: str, values: Shaped[np.ndarray, "..."]) -> None:
    """Save `values` to `folder/name.npy`."""
    stored = write_array(folder, name, values.shape, values.dtype)
    stored[...] = values
    stored.flush()


def open_sequences(folder: Path, decode: Decode, classes: tuple[str, ...]) -> Data:
    """Open what `create_sequences` and `save_splits` wrote; `decode` decodes records."""
    about = load_about(folder)
    x, labels = StoredArray(folder / "x.npy"), StoredArray(folder / "labels.npy")
    sources = {
        split: Sequences(x, labels, StoredArray(folder / f"{split}.npy"), decode)
        for split in about["splits"]
    }
    length, input_size = next(iter(sources.values()))[0]["x"].shape
    return Data(
        sources=sources,
        classes=classes,
        input_size=input_size,
        length=length,
        skipped=about.get("skipped", 0),
        notes=tuple(about.get("notes", ())),
    )
