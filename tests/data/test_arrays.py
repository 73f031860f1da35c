"""`arrays`: anyone's `.npz` file, whole and damaged."""

import io
import pickle
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data import DataError, Source, check_data
from lastax.data import arrays as module
from lastax.data._npz import Npz
from lastax.data._splits import torch_permutation
from lastax.data.arrays import DATA_SET

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own.npz"


def arrays(rows=20, shape=(5, 2), classes=2, **others):
    """Rows 0, 1, ... with values that say which row they are of; labels in turn."""
    x = np.arange(rows * np.prod(shape), dtype=np.float32).reshape(rows, *shape)
    return {"x_train": x, "y_train": np.arange(rows) % classes, **others}


def three(**others):
    """Arrays of all splits, other rows in each."""
    found = {}
    for number, split in enumerate(SPLITS):
        part = arrays(12 - 4 * number)
        found[f"x_{split}"] = part["x_train"] + 1000 * number
        found[f"y_{split}"] = part["y_train"]
    return {**found, **others}


def open_file(path, **options):
    return DATA_SET.open(Path("/nowhere"), data=path, **options)


def failure(path, **options):
    with pytest.raises(DataError) as caught:
        open_file(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path)) or re.match("file not found|cannot read", message)
    return message.removeprefix(f"{path}: ")


def contents(source):
    return np.stack([record["x"] for record in source]), [int(r["label"]) for r in source]


# Records


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_records_are_the_rows(path, save):
    given = three()
    save(path, **given)
    data = open_file(path)
    assert (data.length, data.input_size, data.classes) == (5, 2, ("0", "1"))
    assert (data.skipped, data.augment, data.vocabulary) == (0, None, ())
    for split in SPLITS:
        source = data.sources[split]
        assert isinstance(source, Source)
        x, labels = contents(source)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, given[f"x_{split}"])
        assert labels == given[f"y_{split}"].tolist()
        assert set(source[0]) == {"x", "label"}


def test_rows_of_numbers_are_steps_of_one_value(path):
    np.savez(path, **arrays(shape=(7,)))
    data = open_file(path)
    assert (data.length, data.input_size) == (7, 1)
    assert data.sources["train"][0]["x"].shape == (7, 1)


def tokens(dtype=np.int64, **others):
    """Tokens 0..8 in all splits; labels in turn."""
    found = {}
    for number, split in enumerate(SPLITS):
        rows = 12 - 4 * number
        found[f"x_{split}"] = (np.arange(rows * 5).reshape(rows, 5) % 9).astype(dtype)
        found[f"y_{split}"] = np.arange(rows) % 2
    return {**found, **others}


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.uint16, np.int8, ">i4"])
def test_integers_of_two_axes_are_tokens(path, dtype):
    given = tokens(dtype, lengths_train=np.arange(12) % 5 + 1)
    given["x_train"][given["lengths_train"] < 5, -1] = 99  # padding may be anything
    np.savez(path, **given)
    data = open_file(path)
    assert (data.length, data.input_size) == (5, 9)
    assert data.vocabulary == tuple("012345678")
    (note,) = data.notes
    assert note.startswith("x_train holds integers of shape (n, L): steps are tokens 0..8; ")
    for split in SPLITS:
        for number, record in enumerate(data.sources[split]):
            length = given.get(f"lengths_{split}", np.full(12, 5))[number]
            assert record["x"].dtype == np.int32
            np.testing.assert_array_equal(
                record["x"], np.where(np.arange(5) < length, given[f"x_{split}"][number], 0)
            )
            assert (record["length"], record["label"]) == (length, number % 2)
    assert check_data("arrays", data=path).problems == ()


