"""`pathfinder` and `pathx`: on small folders as published, on damaged ones."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lastax.data import DataError
from lastax.data._pictures import decode_png
from lastax.data._splits import torch_permutation
from lastax.data.pathfinder import PATHFINDER, PATHX

from . import image_fixtures as fixtures

SPLITS = ("train", "validation", "test")
HARD = "pathfinder32/curv_contour_length_14"
# Rows of the hard level in their published order: table 2 before table 10.
NUMBERS = [*(200 + k for k in range(12)), *(1000 + k for k in range(9))]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """A copy of the fixtures, to be damaged."""
    shutil.copytree(fixtures.FIXTURES / "pathfinder32", tmp_path / "root" / "pathfinder32")
    return tmp_path / "root"


def failure(root, **options):
    with pytest.raises(DataError) as caught:
        PATHFINDER.open(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def split_numbers(numbers):
    """`numbers` of all rows dealt out as published: tenths are rounded down, train comes first."""
    dealt = [numbers[place] for place in torch_permutation(len(numbers))]
    tenth = len(numbers) // 10
    train = len(numbers) - 2 * tenth
    return dict(zip(SPLITS, (dealt[:train], dealt[train:-tenth], dealt[-tenth:]), strict=True))


def check_records(data, expected, side):
    for split, numbers in expected.items():
        assert len(data.sources[split]) == len(numbers)
        for record, number in zip(data.sources[split], numbers, strict=True):
            pixels = fixtures.picture(number, side).reshape(-1, 1) / 255
            assert record["x"].dtype == np.float32
            np.testing.assert_allclose(record["x"], (pixels - 0.5) / 0.5, rtol=1e-6, atol=1e-7)
            assert record["label"] == fixtures.label(number, 2)


def test_fixtures_match_their_script(tmp_path):
    fixtures.write_pathfinder(tmp_path)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 21 + 10 + 11 + 4
    for path in made:
        kept = fixtures.FIXTURES / path.relative_to(tmp_path)
        if path.suffix == ".png" and path.stat().st_size:  # zlib may pack otherwise elsewhere
            np.testing.assert_array_equal(Image.open(kept), Image.open(path))
        else:
            assert kept.read_bytes() == path.read_bytes(), kept


def test_pathfinder_is_pixels_row_after_row():
    data = PATHFINDER.open(fixtures.FIXTURES)
    assert PATHFINDER.present(fixtures.FIXTURES)
    assert (data.length, data.input_size, len(data.classes), data.skipped) == (1024, 1, 2, 0)
    check_records(data, split_numbers(NUMBERS), 32)
    assert [len(data.sources[split]) for split in SPLITS] == [17, 2, 2]


def test_pathx_is_the_same_of_128_pixels():
    data = PATHX.open(fixtures.FIXTURES, level="hard")
    assert (data.length, data.input_size) == (16384, 1)
    check_records(data, split_numbers(list(range(10))), 128)


def test_pathx_is_kept_as_bytes(cache):
    PATHX.open(fixtures.FIXTURES)
    (largest,) = cache.rglob("x.npy")
    assert largest.stat().st_size < 10 * 16384 + 200


def test_the_picture_that_was_published_empty_is_not_counted():
    data = PATHFINDER.open(fixtures.FIXTURES, level="easy")
    assert data.skipped == 0
    check_records(data, split_numbers([k for k in range(165, 176) if k != 172]), 32)


def test_a_generated_picture_of_that_name_counts(root):
    path = root / "pathfinder32/curv_baseline/imgs/0/sample_172.png"
    path.write_bytes(fixtures.png(fixtures.picture(172, 32)))
    check_records(PATHFINDER.open(root, level="easy"), split_numbers(list(range(165, 176))), 32)


def test_the_release_may_be_nested(tmp_path):
    nested = tmp_path / "lra_release" / "lra_release" / "pathfinder32"
    shutil.copytree(fixtures.FIXTURES / "pathfinder32", nested)
    assert PATHFINDER.present(tmp_path)
    assert len(PATHFINDER.open(tmp_path).sources["train"]) == 17


def test_an_unknown_level_is_named():
    with pytest.raises(ValueError, match=r"level must be one of .*; got 'medium'"):
        PATHFINDER.open(fixtures.FIXTURES, level="medium")


@pytest.mark.parametrize(("data_set", "length"), [(PATHFINDER, 32**2), (PATHX, 128**2)])
def test_generated_files_can_be_read(tmp_path, data_set, length):
    seen = []
    data_set.generate(
        tmp_path, level="easy", count=20, seed=3, on_progress=lambda *at: seen.append(at)
    )
    assert seen[-1] == (20, 20)
    data = data_set.open(tmp_path, level="easy")
    assert [len(data.sources[split]) for split in SPLITS] == [16, 2, 2]
    (table,) = tmp_path.glob("*/curv_baseline/metadata/*.npy")
    rows = [line.split() for line in table.read_text().splitlines()]
    order = torch_permutation(20)
    for split, places in zip(SPLITS, np.split(order, [16, 18]), strict=True):
        for record, place in zip(data.sources[split], places, strict=True):
            folder, name, _, label = rows[place][:4]
            picture = Image.open(table.parents[1] / folder / name)
            assert record["x"].shape == (length, 1)
            assert record["label"] == int(label)
            np.testing.assert_array_equal(
                np.rint((record["x"][:, 0] + 1) * 127.5), np.asarray(picture).reshape(-1)
            )


# Damage


def test_the_error_about_a_missing_level_says_what_to_do(root):
    message = failure(root, level="intermediate")
    assert str(root / "pathfinder32/curv_contour_length_9") in message
    assert "lastax data make pathfinder" in message
    with pytest.raises(DataError, match="lastax data make pathx"):
        PATHX.open(root)
    assert not PATHX.present(root)


GOOD = fixtures.png(fixtures.picture(205, 32))
PICTURES = {
    "empty": (b"", "is empty"),
    "no picture": (b"GIF89a, or so it says", "is not a PNG image"),
    "cut": (GOOD[:60], "ends early"),
    "cut at a part": (GOOD[:-12], "ends early"),
    "flipped": (GOOD[:60] + bytes([GOOD[60] ^ 4]) + GOOD[61:], "has a wrong checksum"),
    "small": (fixtures.png(fixtures.picture(205, 16)), "has 16 x 16 pixels instead of 32 x 32"),
}


@pytest.mark.parametrize("damage", PICTURES.values(), ids=PICTURES)
def test_a_damaged_picture_is_named(root, cache, damage):
    content, message = damage
    path = root / HARD / "imgs/2/sample_5.png"
    path.write_bytes(content)
    found = failure(root)
    assert found.startswith(f"{path} {message} ({root / HARD / 'metadata/2.npy'}, row 6)")
    assert "--skip-bad" in found
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    data = PATHFINDER.open(root, skip_bad=True)
    assert data.skipped == 1
    left = {
        split: [number for number in numbers if number != 205]
        for split, numbers in split_numbers(NUMBERS).items()
    }
    check_records(data, left, 32)  # the others stay in their splits


def test_a_missing_picture_is_named(root):
    path = root / HARD / "imgs/10/sample_3.png"
    path.unlink()
    assert f"cannot read {path} (No such file or directory)" in failure(root)
    assert PATHFINDER.open(root, skip_bad=True).skipped == 1


ROWS = {
    "label": ("imgs/2 sample_5.png 5 2 1.8", "row 6: label '2' is not in 0..1"),
    "columns": ("imgs/2 sample_5.png 5", "row 6: 3 columns instead of 4 or more"),
    "outside": ("../imgs sample_5.png 5 1", "row 6: '../imgs/sample_5.png' leads out of"),
    "absolute": ("/etc passwd 5 1", "row 6: '/etc/passwd' leads out of"),
    "name": ("imgs/2 ../../../x.png 5 1", "row 6: 'imgs/2/../../../x.png' leads out of"),
}


@pytest.mark.parametrize("damage", ROWS.values(), ids=ROWS)
def test_a_bad_row_is_named(root, damage):
    line, message = damage
    table = root / HARD / "metadata/2.npy"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:5], line, *lines[6:]]) + "\n")
    assert failure(root).startswith(f"{table}, {message}")
    data = PATHFINDER.open(root, skip_bad=True)
    assert data.skipped == 1
    assert sum(map(len, data.sources.values())) == 20


def objects():
    packed = io.BytesIO()
    np.save(packed, np.array([["imgs/0", 1]], object), allow_pickle=True)
    return packed.getvalue()


def numpy_bytes(array):
    packed = io.BytesIO()
    np.save(packed, array)
    return packed.getvalue()


TABLES = {
    "bytes": b"\xff\xfe\x00binary",
    "cut": numpy_bytes(np.array([fixtures.row(10, k) for k in range(9)], "<U32"))[:-7],
    "objects": objects(),
    "numbers": numpy_bytes(np.zeros((3, 11))),
    "one axis": numpy_bytes(np.array(["imgs/0", "sample_0.png"])),
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_damaged_table_is_named(root, content, skip_bad):
    table = root / HARD / "metadata/10.npy"
    table.write_bytes(content)
    assert failure(root, skip_bad=skip_bad).startswith(f"{table} is not a table of text")


def test_errors_name_missing_and_non_numeric_tables(root):
    table = root / HARD / "metadata/old.npy"
    table.write_bytes(b"")
    assert failure(root).startswith(f"{table}: its name is not a number")
    shutil.rmtree(table.parent)
    table.parent.mkdir()
    assert failure(root) == f"{table.parent} has no .npy file; restore it"


def test_a_full_disk_is_named_and_nothing_is_left(cache, full_disk):
    limit, reason = full_disk
    with limit(cache, 2**16):
        with pytest.raises(DataError, match=r"^cannot prepare pathx-hard in ") as caught:
            PATHX.open(fixtures.FIXTURES)
        assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert reason in str(caught.value)


def test_a_split_without_good_records_is_named(root):
    for sample in range(12):
        (root / HARD / f"imgs/2/sample_{sample}.png").write_bytes(b"")
    for sample in range(9):
        (root / HARD / f"imgs/10/sample_{sample}.png").write_bytes(b"")
    assert failure(root, skip_bad=True) == f"{root / HARD} has no good record for train; restore it"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), color=st.booleans())
def test_png_files_of_pillow_are_read(seed, color):
    shape = (32, 32, 3) if color else (32, 32)
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    np.testing.assert_array_equal(decode_png(packed.getvalue(), size=32), picture.convert("L"))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_passes(place, bit):
    content = bytearray(GOOD)
    content[place] ^= 1 << bit
    with pytest.raises(DataError):
        decode_png(bytes(content), size=32)


@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, len(GOOD) - 1))
def test_no_cut_picture_passes(length):
    with pytest.raises(DataError):
        decode_png(GOOD[:length], size=32)


REAL = Path(os.environ.get("LASTAX_DATA", "/nowhere"))


@pytest.mark.slow
@pytest.mark.parametrize(("data_set", "side"), [(PATHFINDER, 32), (PATHX, 128)])
def test_the_real_files(data_set, side):
    level = REAL / f"pathfinder{side}/curv_contour_length_14"
    if not level.exists():
        pytest.skip(f"no pathfinder{side} below LASTAX_DATA")
    data = data_set.open(REAL)
    records = [data.sources[split][0] for split in SPLITS]
    assert {float(record["x"].min()) for record in records} == {-1.0}
    assert all(record["x"].max() > 0.5 for record in records)
    for source in data.sources.values():
        share = np.mean([int(source.labels[row]) for row in source.rows])
        assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(source))
