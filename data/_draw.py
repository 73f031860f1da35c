"""Figures of data sets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lastax.data._data_set import Data, Kind
from lastax.data._labels import all_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_data(
    data: Data,
    kind: Kind,
    *,
    split: str = "train",
    records: Sequence[int] | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw some records of a data set, and the shares of the classes in each split.

    Args:
        data: the data set.
        kind: type of its records (`lastax.data.DATASETS[name].kind`). Tokens are drawn as text.
        split: the split of the records.
        records: numbers of the records. Default: eight `balanced_records`.
        title: title of the figure. The sizes of the data set follow it.

    Raises:
        ValueError: if `split` is unknown.
    """
    # Matplotlib is loaded only when a figure is drawn.
    from lastax.plots import draw_records

    if split not in data.sources:
        raise ValueError(f"draw_data: split must be one of {tuple(data.sources)}; got {split!r}")
    if records is None:
        records = balanced_records(data, split, 8)
    if data.vocabulary:
        kind = "text"
    labels = {name: all_labels(source) for name, source in data.sources.items()}
    sizes = ", ".join(f"{len(found):,} {name}" for name, found in labels.items())
    sizes += f"; {data.length:,} steps of {data.input_size}"
    return draw_records(
        data,
        kind,
        records={
            f"{data.classes[labels[split][number]]}  ({split} {number})": data.sources[split][
                number
            ]
            for number in records
        },
        shares={
            name: np.bincount(found, minlength=len(data.classes)) / len(found)
            for name, found in labels.items()
        },
        title=sizes if title is None else f"{title}: {sizes}",
    )


def balanced_records(data: Data, split: str, count: int, *, seed: int = 0) -> list[int]:
    """Numbers of `count` random records. Classes alternate as long as they have records."""
    labels = all_labels(data.sources[split])
    drawn = np.random.default_rng(seed).permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        own = drawn[labels[drawn] == label]
        turn[own] = np.arange(len(own))
    order = drawn[np.lexsort((labels[drawn], turn[drawn]))]
    return order[:count].tolist()