def test_integers_of_three_axes_are_numbers(path):
    given = tokens()
    np.savez(path, **{name: x[:, :, None] if x.ndim == 2 else x for name, x in given.items()})
    data = open_file(path)
    assert (data.input_size, data.vocabulary, data.notes) == (1, (), ())
    assert data.sources["train"][0]["x"].dtype == np.float32
    np.testing.assert_array_equal(contents(data.sources["test"])[0][:, :, 0], given["x_test"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": np.full((4, 5), -3)}, "x_test has token -3, not in 0..1048575; if they are"),
        ({"x_train": np.full((12, 5), 2**40)}, "x_train has token 1099511627776, not in 0.."),
        ({"x_test": np.zeros((4, 5))}, "x_test has dtype float64, but x_train has int64; integers"),
        (
            {"x_train": np.zeros((12, 5), bool)},
            "x_validation has dtype int64, but x_train has bool",
        ),
    ],
    ids=["negative", "huge", "one split", "other splits"],
)
def test_arrays_that_are_hardly_tokens_are_named(path, changes, message):
    np.savez(path, **tokens(**changes))
    found = failure(path, skip_bad=True)
    assert found.startswith(message)
    assert "with shape (n, L, 1)" in found


def test_members_that_macos_adds_are_ignored(path):
    np.savez(path, **three())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._x_train.npy", b"\0\x05\x16\x07")
    assert open_file(path).length == 5


def test_values_after_the_length_are_ignored(path):
    given = three(lengths_train=np.arange(12) % 5 + 1, lengths_test=np.full(4, 3))
    given["x_train"][0, 1:] = np.nan  # padding may be anything
    np.savez(path, **given)
    data = open_file(path)
    for split in SPLITS:
        lengths = given.get(f"lengths_{split}", np.full(8, 5))
        for record, x, length in zip(
            data.sources[split], given[f"x_{split}"], lengths, strict=True
        ):
            assert record["length"] == length
            assert record["length"].dtype == np.int32
            np.testing.assert_array_equal(record["x"][:length], x[:length])
            assert not record["x"][length:].any()


def test_classes_may_have_names(path):
    np.savez(path, **arrays(), classes=np.array(["cat", "dog"]))
    assert open_file(path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float16, np.int64, np.int32, np.uint16, bool, ">f4", ">i2"]
)
def test_any_numbers_become_float32(path, cache, dtype):
    given = arrays(rows=60)
    given["x_train"] = (given["x_train"] % 2).astype(dtype)
    np.savez(path, **given)
    for record in open_file(path).sources["train"]:
        assert record["x"].dtype == np.float32
        assert set(np.unique(record["x"]).tolist()) <= {0.0, 1.0}
    (kept,) = cache.rglob("values.npy")
    assert kept.stat().st_size == 128 + 4 * given["x_train"].size


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_small_integers_are_kept_small(path, cache, dtype):
    given = arrays(rows=60)
    given["x_train"] = (given["x_train"] % 100).astype(dtype)
    np.savez(path, **given)
    data = open_file(path)
    np.testing.assert_array_equal(
        data.sources["train"][0]["x"], given["x_train"][data.sources["train"].rows[0]]
    )
    (kept,) = cache.rglob("values.npy")
    assert kept.stat().st_size == 128 + given["x_train"].nbytes


def test_labels_may_be_whole_numbers_of_any_type(path):
    for dtype in (np.float32, np.uint8, bool):
        given = arrays()
        np.savez(path, **{**given, "y_train": given["y_train"].astype(dtype)})
        source = open_file(path).sources["train"]
        assert contents(source)[1] == given["y_train"][source.rows[:]].tolist()


def test_arrays_by_columns_are_read(path):
    given = arrays()
    np.savez(path, **{**given, "x_train": np.asfortranarray(given["x_train"])})
    assert Npz(path).headers["x_train"].by_columns
    source = open_file(path).sources["train"]
    np.testing.assert_array_equal(contents(source)[0], given["x_train"][source.rows[:]])


def test_large_arrays_are_read_in_pieces(path, monkeypatch):
    given = arrays(rows=5000, shape=(100, 4))
    np.savez(path, **given)
    monkeypatch.setattr("lastax.data._npz._AT_ONCE", 2**16)
    module.DATA_SET.open(Path(), data=path)  # what is imported on the way does not count
    np.savez(path, **{**given, "x_train": given["x_train"] + 1})
    tracemalloc.start()
    try:
        data = open_file(path)
        assert tracemalloc.get_traced_memory()[1] < given["x_train"].nbytes / 4
    finally:
        tracemalloc.stop()
    x, _ = contents(data.sources["test"])
    np.testing.assert_array_equal(x, given["x_train"][data.sources["test"].rows[:]] + 1)


# Splits


