"""`image` and `scifar`: on small files as published, on real ones, on damaged ones."""

import contextlib
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lastax.data import DataError, Source
from lastax.data._pickles import read_pickle
from lastax.data._pictures import gray
from lastax.data._skipping import HINT
from lastax.data._splits import torch_permutation
from lastax.data.cifar import IMAGE, SCIFAR

from . import image_fixtures as fixtures

KINDS = ("cifar-10-batches-bin", "cifar-10-batches-py")
SPLITS = {"train": 9, "validation": 1, "test": 2}
REAL = Path(os.environ.get("LASTAX_DATA", "/nowhere"))
real_files = pytest.mark.skipif(
    not any((REAL / kind).exists() for kind in KINDS), reason="no CIFAR-10 below LASTAX_DATA"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def root(tmp_path, kind):
    """A copy of one kind of the fixtures, to be damaged."""
    shutil.copytree(fixtures.FIXTURES / kind, tmp_path / "root" / kind)
    return tmp_path / "root"


def batch(root, name="data_batch_3"):
    """The file of a batch, of whatever kind is there."""
    return next(
        path for path in (root / KINDS[0] / f"{name}.bin", root / KINDS[1] / name) if path.exists()
    )


def numbers(split):
    """The numbers of a split's pictures, in order."""
    training = torch_permutation(10).tolist()
    return {"train": training[:9], "validation": training[9:], "test": [10, 11]}[split]


def failure(root, **options):
    with pytest.raises(DataError) as caught:
        IMAGE.open(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_fixtures_match_their_script(tmp_path):
    fixtures.write_cifar(tmp_path)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 12
    for path in made:
        kept = fixtures.FIXTURES / path.relative_to(tmp_path)
        assert kept.read_bytes() == path.read_bytes(), kept


def test_the_pickles_are_those_of_python_2():
    """What the usual unpickler makes of the fixture, which was written operation by operation."""
    content = (fixtures.FIXTURES / KINDS[1] / "data_batch_2").read_bytes()
    read = pickle.loads(content.replace(b"numpy.core", b"numpy._core"), encoding="latin1")
    assert read["labels"] == [fixtures.label(2), fixtures.label(3)]
    np.testing.assert_array_equal(read["data"][1], fixtures.pixels(3, 3072))


# Records


@pytest.mark.parametrize("split", SPLITS)
def test_image_is_luminance_row_after_row(root, split):
    data = IMAGE.open(root)
    assert (data.length, data.input_size, len(data.classes)) == (1024, 1, 10)
    assert (data.skipped, data.augment, data.vocabulary) == (0, None, ())
    source = data.sources[split]
    assert isinstance(source, Source)
    assert len(source) == SPLITS[split]
    for record, number in zip(source, numbers(split), strict=True):
        planes = fixtures.pixels(number, 3, 32, 32)
        picture = Image.fromarray(np.moveaxis(planes, 0, 2)).convert("L")
        expected = (np.asarray(picture, float).reshape(1024, 1) / 255 - 122.6 / 255) / (61 / 255)
        assert record["x"].dtype == np.float32
        np.testing.assert_allclose(record["x"], expected, rtol=1e-5, atol=1e-6)
        assert record["label"] == fixtures.label(number)
        assert record["label"].dtype == np.int32


@pytest.mark.parametrize("split", SPLITS)
def test_scifar_is_red_green_and_blue(root, split):
    data = SCIFAR.open(root)
    assert (data.length, data.input_size) == (1024, 3)
    assert len(data.sources[split]) == SPLITS[split]
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
    for record, number in zip(data.sources[split], numbers(split), strict=True):
        planes = fixtures.pixels(number, 3, 1024).astype(float) / 255
        for channel, plane in enumerate(planes):
            expected = (plane - mean[channel]) / std[channel]
            np.testing.assert_allclose(record["x"][:, channel], expected, rtol=1e-5, atol=1e-6)
        assert record["label"] == fixtures.label(number)


def test_colors_are_scaled_by_the_deviations_of_the_s4_example(root):
    (data, number) = (SCIFAR.open(root, normalization="per-image"), numbers("test")[0])
    plane = fixtures.pixels(number, 3, 1024)[1].astype(float) / 255
    expected = (plane - 0.4822) / 0.1994
    np.testing.assert_allclose(data.sources["test"][0]["x"][:, 1], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="normalization must be one of standard, per-image"):
        SCIFAR.open(root, normalization="published")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_gray_is_that_of_pillow(seed):
    colors = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    np.testing.assert_array_equal(gray(colors), Image.fromarray(colors).convert("L"))


def test_sources_travel_light(root):
    source = IMAGE.open(root).sources["train"]
    packed = pickle.dumps(source)
    assert len(packed) < 2000
    np.testing.assert_array_equal(pickle.loads(packed)[3]["x"], source[3]["x"])


def test_pictures_are_kept_as_bytes(root, cache):
    IMAGE.open(root)
    sizes = sorted(path.stat().st_size for path in cache.rglob("*.npy"))
    assert sizes[-1] < 12 * 1024 + 200


# Damage


def test_errors_about_missing_files_say_what_to_do(tmp_path):
    assert not IMAGE.present(tmp_path)
    message = failure(tmp_path)
    assert "cifar-10-batches-bin" in message
    assert "lastax data fetch image" in message


def test_a_missing_batch_is_named(root):
    path = batch(root)
    path.unlink()
    for skip_bad in (False, True):
        assert str(path) in failure(root, skip_bad=skip_bad)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_no_permission_is_named(tmp_path, unprivileged, monkeypatch, skip_bad):
    monkeypatch.setenv("LASTAX_CACHE", str(unprivileged / "cache"))
    shutil.copytree(fixtures.FIXTURES / KINDS[0], unprivileged / KINDS[0])
    path = batch(unprivileged)
    path.chmod(0)
    assert f"cannot read {path}" in failure(unprivileged, skip_bad=skip_bad)


def test_an_empty_batch_is_named(root):
    path = batch(root)
    path.write_bytes(b"")
    assert failure(root).startswith(str(path))
    data = IMAGE.open(root, skip_bad=True)
    assert data.skipped == 2
    left = [number for number in numbers("train") if number not in (4, 5)]
    labels = [int(record["label"]) for record in data.sources["train"]]
    assert labels == [fixtures.label(number) for number in left]


@pytest.mark.parametrize("bytes_left", [3073 + 3000, 3073])
def test_a_cut_binary_batch_is_named(tmp_path, bytes_left):
    shutil.copytree(fixtures.FIXTURES / KINDS[0], tmp_path / KINDS[0])
    path = batch(tmp_path)
    path.write_bytes(path.read_bytes()[:bytes_left])
    message = failure(tmp_path)
    assert message.startswith(str(path))
    assert ("ends inside image 2" if bytes_left > 3073 else "has 1 images") in message
    data = IMAGE.open(tmp_path, skip_bad=True)
    assert data.skipped == 1
    left = [number for number in numbers("train") if number != 5]  # the others stay in place
    for record, number in zip(data.sources["train"], left, strict=True):
        assert record["label"] == fixtures.label(number)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_pickle_is_named(tmp_path, share):
    shutil.copytree(fixtures.FIXTURES / KINDS[1], tmp_path / KINDS[1])
    path = batch(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert failure(tmp_path).startswith(f"{path} is damaged or not a pickle")
    assert IMAGE.open(tmp_path, skip_bad=True).skipped == 2


def test_a_label_out_of_range_is_named(root):
    path = batch(root)
    content = path.read_bytes()
    if path.suffix:
        content = content[:3073] + b"\x0a" + content[3074:]
    else:
        good = b"K" + bytes([fixtures.label(5)]) + b"e"
        assert content.count(good) == 1
        content = content.replace(good, b"K\x0ae")
    path.write_bytes(content)
    assert failure(root) == f"{path}, row 2: label 10 is not in 0..9; {HINT}"
    data = IMAGE.open(root, skip_bad=True)
    assert data.skipped == 1
    assert sum(map(len, data.sources.values())) == 11


def test_nothing_unfinished_is_left(root, cache):
    batch(root).write_bytes(b"\x80")
    failure(root)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_changed_files_are_read_again(root):
    before = IMAGE.open(root).sources["test"][0]["x"]
    path = batch(root, "test_batch")
    content = bytearray(path.read_bytes())
    place = content.index(fixtures.pixels(10, 3, 1024).tobytes()[:50])
    content[place] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # clocks may be coarse
    after = IMAGE.open(root).sources["test"][0]["x"]
    assert np.count_nonzero(before != after) == 1


# Pickles from a stranger

CALLS = {
    "system": b"cos\nsystem\n(S'touch %s'\ntR.",
    "eval": b'c__builtin__\neval\n(S\'open("%s","w")\'\ntR.',
    "protocol 4": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x00\x85R.",
    "new": b"\x80\x02cnumpy\nmemmap\n)\x81.",
    "other numpy": b"cnumpy.core.multiarray\nscalar\n.",
    "attribute": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "instance": b"(S'touch %s'\nios\nsystem\n.",
    "inside": b"\x80\x02}(U\x04datacos\nsystem\n(S'touch %s'\ntRu.",
}


@pytest.mark.parametrize("program", CALLS.values(), ids=CALLS)
def test_pickles_cannot_run_code(tmp_path, program):
    mark = tmp_path / "mark"
    program = program.replace(b"%s", str(mark).encode())
    with pytest.raises(DataError, match=r"^names [a-z_.]+, which is not allowed in a data file$"):
        read_pickle(program)
    assert not mark.exists()


def test_a_malicious_batch_is_named(tmp_path):
    shutil.copytree(fixtures.FIXTURES / KINDS[1], tmp_path / KINDS[1])
    path = batch(tmp_path)
    path.write_bytes(CALLS["system"].replace(b"%s", str(tmp_path / "mark").encode()))
    message = failure(tmp_path)
    assert message.startswith(f"{path} names os.system, which is not allowed in a data file")
    assert IMAGE.open(tmp_path, skip_bad=True).skipped == 2
    assert not (tmp_path / "mark").exists()


ARRAY = (
    b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
)
TYPE = (
    b"cnumpy\ndtype\nU\x02%sK\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
STATES = {
    "objects": (TYPE % b"O8", 3, b"]", "an array that is not uint8"),
    "floats": (TYPE % b"f8", 3, b"U\x03abc", "an array that is not uint8"),
    "no type": (b"N", 3, b"U\x03abc", "an array that is not uint8"),
    "too few bytes": (TYPE % b"u1", 9, b"U\x03abc", r"3 bytes for an array of shape \(9,\)"),
    "a list": (TYPE % b"u1", 3, b"]", r"0 bytes for an array of shape \(3,\)"),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_only_whole_arrays_of_bytes_are_read(state):
    kind, count, content, message = state
    state = b"(K\x01K" + bytes([count]) + b"\x85" + kind + b"\x89" + content + b"tb"
    with pytest.raises(DataError, match=message):
        read_pickle(ARRAY + state + b"s.")


def test_a_good_array_of_the_same_kind_is_read():
    state = b"(K\x01K\x03\x85" + TYPE % b"u1" + b"\x89U\x03abctb"
    np.testing.assert_array_equal(read_pickle(ARRAY + state + b"s.")["data"], [97, 98, 99])


def test_a_pickle_of_no_dictionary_is_named():
    with pytest.raises(DataError, match=r"^does not hold a dictionary$"):
        read_pickle(pickle.dumps([1]))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"data": 1, "labels": [1]},
        {"data": [1], "labels": [1]},
        {"labels": [0, 1], "data": None},
        {"labels": "texts"},
        [1],
        7,
    ],
)
def test_pickles_of_something_else_are_named(tmp_path, content):
    shutil.copytree(fixtures.FIXTURES / KINDS[1], tmp_path / KINDS[1])
    path = batch(tmp_path)
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert failure(tmp_path).startswith(f"{path} ")


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_flipped_byte_never_escapes(place, byte):
    content = bytearray(fixtures.pickled_batch("data_batch_1", range(2)))
    content[place % 250] = byte  # the operations; behind are mostly pixels
    with contextlib.suppress(DataError):
        assert isinstance(read_pickle(bytes(content)), dict)


def test_a_number_in_a_pickle_takes_no_memory():
    """Place 2^28 - 1 of the memory of a pickle: the reader in C makes room for all before it."""
    tracemalloc.start()
    try:
        assert read_pickle(b"\x80\x02}r\xff\xff\xff\x0f.") == {}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Real files


@real_files
@pytest.mark.slow
def test_the_real_files():
    data = IMAGE.open(REAL)
    counts = {split: len(source) for split, source in data.sources.items()}
    assert counts == dict(IMAGE.expected)
    folder = REAL / KINDS[0]
    if not folder.exists():
        return
    first = (folder / "data_batch_1.bin").read_bytes()[:3073]
    order = torch_permutation(50_000)
    place = int(np.flatnonzero(order == 0)[0])
    split, start = ("train", 0) if place < 45_000 else ("validation", 45_000)
    record = data.sources[split][place - start]
    colors = np.moveaxis(np.frombuffer(first[1:], np.uint8).reshape(3, 32, 32), 0, 2)
    expected = np.asarray(Image.fromarray(colors).convert("L"), np.float32).reshape(1024, 1)
    np.testing.assert_allclose(record["x"], (expected - 122.6) / 61, rtol=1e-4, atol=1e-5)
    assert record["label"] == first[0]
    last = (folder / "test_batch.bin").read_bytes()[-3073:]
    assert data.sources["test"][-1]["label"] == last[0]
    for split, low, high in (("train", 0.09, 0.11), ("validation", 0.08, 0.12), ("test", 0.1, 0.1)):
        source = data.sources[split]
        shares = np.bincount([int(source.labels[row]) for row in source.rows]) / len(source)
        assert low <= shares.min()
        assert shares.max() <= high


@real_files
@pytest.mark.slow
def test_real_colors_are_standard():
    source = SCIFAR.open(REAL).sources["train"]
    x = np.stack([source[index]["x"] for index in range(0, len(source), 9)])
    np.testing.assert_allclose(x.mean(axis=(0, 1)), 0, atol=0.02)
    np.testing.assert_allclose(x.std(axis=(0, 1)), 1, atol=0.03)
