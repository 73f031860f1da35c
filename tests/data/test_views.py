"""Data of which only some steps are used, and labels read without their records."""

import contextlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastax.data import Data, training_batches
from lastax.data._labels import all_labels
from lastax.data._views import every_step, first_steps

LENGTH = 11


class Records:
    """Number 7 of a source of vectors is made of 7s; its length is 7, its label 7 % 3."""

    def __init__(self, shape, dtype, padded=True):
        self.shape, self.dtype, self.padded = shape, dtype, padded

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        steps = np.arange(LENGTH)[:, None] if self.dtype == np.float32 else np.arange(LENGTH)
        x = np.broadcast_to(100 * index + steps, self.shape).astype(self.dtype)
        record = {"x": x, "label": np.int32(index % 3)}
        if self.padded:
            pair = len(self.shape) > 1 and self.dtype == np.int32
            record["length"] = np.array([index, 1], np.int32) if pair else np.int32(index)
        return record


def data_of(shape, dtype, **options):
    tokens = dtype == np.int32
    return Data(
        sources={"train": Records(shape, dtype, **options)},
        classes=("a", "b", "c"),
        input_size=3,
        length=LENGTH,
        vocabulary=("<pad>", "x", "y") if tokens else (),
        pairs=tokens and len(shape) == 2,
    )


KINDS = {
    "vectors": ((LENGTH, 3), np.float32),
    "tokens": ((LENGTH,), np.int32),
    "pairs": ((2, LENGTH), np.int32),
}


@pytest.mark.parametrize("kind", KINDS)
@given(count=st.integers(1, LENGTH), every=st.integers(1, LENGTH + 2), number=st.integers(0, 10))
def test_the_steps_that_are_left(kind, count, every, number):
    data = data_of(*KINDS[kind])
    thinned = every_step(first_steps(data, count), every)
    record, whole = thinned.sources["train"][number], data.sources["train"][number]
    left = np.arange(LENGTH)[:count][::every]
    assert thinned.length == len(left)
    axis = 0 if kind == "vectors" else -1
    np.testing.assert_array_equal(record["x"], np.take(whole["x"], left, axis))
    assert record["x"].dtype == whole["x"].dtype
    # Steps that are not padding were before: those below the length.
    lengths = np.atleast_1d(whole["length"])
    counted = [np.count_nonzero(left < length) for length in lengths]
    np.testing.assert_array_equal(np.atleast_1d(record["length"]), counted)
    assert record["length"].dtype == np.int32
    assert record["label"] == whole["label"]


def test_records_without_padding_stay_without():
    data = every_step(data_of((LENGTH, 3), np.float32, padded=False), 2)
    assert data.sources["train"][0].keys() == {"x", "label"}


def test_more_steps_than_there_are():
    with pytest.raises(ValueError, match="at most 11, the length of the records; got 12"):
        first_steps(data_of((LENGTH,), np.int32), 12)


def test_workers_get_thinned_records_as_well():
    data = every_step(data_of((LENGTH, 3), np.float32), 3)
    again = pickle.loads(pickle.dumps(data.sources["train"]))
    np.testing.assert_array_equal(again[4]["x"], data.sources["train"][4]["x"])
    with contextlib.closing(
        training_batches(data.sources["train"], batch_size=4, seed=0)
    ) as batches:
        batch = next(batches)
    assert batch["x"].shape == (4, 4, 3)


class Kept:
    """A source that keeps labels apart, and must not be read for them."""

    def __init__(self, labels, rows):
        self.labels, self.rows = labels, rows

    def __len__(self):
        return len(self.labels) if self.rows is None else len(self.rows)

    def __getitem__(self, index):
        raise AssertionError("the record was read")


@pytest.mark.parametrize("rows", [None, range(1, 3), np.array([3, 0])])
def test_labels_that_are_kept_apart(rows):
    labels = np.array([5, 6, 7, 8], np.uint8)
    data = data_of((LENGTH,), np.int32)
    expected = labels if rows is None else labels[np.array(rows)]
    kept = Data(
        sources={"train": Kept(labels, rows)}, classes=data.classes, input_size=1, length=LENGTH
    )
    for source in (kept.sources["train"], every_step(kept, 2).sources["train"]):
        np.testing.assert_array_equal(all_labels(source), expected)


def test_labels_that_only_records_have():
    np.testing.assert_array_equal(
        all_labels(data_of((LENGTH,), np.int32).sources["train"]), np.arange(LENGTH) % 3
    )