@pytest.mark.parametrize(
    ("given", "lengths"),
    [((), (16, 2, 2)), (("test",), (18, 2, 6)), (("validation",), (18, 6, 2))],
)
def test_missing_splits_are_held_out_of_train(path, given, lengths):
    others = {}
    for split in given:
        others |= {f"x_{split}": np.full((6, 5, 2), -1.0), f"y_{split}": np.zeros(6, int)}
    whole = arrays(**others)
    np.savez(path, **whole)
    data = open_file(path)
    assert tuple(len(data.sources[split]) for split in SPLITS) == lengths
    dealt = [split for split in SPLITS if split not in given]
    x = np.concatenate([contents(data.sources[split])[0] for split in dealt])
    np.testing.assert_array_equal(x, whole["x_train"][torch_permutation(20)])


def test_too_few_rows_to_hold_out_are_named(path):
    np.savez(path, **arrays(rows=9))
    assert failure(path) == "x_train has too few rows to hold out a tenth; add x_validation"


# What is refused

OBJECTS = np.array([np.zeros(3), np.zeros(4)], object)
BAD = {
    "no train": ({"x_train": None}, "x_train is missing"),
    "no labels": ({"y_train": None}, "y_train is missing"),
    "no labels of test": ({"y_test": None}, "y_test is missing"),
    "only labels of test": ({"x_test": None}, "x_test is missing"),
    "a name that is none": ({"x_val": np.zeros(3)}, "x_val is not a known name"),
    "objects": ({"x_train": OBJECTS}, "x_train has Python objects"),
    "labels are objects": ({"y_train": np.zeros(12, object)}, "y_train has Python objects"),
    "texts": ({"y_train": np.full(12, "cat")}, "y_train has dtype <U3, expected labels"),
    "complex": ({"x_train": np.zeros((12, 5, 2), complex)}, "x_train has dtype complex128"),
    "records": ({"x_train": np.zeros((12, 5), "i4,f4")}, "x_train has dtype"),
    "no steps": ({"x_train": np.zeros((12, 0, 2))}, "x_train has shape (12, 0, 2), expected"),
    "one axis": ({"x_train": np.zeros(12)}, "x_train has shape (12,), expected (n, L)"),
    "a number": ({"x_train": np.zeros(())}, "x_train has shape (), expected (n, L)"),
    "four axes": ({"x_train": np.zeros((12, 5, 2, 1))}, "x_train has shape (12, 5, 2, 1)"),
    "other steps": (
        {"x_test": np.zeros((4, 6, 2))},
        "x_test has rows of shape (6, 2), but those of x_train",
    ),
    "other rows": ({"y_test": np.zeros(5, int)}, "y_test has shape (5,), expected (4,)"),
    "columns": ({"y_test": np.zeros((4, 1), int)}, "y_test has shape (4, 1), expected (4,)"),
    "lengths": ({"lengths_train": np.ones(11, int)}, "lengths_train has shape (11,), expected"),
    "fractions": ({"y_train": np.full(12, 0.5)}, "y_train has fractions, expected labels"),
    "from 1": ({"y_train": np.arange(12) % 2 + 1}, "y_train has no label 0; each of the labels"),
    "one class beside labels that are none": (
        {"y_train": np.where(np.arange(12) % 3 == 1, np.nan, 0)},
        "y_train must have at least two classes; y_train[1] is nan",
    ),
    "one class": ({"y_train": np.zeros(12, int)}, "y_train must have at least two classes"),
    "names": ({"classes": np.array(["a", "b", "c"])}, "y_train has no label 2"),
    "names are numbers": ({"classes": np.arange(2)}, "classes has dtype int64, expected strings"),
    "equal names": ({"classes": np.array(["a", "a"])}, "classes has 'a' more than once"),
    "names in a square": ({"classes": np.array([["a", "b"]])}, "classes must have one axis"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_arrays_that_do_not_fit_are_named(path, cache, case, skip_bad):
    changes, message = case
    given = {name: value for name, value in three(**changes).items() if value is not None}
    np.savez(path, **given)
    assert failure(path, skip_bad=skip_bad).startswith(message)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_pickled_objects_are_not_loaded(path, tmp_path):
    """Not even looked at: the mark that loading would leave is not there."""

    class Mark:
        def __reduce__(self):
            return Path.touch, (tmp_path / "mark",)

    np.savez(path, **arrays(x_test=np.array([Mark()], object), y_test=np.ones(1)))
    assert failure(path).startswith("x_test has Python objects")
    assert not (tmp_path / "mark").exists()
    pickle.loads(pickle.dumps(Mark()))
    assert (tmp_path / "mark").exists()


ROWS = {
    "label": ({"y_test": [0, 1, 0, 7]}, "y_test[3] is 7, not in 0..1", "test"),
    "negative": ({"y_train": [0, 1] * 5 + [-3, 1]}, "y_train[10] is -3, not in 0..1", "train"),
    "huge": ({"y_test": np.array([0, 1, 0, 1e300])}, "y_test[3] is 1e+300, not in 0..1", "test"),
    "NaN": ({"y_test": np.array([0, 1, 0, np.nan])}, "y_test[3] is nan, not in 0..1", "test"),
    "NaN length": ({"lengths_test": [5, np.nan, 1, 1]}, "lengths_test[1] is nan, not in", "test"),
    "length": ({"lengths_test": [5, 6, 1, 1]}, "lengths_test[1] is 6, not in 1..5", "test"),
    "no length": ({"lengths_test": [5, 5, 0, 1]}, "lengths_test[2] is 0, not in 1..5", "test"),
}


@pytest.mark.parametrize("case", ROWS.values(), ids=ROWS)
def test_bad_rows_are_named(path, case):
    changes, message, split = case
    given = three(**changes)
    np.savez(path, **given)
    assert failure(path).startswith(message)
    data = open_file(path, skip_bad=True)
    assert data.skipped == 1
    assert len(data.sources[split]) == len(given[f"y_{split}"]) - 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_errors_name_values_that_are_not_numbers(path, value):
    given = three()
    given["x_train"] = given["x_train"].astype(np.float64)
    given["x_train"][7, 4, 1] = value
    np.savez(path, **given)
    assert failure(path).startswith("x_train[7] has values that are not finite in float32")
    data = open_file(path, skip_bad=True)
    assert data.skipped == 1
    x, _ = contents(data.sources["train"])
    np.testing.assert_array_equal(x, np.delete(given["x_train"], 7, axis=0))


def test_a_split_without_good_rows_is_named(path):
    np.savez(path, **three(x_test=np.full((4, 5, 2), np.nan)))
    assert "has no good record for test" in failure(path, skip_bad=True)


# Damage


def test_a_file_that_is_none_is_named(tmp_path, path):
    assert failure(path) == f"file not found: {path}; pass another --data"
    assert "Is a directory" in failure(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x_train,y_train\n1,2\n", b"PK\x03\x04"])
def test_other_files_are_named(path, content):
    path.write_bytes(content)
    assert "is damaged or not an .npz file" in failure(path)


def test_no_permission_is_named(unprivileged):
    path = unprivileged / "own.npz"
    np.savez(path, **three())
    path.chmod(0)
    assert failure(path).startswith(f"cannot read {path} (Permission denied)")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_named(path, save, share):
    save(path, **three())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "is damaged or not an .npz file" in failure(path)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), packed=st.booleans())
def test_a_flipped_bit_is_detected_or_harmless(tmp_path_factory, seed, packed):
    path = tmp_path_factory.mktemp("flipped") / "own.npz"
    given = three()
    (np.savez_compressed if packed else np.savez)(path, **given)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    try:
        file = Npz(path)
        read = {name: file.read(name) for name in file.headers}
    except DataError:
        return
    for name in set(read) & set(given):
        np.testing.assert_array_equal(read[name], given[name])


def member(header, content):
    """An array in a file of its own kind: what the head says need not be so."""
    packed = io.BytesIO()
    np.lib.format.write_array_header_1_0(packed, header)
    return packed.getvalue() + content


def test_an_array_that_promises_more_than_it_holds_takes_no_room(path):
    head = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 5, 2)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", member(head, bytes(400)))
        archive.writestr("y_train.npy", member({**head, "shape": (10,)}, bytes(40)))
    assert failure(path).startswith("x_train is damaged (its size does not match its shape)")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00", b"no array"])
def test_errors_name_a_member_that_is_not_an_array(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", content)
    assert failure(path).startswith("x_train is damaged (")
