"""`check_data` and `check_split`: valid data have no problems, every kind of damage is one."""

import numpy as np
import pytest

from lastax.data import Data, DataError, check_data, check_split


class Two:
    """Two records: a valid one, and a variant."""

    def __init__(self, **record):
        good = {"x": np.zeros((4, 2), np.float32), "label": np.int32(0), "length": np.int32(3)}
        self.records = [good, {**good, **record}]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.records[index]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"x": np.full((4, 2), np.nan, np.float32)}, "not finite"),
        ({"x": np.zeros((4, 3), np.float32)}, "shape (4, 3) instead of (4, 2)"),
        ({"label": np.int32(2)}, "labels out of 0..1"),
        ({"label": np.int32(-1)}, "labels out of 0..1"),
        ({"length": np.int32(0)}, "lengths out of 1..4"),
        ({"length": np.int32(5)}, "lengths out of 1..4"),
    ],
)
def test_an_invalid_record_is_a_problem(record, words):
    two = Two(**record)
    data = Data(sources={"train": two, "test": two}, classes=("a", "b"), input_size=2, length=4)
    seen = []
    found = check_split(data, "train", published=2, on_record=lambda *read: seen.append(read))
    assert seen == [("train", 1, 2), ("train", 2, 2)]
    assert any(words in problem and "in record 1" in problem for problem in found.problems)
    assert any("no record of b" in problem for problem in found.problems)
    tested = check_split(data, "test", published=3)
    assert tested.problems[0] == "2 records instead of the published 3"
    assert not any("no record of b" in problem for problem in tested.problems)


def test_tokens_beyond_the_vocabulary_are_a_problem():
    source = Two(x=np.array([0, 3, 1, 1], np.int32))
    source.records[0]["x"] = np.array([0, 2, 1, 1], np.int32)
    data = Data(
        sources={"test": source},
        classes=("a",),
        input_size=3,
        length=4,
        vocabulary=("<pad>", "x", "y"),
    )
    found = check_split(data, "test")
    assert found.problems == ("tokens beyond the vocabulary of 3, first in record 1",)
    assert found.lengths == (3, 3, 3)


@pytest.fixture
def own(tmp_path):
    """An `.npz` file of 20 valid records in two classes."""
    labels = np.arange(20) % 2
    x = np.random.default_rng(0).normal(size=(20, 5, 2))
    np.savez(tmp_path / "own.npz", x_train=x, y_train=labels, x_test=x[:4], y_test=labels[:4])
    return tmp_path / "own.npz"


def test_valid_data_have_no_problems(own):
    report = check_data("arrays", data=own)
    assert report.problems == ()
    assert report.first_damage is None
    assert report.damaged == 0
    assert {name: split.records for name, split in report.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 4,
    }
    assert report.splits["test"].shares == {"0": 0.5, "1": 0.5}
    assert report.splits["test"].lengths == (5, 5, 5)


def test_published_numbers_of_records_are_compared(own):
    report = check_data("arrays", data=own, published={"test": 5})
    assert report.problems == ("test: 4 records instead of the published 5",)


def test_damage_is_counted_and_the_first_is_described(own):
    with np.load(own) as arrays:
        arrays = dict(arrays)
    arrays["x_test"][1] = np.nan
    arrays["y_test"][3] = 7
    np.savez(own, **arrays)
    report = check_data("arrays", data=own)
    assert report.damaged == 2
    assert "y_test[3] is 7" in report.first_damage
    assert report.problems == (f"2 damaged items, the first: {report.first_damage}",)
    assert report.splits["test"].records == 2
    assert check_data("arrays", data=own, skip_bad=True).problems == ()


def test_an_error_gives_the_reason_if_no_record_is_good(own):
    with np.load(own) as arrays:
        arrays = dict(arrays)
    arrays["x_test"][:] = np.nan
    np.savez(own, **arrays)
    with pytest.raises(DataError) as caught:
        check_data("arrays", data=own)
    assert "x_test[0] has values that are not finite" in str(caught.value)
    assert "without bad items: " in str(caught.value)
    assert "has no good record for test" in str(caught.value)
    with pytest.raises(DataError, match=r"^[^;]* has no good record for test"):
        check_data("arrays", data=own, skip_bad=True)


def test_missing_data_raise(tmp_path):
    with pytest.raises(DataError, match="file not found"):
        check_data("arrays", data=tmp_path / "gone.npz")
