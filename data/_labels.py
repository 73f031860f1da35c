"""All labels of a source."""

import numpy as np
from jaxtyping import Int64

from lastax.data._pipeline import Source
from lastax.data._views import Steps


def all_labels(source: Source) -> Int64[np.ndarray, " n"]:
    """The labels of all records, in order; reads no records where labels are stored separately."""
    while isinstance(source, Steps):
        source = source.source
    kept, rows = getattr(source, "labels", None), getattr(source, "rows", None)
    if kept is None:
        return np.array([int(source[index]["label"]) for index in range(len(source))], np.int64)
    labels = np.asarray(kept[:], np.int64)
    return labels if rows is None else labels[np.asarray(rows[:], np.int64)]
