"""`speech35`: on small clips as published, on real ones, on damaged ones."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from lastax.data import DataError
from lastax.data.speech35 import DATA_SET, WORDS

from . import sound_fixtures as fixtures

SPLITS = ("train", "validation", "test")
REAL = Path(os.environ.get("LASTAX_DATA", "/nowhere"))
NAMES = fixtures.names()
CLASSES = ("no", "yes", "backward")  # as the published code has them


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """A copy of the fixtures, to be damaged."""
    shutil.copytree(fixtures.FIXTURES / fixtures.FOLDER, tmp_path / "root" / fixtures.FOLDER)
    return tmp_path / "root"


def failure(root, **options):
    with pytest.raises(DataError) as caught:
        DATA_SET.open(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def split_of(name):
    return {"validation": "validation", "testing": "test"}.get(
        fixtures.SPLIT_OF.get(fixtures.speaker(name)), "train"
    )


def padded(numbers):
    """The clips of some numbers in -1..1, each one second long."""
    clips = np.zeros((len(numbers), 16_000))
    for clip, number in zip(clips, numbers, strict=True):
        samples = fixtures.samples(number)
        clip[: len(samples)] = samples / 2**15
    return clips


def of_split(split, without=()):
    return [
        number
        for number, name in enumerate(NAMES)
        if split_of(name) == split and number not in without
    ]


def records(source):
    return np.stack([record["x"][:, 0] for record in source])


def test_fixtures_match_their_script(tmp_path):
    fixtures.main(tmp_path)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 12 + 1 + 1 + 2
    for path in made:
        kept = fixtures.FIXTURES / path.relative_to(tmp_path)
        assert kept.read_bytes() == path.read_bytes(), kept


def test_the_words_are_the_published_ones():
    assert len(set(WORDS)) == len(WORDS) == 35
    assert (WORDS[0], WORDS[5], WORDS[16], WORDS[17], WORDS[34]) == (
        *("bed", "go", "yes", "backward", "zero"),
    )


def test_standard_clips_have_mean_0_and_deviation_1_over_the_training_set(root):
    data = DATA_SET.open(root)
    assert DATA_SET.present(root)
    assert (data.length, data.input_size, data.classes) == (16_000, 1, CLASSES)
    training = padded(of_split("train"))
    for split in SPLITS:
        numbers = of_split(split)
        assert len(data.sources[split]) == len(numbers) == {"train": 6}.get(split, 3)
        expected = (padded(numbers) - training.mean()) / training.std()
        assert data.sources[split][0]["x"].dtype == np.float32
        np.testing.assert_allclose(records(data.sources[split]), expected, rtol=1e-4, atol=1e-5)
        for record, number in zip(data.sources[split], numbers, strict=True):
            assert data.classes[record["label"]] == NAMES[number].split("/")[0]


def test_published_clips_are_those_of_the_published_code(root):
    """Step by step in float64: divide by 2^15 twice, then place by place in time."""
    data = DATA_SET.open(root, normalization="published")
    training = padded(of_split("train")) / 2**15
    mean, std = training.mean(axis=0), training.std(axis=0, ddof=1)
    for split in SPLITS:
        expected = (padded(of_split(split)) / 2**15 - mean) / (std + 1e-5)
        np.testing.assert_allclose(records(data.sources[split]), expected, rtol=1e-4, atol=1e-5)


def test_both_normalizations_share_their_files(root, cache):
    DATA_SET.open(root)
    DATA_SET.open(root, normalization="published")
    (largest,) = cache.rglob("x.npy")
    assert largest.stat().st_size < 12 * 2 * 16_000 + 200


def test_an_unknown_normalization_is_named(root):
    with pytest.raises(ValueError, match=r"normalization must be one of .*; got 'mean'"):
        DATA_SET.open(root, normalization="mean")


def test_missing_words_are_not_classes_and_their_list_entries_are_ignored(root):
    shutil.rmtree(root / fixtures.FOLDER / "no")
    data = DATA_SET.open(root)
    assert data.classes == ("yes", "backward")
    assert sum(map(len, data.sources.values())) == 8


def test_suffixes_may_have_any_case(root):
    before = records(DATA_SET.open(root).sources["test"])
    for name in NAMES[::2]:
        path = root / fixtures.FOLDER / name
        path.rename(path.with_suffix(".WAV"))
    (root / fixtures.FOLDER / "no" / "._0.wav").write_bytes(b"as macOS adds")
    data = DATA_SET.open(root)
    np.testing.assert_array_equal(records(data.sources["test"]), before)
    assert data.notes == (
        "validation_list.txt: 3 clips listed, 3 found",
        "testing_list.txt: 3 clips listed, 3 found",
    )


def test_files_of_other_kinds_are_counted(root):
    folder = root / fixtures.FOLDER
    (folder / "no" / "other.flac").write_bytes(b"fLaC")
    data = DATA_SET.open(root)
    assert (data.skipped, data.left_out) == (1, {".flac": 1})
    assert data.notes[0] == "left out, because they are not read: 1 .flac"
    for path in (folder / "yes").iterdir():
        path.rename(path.with_suffix(".flac"))
    assert failure(root, skip_bad=True).startswith(
        f"{folder / 'yes'} has no file that ends in .wav, but 4 .flac; convert them"
    )


# Damage


def test_a_word_that_loses_all_clips_is_an_error(root):
    for path in (root / fixtures.FOLDER / "no").iterdir():
        path.write_bytes(b"")
    assert failure(root, skip_bad=True).startswith(
        f"{root / fixtures.FOLDER / 'no'} has no usable clip for training"
    )


@pytest.mark.parametrize("line", ["No/3c0ffee0_nohash_0.wav", "yes/3c0ffee0_nohash_0.wav,yes"])
def test_a_line_that_resembles_a_clip_is_never_skipped(root, line):
    path = root / fixtures.FOLDER / "testing_list.txt"
    path.write_text(line)
    assert failure(root, skip_bad=True).startswith(f"{path}, row 1: {line} is not a clip, but ")


def test_the_error_about_a_missing_data_set_says_what_to_do(tmp_path):
    assert not DATA_SET.present(tmp_path)
    assert "lastax data fetch speech35" in failure(tmp_path)
    (tmp_path / fixtures.FOLDER / "cats").mkdir(parents=True)
    assert "has no folder of clips (bed, cat, down" in failure(tmp_path)


@pytest.mark.parametrize("name", ["validation_list.txt", "testing_list.txt"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_missing_list_is_named(root, name, skip_bad):
    (root / fixtures.FOLDER / name).unlink()
    assert name in failure(root, skip_bad=skip_bad)
    assert not DATA_SET.present(root)


def test_a_clip_that_is_listed_and_missing_is_named(root):
    path = root / fixtures.FOLDER / "testing_list.txt"
    name = "no/3c0ffee0_nohash_0.wav"
    (root / fixtures.FOLDER / name).unlink()
    assert failure(root).startswith(f"{path}, row 2: clip {name} is missing; ")
    data = DATA_SET.open(root, skip_bad=True)
    assert (data.skipped, len(data.sources["test"])) == (1, 2)


GOOD = fixtures.wav(fixtures.samples(0))
LIST = b"LIST\x0a\0\0\0INFOabcdef"
CLIPS = {
    "empty": (b"", "is empty"),
    "text": (b"<html>not found</html>", "is not a WAV file"),
    "cut": (GOOD[:1000], "ends early: its chunk 'data' has 956 of 3,200 bytes"),
    "one byte less": (GOOD[:-1], "ends early: its chunk 'data' has 3,199 of 3,200 bytes"),
    "cut in the format": (GOOD[:30], "ends early: its chunk 'fmt ' has 10 of 16 bytes"),
    "no samples": (GOOD[:36], "has no format or no samples"),
    "silent": (fixtures.wav(np.zeros(0, np.int16)), "has 0 bytes of samples"),
    "long": (fixtures.wav(np.zeros(16_001, np.int16)), "has 16,001 samples, more than one second"),
    "8 kHz": (fixtures.wav(fixtures.samples(0), 8000), "has 1 channels of 16 bits at 8000 Hz"),
    "stereo": (fixtures.wav(np.zeros((9, 2), np.int16)), "has 2 channels of 16 bits at 16000 Hz"),
    "a-law": (
        GOOD[:20] + struct.pack("<H", 6) + GOOD[22:],
        "has 1 channels of 16 bits at 16000 Hz",
    ),
}


@pytest.mark.parametrize("damage", CLIPS.values(), ids=CLIPS)
def test_a_damaged_clip_is_named(root, cache, damage):
    content, message = damage
    number = of_split("train")[2]
    path = root / fixtures.FOLDER / NAMES[number]
    path.write_bytes(content)
    found = failure(root)
    assert found.startswith(f"{path} {message}")
    assert "--skip-bad" in found
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    data = DATA_SET.open(root, skip_bad=True)
    assert data.skipped == 1
    training = padded(of_split("train", [number]))  # and no statistics of the bad one
    expected = (training - training.mean()) / training.std()
    np.testing.assert_allclose(records(data.sources["train"]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "content",
    [GOOD + LIST, GOOD[:12] + LIST + GOOD[12:], GOOD + b"abc", GOOD + b"TAG" + bytes(125)],
)
def test_further_parts_of_a_clip_change_nothing(root, content):
    before = records(DATA_SET.open(root).sources["train"])
    (root / fixtures.FOLDER / NAMES[0]).write_bytes(content)
    np.testing.assert_array_equal(records(DATA_SET.open(root).sources["train"]), before)


def test_silence_alone_is_not_divided_by_zero(root):
    for name in NAMES:
        (root / fixtures.FOLDER / name).write_bytes(fixtures.wav(np.zeros(1600, np.int16)))
    for normalization in ("standard", "published"):
        data = DATA_SET.open(root, normalization=normalization)
        assert not records(data.sources["train"]).any()


@pytest.mark.slow
@pytest.mark.skipif(not DATA_SET.present(REAL), reason="no Speech Commands below LASTAX_DATA")
def test_the_real_files():
    data = DATA_SET.open(REAL)
    assert data.classes == tuple(word for word in WORDS if (REAL / fixtures.FOLDER / word).exists())
    listed = {
        split: (REAL / fixtures.FOLDER / f"{name}_list.txt").read_text().split()
        for split, name in (("validation", "validation"), ("test", "testing"))
    }
    for split, names in listed.items():
        source = data.sources[split]
        assert len(source) == len(names)
        labels = sorted(data.classes[source.labels[row]] for row in source.rows)
        assert labels == sorted(name.split("/")[0] for name in names)
    train = data.sources["train"]
    if len(data.classes) == 35:
        counts = {split: len(source) for split, source in data.sources.items()}
        assert counts == dict(DATA_SET.expected)
    x = np.stack([train[index]["x"] for index in range(0, len(train), 3)])
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.1
