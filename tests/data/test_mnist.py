"""`smnist` and `psmnist`: on small files as published, on damaged ones."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lastax.data import DataError
from lastax.data._skipping import HINT
from lastax.data._splits import torch_permutation
from lastax.data.mnist import PSMNIST, SMNIST, bit_reversal, parse_idx

from . import image_fixtures as fixtures

SPLITS = {"train": 18, "validation": 2, "test": 4}
FILES = tuple(
    f"{part}-{name}-ubyte.gz"
    for part in ("train", "t10k")
    for name in ("images-idx3", "labels-idx1")
)
REAL = Path(os.environ.get("LASTAX_DATA", "/nowhere"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """A copy of the fixtures, to be damaged."""
    shutil.copytree(fixtures.FIXTURES / "mnist", tmp_path / "root" / "mnist")
    return tmp_path / "root"


def numbers(split):
    training = torch_permutation(20).tolist()
    test = list(fixtures.digit_numbers("t10k"))
    return {"train": training[:18], "validation": training[18:], "test": test}[split]


def failure(root, **options):
    with pytest.raises(DataError) as caught:
        SMNIST.open(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change(path, change_content):
    """Replace what a packed file holds."""
    path.write_bytes(gzip.compress(change_content(gzip.decompress(path.read_bytes()))))


def test_fixtures_match_their_script(tmp_path):
    fixtures.write_mnist(tmp_path)
    for name in FILES:
        made, kept = (
            gzip.decompress((f / "mnist" / name).read_bytes())
            for f in (tmp_path, fixtures.FIXTURES)
        )
        assert made == kept


@pytest.mark.parametrize("split", SPLITS)
def test_digits_are_their_pixels_row_after_row(split):
    data = SMNIST.open(fixtures.FIXTURES)
    assert SMNIST.present(fixtures.FIXTURES)
    assert (data.length, data.input_size, data.classes) == (784, 1, tuple("0123456789"))
    source = data.sources[split]
    assert len(source) == SPLITS[split]
    for record, number in zip(source, numbers(split), strict=True):
        expected = fixtures.pixels(number, 28, 28).reshape(784, 1) / 255
        assert record["x"].dtype == np.float32
        np.testing.assert_allclose(record["x"], expected, rtol=1e-6)
        assert record["label"] == fixtures.label(number)


def test_psmnist_is_smnist_permuted():
    plain, permuted = SMNIST.open(fixtures.FIXTURES), PSMNIST.open(fixtures.FIXTURES)
    order = [0, 512, 256, 768, 128, 640, 384, 64, 576, 320]
    for split in SPLITS:
        for one, other in zip(plain.sources[split], permuted.sources[split], strict=True):
            np.testing.assert_array_equal(other["x"][:10], one["x"][order])
            np.testing.assert_array_equal(np.sort(other["x"], axis=0), np.sort(one["x"], axis=0))


def test_both_share_their_files(cache):
    SMNIST.open(fixtures.FIXTURES)
    PSMNIST.open(fixtures.FIXTURES)
    assert len(list(cache.rglob("x.npy"))) == 1


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000))
def test_bit_reversal_sorts_by_bits_read_backwards(n):
    width = len(f"{n - 1:b}")
    expected = sorted(range(2**width), key=lambda k: int(f"{k:0{width}b}"[::-1], 2))
    # k with bits reversed is where k stands; dropping numbers keeps the order of the others.
    assert bit_reversal(n).tolist() == [k for k in expected if k < n]


def test_files_may_be_unpacked_and_where_torchvision_puts_them(tmp_path):
    for name in FILES:
        packed = (fixtures.FIXTURES / "mnist" / name).read_bytes()
        fixtures.write(tmp_path / "MNIST/raw" / name.removesuffix(".gz"), gzip.decompress(packed))
    assert SMNIST.present(tmp_path)
    found, expected = SMNIST.open(tmp_path), SMNIST.open(fixtures.FIXTURES)
    for split in SPLITS:
        for one, other in zip(found.sources[split], expected.sources[split], strict=True):
            np.testing.assert_array_equal(one["x"], other["x"])


# Damage


@pytest.mark.parametrize("end", [".gz", ""])
def test_names_may_have_a_dot(root, end):
    """As in copies that are common on the web, which also have folders of the published names."""
    before = [record["x"] for record in SMNIST.open(root).sources["test"]]
    for path in list((root / "mnist").iterdir()):
        named = path.name.removesuffix(".gz")
        content = path.read_bytes() if end else gzip.decompress(path.read_bytes())
        path.with_name(named.replace("-idx", ".idx") + end).write_bytes(content)
        path.unlink()
        (path.parent / named).mkdir()
    assert SMNIST.present(root)
    np.testing.assert_array_equal(
        [record["x"] for record in SMNIST.open(root).sources["test"]], before
    )


def test_errors_about_missing_files_say_what_to_do(tmp_path):
    assert not SMNIST.present(tmp_path)
    assert "lastax data fetch smnist" in failure(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_missing_file_is_named(root, name, skip_bad):
    (root / "mnist" / name).unlink()
    assert name in failure(root, skip_bad=skip_bad)


DAMAGE = {
    "empty": (lambda packed: b"", "is empty"),
    "no gzip": (lambda packed: b"<html>403</html>", "is damaged or not a gzip file"),
    "flipped": (lambda packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:], "is damaged"),
    "magic": (
        lambda packed: gzip.compress(b"\0\0\x0d" + gzip.decompress(packed)[3:]),
        "begins with",
    ),
    "header": (lambda packed: gzip.compress(gzip.decompress(packed)[:6]), "ends inside its header"),
    "longer": (lambda packed: gzip.compress(gzip.decompress(packed) + b"\0"), "declares"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named(root, name, damage):
    make, message = damage
    path = root / "mnist" / name
    path.write_bytes(make(path.read_bytes()))
    for skip_bad in (False, True):
        found = failure(root, skip_bad=skip_bad)
        assert found.startswith(f"{path} {message}")
        assert "lastax data fetch smnist" in found


@pytest.mark.parametrize(("name", "size"), [(FILES[0], 784), (FILES[1], 1)])
def test_a_cut_file_is_named_and_its_whole_rows_are_good(root, name, size):
    path = root / "mnist" / name
    header = 16 if size > 1 else 8
    change(path, lambda content: content[: header + 15 * size + size // 2])
    assert failure(root).startswith(f"{path} ends inside row 16 of 20; ")
    data = SMNIST.open(root, skip_bad=True)
    assert data.skipped == 5
    left = [number for number in numbers("train") if number < 15]
    for record, number in zip(data.sources["train"], left, strict=True):
        assert record["label"] == fixtures.label(number)
        np.testing.assert_allclose(record["x"][:, 0] * 255, fixtures.pixels(number, 784), atol=1e-3)


def test_a_cut_gzip_file_is_named(root):
    path = root / "mnist" / FILES[0]
    path.write_bytes(path.read_bytes()[:-2000])
    assert failure(root).startswith(f"{path} ends inside row ")


def test_a_label_out_of_range_is_named(root):
    path = root / "mnist" / FILES[3]
    change(path, lambda content: content[:-1] + b"\x0b")
    assert failure(root) == f"{path}, row 4: label 11 is not in 0..9; {HINT}"
    data = SMNIST.open(root, skip_bad=True)
    assert (data.skipped, len(data.sources["test"])) == (1, 3)


def test_files_of_two_sets_are_named(root):
    shutil.copy(root / "mnist" / FILES[3], root / "mnist" / FILES[1])
    message = failure(root, skip_bad=True)
    assert f"{root / 'mnist' / FILES[1]} has 4 labels for the 20 images" in message


def test_pictures_of_another_size_are_named(root):
    path = root / "mnist" / FILES[0]
    path.write_bytes(gzip.compress(fixtures.idx(np.zeros((20, 14, 56), np.uint8))))
    assert "has images of 14 x 56 instead of 28 x 28" in failure(root, skip_bad=True)


def test_a_file_that_unpacks_to_too_much_is_named(root, monkeypatch):
    monkeypatch.setattr("lastax.data.mnist.MOST", 1000)
    assert "unpacks to more than 1,000 bytes" in failure(root)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=40), dimensions=st.sampled_from([1, 3]))
@example(content=b"\xff" * 40, dimensions=3)
def test_any_bytes_are_an_array_or_an_error(content, dimensions):
    for packed in (content, bytes((0, 0, 8, dimensions)) + content):
        try:
            count, rows = parse_idx(packed, dimensions)
        except DataError:
            continue
        assert len(rows) <= count
        assert rows.ndim == dimensions


@pytest.mark.slow
@pytest.mark.skipif(not SMNIST.present(REAL), reason="no MNIST below LASTAX_DATA")
def test_the_real_files():
    data = SMNIST.open(REAL)
    counts = {split: len(source) for split, source in data.sources.items()}
    assert counts == dict(SMNIST.expected)
    test = data.sources["test"]
    assert [int(test[index]["label"]) for index in range(5)] == [7, 2, 1, 0, 4]
