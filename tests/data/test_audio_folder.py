"""`audio-folder`: anyone's sounds, of every kind, length and rate, and damaged ones."""

import hashlib
import io
import os
import pickle
import shutil
import unicodedata
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.fft
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data import DataError, Source, check_data
from lastax.data._clip_splits import hold_out, speaker
from lastax.data._sound_files import decode_sound
from lastax.data.audio_folder import DATA_SET

from . import sound_fixtures as fixtures

SPLITS = ("train", "validation", "test")
REAL = Path(os.environ.get("LASTAX_DATA", "/nowhere")) / fixtures.FOLDER
NAMES = fixtures.names()
RATE = fixtures.RATE


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """A copy of the fixtures, to be damaged."""
    return Path(shutil.copytree(fixtures.FIXTURES / fixtures.FOLDER, tmp_path / "sounds"))


def open_folder(folder, **options):
    return DATA_SET.open(Path("/nowhere"), data=folder, **options)


def failure(folder, **options):
    with pytest.raises(DataError) as caught:
        open_folder(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def tone(frequency, seconds, rate):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write_tones(folder, clips=12, seconds=lambda number: 0.2):
    """Two classes of tones, without speakers and lists."""
    for number in range(clips):
        for name, frequency in (("high", 2000), ("low", 500)):
            values = np.rint(tone(frequency + 10 * number, seconds(number), RATE) * 2**15)
            fixtures.write(folder / name / f"{number}.wav", fixtures.wav(values))
    return folder


def of_split(split):
    named = {"validation": "validation", "testing": "test"}
    splits = [named.get(fixtures.SPLIT_OF.get(fixtures.speaker(name)), "train") for name in NAMES]
    return [number for number, found in enumerate(splits) if found == split]


def check_against(data, expected):
    """Compare records with the values of each clip before they are standardized."""
    train = np.concatenate([expected[number] for number in of_split("train")])
    mean, std = train.mean(axis=0), train.std(axis=0)
    for split in SPLITS:
        assert len(data.sources[split]) == len(of_split(split))
        for record, number in zip(data.sources[split], of_split(split), strict=True):
            steps = len(expected[number])
            assert record["x"].shape == (data.length, data.input_size)
            assert record["x"].dtype == np.float32
            assert record["length"] == steps
            assert record["length"].dtype == record["label"].dtype == np.int32
            assert not record["x"][steps:].any()
            wanted = (expected[number] - mean) / std
            np.testing.assert_allclose(record["x"][:steps], wanted, atol=5e-3)
            assert data.classes[record["label"]] == NAMES[number].split("/")[0]


# Steps


def test_raw_steps_are_the_samples(folder):
    data = open_folder(folder, features="raw", rate=RATE)
    assert (data.length, data.input_size, data.augment) == (RATE // 10, 1, None)
    assert data.classes == ("backward", "no", "yes")  # and no noise
    assert isinstance(data.sources["train"], Source)
    check_against(data, [fixtures.samples(number)[:, None] for number in range(12)])


def clip_frames(number):
    """Log-mel frames of a clip of the fixtures, by the library's own way of doing it."""
    power = librosa.feature.melspectrogram(
        y=fixtures.samples(number).astype(np.float32) / 2**15,
        sr=RATE,
        n_fft=512,
        hop_length=160,
        n_mels=40,
    )
    return np.log(1e-6 + power).T


def test_log_mel_frames_are_100_a_second(folder):
    data = open_folder(folder)
    expected = [clip_frames(number) for number in range(12)]
    assert {len(frames) for frames in expected} == {11, 10, 9, 8}
    assert (data.length, data.input_size, data.augment) == (20, 40, None)  # a tenth, rounded up
    check_against(data, expected)


def test_mfcc_frames_are_the_cosine_transform(folder):
    data = open_folder(folder, features="mfcc")
    assert (data.length, data.input_size) == (20, 20)
    frames = [clip_frames(number) for number in range(12)]
    check_against(data, [scipy.fft.dct(each, norm="ortho")[:, :20] for each in frames])


def test_records_of_equal_clips_have_no_length(tmp_path):
    write_tones(tmp_path / "sounds")
    data = open_folder(tmp_path / "sounds")
    assert (data.length, data.input_size) == (21, 40)
    assert set(data.sources["train"][0]) == {"x", "label"}
    record = data.sources["train"][0]
    varied = data.augment(record, np.random.default_rng(0))
    assert varied["x"].shape == record["x"].shape
    assert open_folder(tmp_path / "sounds", features="raw").augment is None


def test_training_values_are_standardized_over_real_steps(tmp_path):
    write_tones(tmp_path / "sounds", seconds=lambda number: 0.1 + 0.02 * number)
    for features in ("raw", "log-mel", "mfcc"):
        data = open_folder(tmp_path / "sounds", features=features)
        steps = np.concatenate(
            [record["x"][: record["length"]] for record in data.sources["train"]]
        ).astype(np.float64)
        np.testing.assert_allclose(steps.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(steps.std(axis=0), 1, atol=1e-4)


def test_length_is_the_longest_clip_rounded_up_to_a_tenth_of_a_second(tmp_path):
    write_tones(tmp_path / "sounds", seconds=lambda number: 0.11 + 0.01 * number)
    assert open_folder(tmp_path / "sounds", features="raw").length == 3 * 1600
    assert open_folder(tmp_path / "sounds").length == 30
    assert open_folder(tmp_path / "sounds", features="raw", rate=8000).length == 3 * 800


@pytest.mark.parametrize("features", ["raw", "log-mel", "mfcc"])
def test_clips_are_kept_as_16_bits_without_filling(tmp_path, cache, features):
    write_tones(tmp_path / "sounds", seconds=lambda number: 2.0 if number == 0 else 0.1)
    data = open_folder(tmp_path / "sounds", features=features)
    (kept,) = cache.rglob("values.npy")
    steps = sum(int(record["length"]) for source in data.sources.values() for record in source)
    assert kept.stat().st_size - 128 == 2 * steps * data.input_size
    assert steps < 0.3 * 24 * data.length


def test_sources_travel_light(folder):
    source = open_folder(folder).sources["train"]
    packed = pickle.dumps(source)
    assert len(packed) < 3000
    np.testing.assert_array_equal(pickle.loads(packed)[-1]["x"], source[5]["x"])
    with pytest.raises(IndexError):
        source[6]


def test_other_features_are_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"features must be one of .*; got 'mel'"):
        open_folder(folder, features="mel")
    for rate in (3999, 192_001):
        assert failure(folder, rate=rate).endswith(f"rate must be in 4000..192000 Hz; got {rate}")


# Kinds of files


def packed_as(values, rate, **options):
    packed = io.BytesIO()
    soundfile.write(packed, values, rate, **options)
    return packed.getvalue()


KINDS = {
    "wav 8": {"format": "WAV", "subtype": "PCM_U8"},
    "wav 24": {"format": "WAV", "subtype": "PCM_24"},
    "wav float": {"format": "WAV", "subtype": "FLOAT"},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_every_kind_of_file_is_the_same_sound(kind, rate):
    packed = packed_as(tone(440, 0.5, rate), rate, **kind)
    waveform = decode_sound(packed, rate=RATE)
    expected = tone(440, 0.5, RATE)
    assert waveform.dtype == np.float32
    middle = slice(1000, 7000)
    if kind["format"] == "MP3":  # it moves sound in time, by a decoder's delay
        spectrum = np.abs(np.fft.rfft(waveform[middle]))
        assert abs(np.argmax(spectrum) * RATE / 6000 - 440) < 3
    else:
        assert abs(len(waveform) - 8000) <= 1
        allowed = 0.1 if kind.get("subtype") == "OPUS" else 0.03
        assert np.abs(waveform[middle] - expected[middle]).max() < allowed


def test_channels_are_averaged():
    both = np.stack([tone(440, 0.1, RATE), 0.3 * tone(900, 0.1, RATE)], axis=1)
    waveform = decode_sound(packed_as(both, RATE, format="WAV", subtype="FLOAT"), rate=RATE)
    np.testing.assert_allclose(waveform, both.mean(axis=1), atol=1e-6)


def test_joined_files_may_have_different_rates():
    joined = b"".join(
        packed_as(tone(440, 0.5, rate), rate, format="MP3") for rate in (8000, 44_100)
    )
    waveform = decode_sound(joined, rate=RATE)
    assert abs(len(waveform) - RATE) <= 2
    spectrum = np.abs(np.fft.rfft(waveform[9000:15_000]))
    assert abs(np.argmax(spectrum) * RATE / 6000 - 440) < 3


def test_frequencies_above_the_new_nyquist_are_removed():
    high = packed_as(tone(7000, 0.5, 16_000), 16_000, format="FLAC")
    assert np.abs(decode_sound(high, rate=8000)[200:-200]).max() < 0.01


def test_a_folder_may_mix_kinds_and_rates(tmp_path):
    folder = write_tones(tmp_path / "sounds", 8)
    for number, (end, kind) in enumerate(
        (("flac", KINDS["flac"]), ("OGG", KINDS["ogg"]), ("mp3", KINDS["mp3"]))
    ):
        content = packed_as(tone(800, 0.2, 44_100), 44_100, **kind)
        fixtures.write(folder / "low" / f"other{number}.{end}", content)
    fixtures.write(folder / "low" / "notes.txt", b"not a sound")
    fixtures.write(folder / "notes" / "readme.md", b"no class")
    fixtures.write(folder / ".hidden" / "0.wav", b"no class either")
    data = open_folder(folder, features="raw")
    assert data.classes == ("high", "low")
    assert sum(map(len, data.sources.values())) == 19


def test_clips_may_have_any_readable_suffix_and_lie_in_subfolders(tmp_path):
    folder = write_tones(tmp_path / "sounds", 8)
    kinds = (("opus", KINDS["opus"]), ("aiff", {"format": "AIFF"}), ("au", {"format": "AU"}))
    for end, kind in kinds:
        content = packed_as(tone(800, 0.2, RATE), RATE, **kind)
        fixtures.write(folder / "low" / "more" / "and more" / f"0.{end}", content)
    (folder / "low" / "more" / "again").symlink_to(folder / "low")
    (folder / "high" / "0.wav").rename(folder / "high" / "0.WAV")
    (folder / "high" / "._1.wav").write_bytes(b"\0\x05\x16\x07 as macOS writes")
    data = open_folder(folder, features="raw")
    assert sum(map(len, data.sources.values())) == 19
    assert (data.skipped, data.notes) == (0, ())


def test_files_of_other_kinds_are_counted(tmp_path):
    folder = write_tones(tmp_path / "sounds")
    for name in ("a.m4a", "b.M4A", "c.wma", "notes.txt", "plain"):
        (folder / "low" / name).write_bytes(b"other")
    data = open_folder(folder)
    assert data.left_out == {".m4a": 2, ".wma": 1, ".txt": 1, "": 1}
    assert data.skipped == 5
    assert data.notes == (
        "left out, because they are not read: 2 .m4a, 1 without suffix, 1 .txt, 1 .wma",
    )
    assert check_data("audio-folder", data=folder).problems == ()
    (folder / "low" / "0.wav").write_bytes(b"")
    report = check_data("audio-folder", data=folder)
    assert (report.damaged, report.data.skipped) == (1, 6)


def test_a_class_with_no_readable_sound_is_an_error(tmp_path):
    folder = write_tones(tmp_path / "sounds")
    fixtures.write(folder / "third" / "0.m4a", b"not readable")
    for skip_bad in (False, True):
        assert failure(folder, skip_bad=skip_bad) == (
            f"{folder / 'third'} has no file that ends in .wav, .wave, .flac, .ogg, ..., but "
            "1 .m4a; convert them, or move the folder elsewhere"
        )


def test_a_dangling_link_is_a_bad_clip(tmp_path):
    folder = write_tones(tmp_path / "sounds")
    (folder / "low" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert failure(folder).startswith(f"cannot read {folder / 'low' / 'gone.wav'}")
    assert open_folder(folder, skip_bad=True).skipped == 1


# Floating-point samples beyond -1..1


def write_floats(folder, scale):
    """Tones whose loudest sample is `scale` times 0.9."""
    for number in range(12):
        for name, frequency in (("high", 2000), ("low", 500)):
            values = scale * (0.9 - 0.05 * number) * tone(frequency, 0.05, RATE) / 0.5
            packed = packed_as(values, RATE, format="WAV", subtype="FLOAT")
            fixtures.write(folder / name / f"{number}.wav", packed)
    return folder


@pytest.mark.parametrize(("scale", "divisor"), [(1.4, "2"), (2.0**15, "32,768"), (2.0**31, "")])
def test_floating_point_sounds_are_scaled_together(tmp_path, scale, divisor):
    expected = open_folder(write_floats(tmp_path / "plain", 1.0), features="raw")
    data = open_folder(write_floats(tmp_path / "loud", scale), features="raw")
    assert (expected.notes, expected.skipped, data.skipped) == ((), 0, 0)
    for split in SPLITS:
        for record, other in zip(data.sources[split], expected.sources[split], strict=True):
            np.testing.assert_allclose(record["x"], other["x"], atol=2e-4)
    (note,) = data.notes
    assert "of 24 clips exceed -1..1, high/0.wav with samples up to " in note
    assert f"all floating-point clips are divided by {divisor}" in note


def test_one_clip_out_of_scale_is_bad(tmp_path):
    """Otherwise it would turn all others into silence."""
    folder = write_floats(tmp_path / "sounds", 1.0)
    before = open_folder(folder, features="raw")
    packed = packed_as(20_000 * tone(500, 0.05, RATE), RATE, format="WAV", subtype="FLOAT")
    for name in ("low/0.wav", "high/11.wav"):
        (folder / name).write_bytes(packed)
    assert failure(folder).startswith(
        f"{folder / 'high/11.wav'} has samples up to 10,000, while most clips stay in -1..1; "
    )
    # Also as a single file, as in `lastax predict`.
    (record,) = before.read_file(folder / "low/1.wav")
    assert np.ptp(record["x"]) > 1
    with pytest.raises(DataError, match=r"0.wav has samples up to 10,000, while most .*; pass a "):
        before.read_file(folder / "low/0.wav")
    data = open_folder(folder, features="raw", skip_bad=True)
    assert (data.skipped, data.notes) == (2, ())
    record = data.sources["test"][0]["x"]
    assert len(np.unique(record)) > 0.5 * len(np.unique(before.sources["test"][0]["x"]))
    (folder / "low/0.wav").write_bytes(
        packed_as(np.full(800, 1e30), RATE, format="WAV", subtype="FLOAT")
    )
    assert (
        "low/0.wav has samples up to 1e+30" in check_data("audio-folder", data=folder).problems[0]
    )


# Splits


def test_lists_name_the_splits_and_the_rest_is_for_training(folder):
    (folder / "validation_list.txt").write_text("no/0a1b2c3d_nohash_0.wav\n\n")
    data = open_folder(folder)
    assert {split: len(data.sources[split]) for split in SPLITS} == {
        "train": 8,
        "validation": 1,
        "test": 3,
    }


def test_without_lists_speakers_are_held_out(folder):
    for name in ("validation_list.txt", "testing_list.txt"):
        (folder / name).unlink()
    data = open_folder(folder)
    order = sorted(fixtures.SPEAKERS, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    expected = {"test": order[:1], "validation": order[1:2], "train": order[2:]}
    for split, speakers in expected.items():
        source = data.sources[split]
        rows = [int(row) for row in source.rows]
        assert rows == [k for k, name in enumerate(NAMES) if fixtures.speaker(name) in speakers]


def test_without_one_list_its_split_is_held_out_of_the_rest(folder):
    (folder / "validation_list.txt").unlink()
    data = open_folder(folder)
    assert [len(data.sources[split]) for split in SPLITS] == [6, 3, 3]
    assert sorted(int(row) for row in data.sources["test"].rows) == of_split("test")


names = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=60,
    unique=True,
).map(
    lambda clips: sorted(
        f"{word}/{who}_nohash_{k}.wav" if known else f"{word}/{who}-{k}.wav"
        for word, who, k, known in clips
    )
)


@settings(max_examples=100, deadline=None)
@given(names=names, seed=st.integers(0, 100))
def test_each_held_out_split_is_a_tenth_and_shares_no_speaker(names, seed):
    dealt = hold_out(names, {}, ["test", "validation"])
    assert list(dealt) == names
    parts = {
        split: [name for name in names if dealt[name] == split]
        for split in ("test", "validation", "train")
    }
    speakers = [{speaker(name) for name in part} for part in parts.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers))
    if parts["train"]:
        assert min(10 * len(parts[split]) for split in ("test", "validation")) >= len(names)
    for split in ("test", "validation"):
        if parts[split]:  # no more than it takes
            sizes = [
                sum(speaker(name) == who for name in names) for who in map(speaker, parts[split])
            ]
            assert 10 * (len(parts[split]) - max(sizes)) < len(names)
    shuffled = np.random.default_rng(seed).permutation(names).tolist()
    assert hold_out(shuffled, {}, ["test", "validation"]) == dealt


@pytest.mark.parametrize("sizes", [{"a": 100, "b": 40, "c": 10}, {"a": 5, "b": 5}])
def test_held_out_splits_have_a_tenth_of_each_class(sizes):
    names = [f"{name}/{k}.wav" for name, size in sizes.items() for k in range(size)]
    dealt = hold_out(names, {}, ["test", "validation"])
    for name, size in sizes.items():
        counts = [
            sum(split == part for clip, split in dealt.items() if clip[0] == name)
            for part in ("test", "validation")
        ]
        if size >= 10:
            assert counts == [size // 10, size // 10]
        else:
            assert sum(counts) == 1


def test_a_class_keeps_clips_for_training():
    """The first speaker by SHA-256 has all clips of a class."""
    first = min(range(20), key=lambda k: hashlib.sha256(f"s{k}".encode()).digest())
    names = [f"a/s{k}_nohash_0.wav" for k in range(20)]
    names += [f"b/s{first}_nohash_{k}.wav" for k in range(3)]
    for split in ("test", "validation"):
        dealt = hold_out(names, {}, [split])
        assert {dealt[name] for name in names if name[0] == "b"} == {"train"}


def test_a_speaker_is_the_same_in_every_class():
    assert speaker("yes/ab12_nohash_0.wav") == speaker("no/ab12_nohash_7.wav") == "ab12"
    assert speaker("yes/1.wav") != speaker("no/1.wav")


# Damage


def test_a_folder_that_is_none_is_named(tmp_path):
    for path in (tmp_path / "gone", Path(__file__)):
        assert failure(path) == f"folder not found: {path}; pass another --data"
    assert "must hold at least two folders" in failure(tmp_path)
    write_tones(tmp_path / "sounds")
    shutil.rmtree(tmp_path / "sounds/low")
    assert "must hold at least two folders" in failure(tmp_path / "sounds")


FLAC = packed_as(tone(500, 0.3, RATE), RATE, format="FLAC")
WAV = fixtures.wav(fixtures.samples(0))
CLIPS = {
    "empty": ("wav", b"", "is empty"),
    "text": ("mp3", b"<html>not found</html>", "cannot be decoded"),
    "cut wav": ("wav", WAV[:1000], "ends early: its chunk 'data' has 956 of 3,200 bytes"),
    "cut head": ("wav", WAV[:30], "ends early: its chunk 'fmt ' has 10 of 16 bytes"),
    "cut flac": ("flac", FLAC[: len(FLAC) // 2], ""),
    "cut flac head": ("flac", FLAC[:20], "cannot be decoded"),
    "flipped flac": ("flac", FLAC[:-300] + bytes(100) + FLAC[-200:], ""),
    "no samples": ("wav", fixtures.wav(np.zeros(0, np.int16)), "has no samples"),
    "no numbers": (
        "wav",
        packed_as(np.full(100, np.nan), RATE, format="WAV", subtype="FLOAT"),
        "has samples that are not finite",
    ),
}


@pytest.mark.parametrize("damage", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("features", ["raw", "log-mel"])
def test_a_damaged_clip_is_named(tmp_path, cache, damage, features):
    end, content, message = damage
    folder = write_tones(tmp_path / "sounds")
    path = folder / "low" / f"bad.{end}"
    path.write_bytes(content)
    found = failure(folder, features=features)
    assert found.startswith(f"{path} {message}")
    assert "--skip-bad" in found
    assert "object at" not in found  # nor where in memory
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    data = open_folder(folder, features=features, skip_bad=True)
    assert data.skipped == 1
    assert sum(map(len, data.sources.values())) == 24


def test_a_listed_clip_that_is_missing_is_named(folder):
    (folder / "no/3c0ffee0_nohash_0.wav").unlink()
    path = folder / "testing_list.txt"
    assert failure(folder).startswith(f"{path}, row 2: clip no/3c0ffee0_nohash_0.wav is missing; ")
    data = open_folder(folder, skip_bad=True)
    assert (data.skipped, len(data.sources["test"])) == (1, 2)


UNDERSTOOD = {
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "backslashes": lambda text: text.replace("/", "\\").encode(),
    "a dot in front": lambda text: "".join(f"./{line}\n" for line in text.split()).encode(),
    "two separators": lambda text: text.replace("/", "//").encode(),
    "spaces and CRLF": lambda text: "".join(f" {line} \r\n\r\n" for line in text.split()).encode(),
    "suffix in capitals": lambda text: text.replace(".wav", ".WAV").encode(),
}


@pytest.mark.parametrize("write", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_lists_of_other_systems_are_understood(folder, write):
    path = folder / "testing_list.txt"
    path.write_bytes(write(path.read_text()))
    data = open_folder(folder, features="raw")
    assert sorted(int(row) for row in data.sources["test"].rows) == of_split("test")
    assert data.notes == (
        "validation_list.txt: 3 clips listed, 3 found",
        "testing_list.txt: 3 clips listed, 3 found",
    )


def test_unicode_normalizations_are_the_same_name(tmp_path):
    folder = write_tones(tmp_path / "sounds", 3)
    names = [unicodedata.normalize(form, "t\xf6ne") for form in ("NFC", "NFD")]
    (folder / "low").rename(folder / names[1])
    (folder / "testing_list.txt").write_text(f"{names[0]}/0.wav\n", encoding="utf-8")
    (folder / "validation_list.txt").write_text(f"{names[1]}/1.wav\n", encoding="utf-8")
    data = open_folder(folder, features="raw")
    assert [len(data.sources[split]) for split in SPLITS] == [4, 1, 1]


MISSPELLED = {
    "case": "NO/0A1b2c3d_nohash_0.wav",
    "absolute path": "/data/no/0a1b2c3d_nohash_0.wav",
    "drive": r"C:\data\no\0a1b2c3d_nohash_0.wav",
    "quotes": '"no/0a1b2c3d_nohash_0.wav"',
    "label": "no/0a1b2c3d_nohash_0.wav,no",
    "label behind a tab": "no/0a1b2c3d_nohash_0.wav\tno",
    "label in front": "2 no/0a1b2c3d_nohash_0.wav",
    "no suffix": "no/0a1b2c3d_nohash_0",
    "other suffix": "no/0a1b2c3d_nohash_0.flac",
    "other folder": "../no/0a1b2c3d_nohash_0.wav",
}


@pytest.mark.parametrize("line", MISSPELLED.values(), ids=MISSPELLED)
def test_a_line_that_resembles_a_clip_is_never_skipped(folder, line):
    """Its clip would land in the training split."""
    path = folder / "testing_list.txt"
    path.write_text(f"yes/3c0ffee0_nohash_0.wav\n\n{line}\n")
    for skip_bad in (False, True):
        assert failure(folder, skip_bad=skip_bad) == (
            f"{path}, row 3: {line if line.isprintable() else ascii(line)} is not a clip, but "
            "resembles no/0a1b2c3d_nohash_0.wav; write one <class>/<file> per line"
        )


def test_a_file_name_without_its_class_is_named(tmp_path):
    folder = write_tones(tmp_path / "sounds", 3)
    (folder / "testing_list.txt").write_text("2.wav\n")
    assert "row 1: 2.wav is not a clip, but resembles " in failure(folder, skip_bad=True)


def test_lines_of_a_missing_class_are_named(folder):
    shutil.rmtree(folder / "no")
    assert "row 2: clip no/1f2e3d4c_nohash_0.wav is missing" in failure(folder)
    assert open_folder(folder, skip_bad=True).skipped == 2


def test_a_clip_in_both_lists_belongs_to_the_first(folder):
    path = folder / "testing_list.txt"
    path.write_text(path.read_text() + "no/1f2e3d4c_nohash_0.wav\n")
    data = open_folder(folder)
    assert [len(data.sources[split]) for split in SPLITS] == [6, 3, 3]
    assert data.notes[2] == "clips in both lists: 1; they belong to validation"


def test_a_list_with_another_name_is_named(folder):
    (folder / "testing_list.txt").rename(folder / "test_list.txt")
    assert failure(folder) == (
        f"{folder / 'test_list.txt'} is not read: lists are called validation_list.txt and "
        "testing_list.txt; rename it"
    )


def test_errors_name_a_list_that_is_not_text(folder):
    path = folder / "testing_list.txt"
    path.write_bytes(b"no/\xff.wav\n")
    assert failure(folder).startswith(f"{path} is not UTF-8 text (byte 3); ")


def test_a_class_without_training_clips_is_named(folder):
    (folder / "testing_list.txt").write_text("".join(f"{n}\n" for n in NAMES if n[0] == "n"))
    assert failure(folder).startswith(f"{folder / 'no'} has no usable clip for training")


def test_an_empty_split_is_named(folder):
    (folder / "testing_list.txt").write_text("")
    assert failure(folder) == f"{folder} has no good record for test; restore it"


def test_errors_name_a_file_name_that_is_not_printable(folder):
    os.close(os.open(os.fsencode(folder / "no") + b"/\xff.wav", os.O_CREAT | os.O_WRONLY))
    assert failure(folder).startswith(
        f"{folder}: the name 'no/\\udcff.wav' is not printable; rename it"
    )


def test_no_permission_is_named(unprivileged, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(unprivileged / "cache"))
    folder = write_tones(unprivileged / "sounds")
    path = folder / "high/3.wav"
    path.chmod(0)
    assert failure(folder).startswith(f"cannot read {path} (Permission denied)")


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, cache, full_disk):
    limit, reason = full_disk
    folder = write_tones(tmp_path / "sounds", seconds=lambda number: 1)  # 750 KiB
    with limit(cache, 2**18):
        message = failure(folder, features="raw")
        assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert message.startswith(f"cannot prepare audio-folder in {cache / 'prepared'} ({reason}")


def test_changed_clips_are_read_again(folder):
    before = open_folder(folder, features="raw").sources["test"][0]["x"]
    path = folder / NAMES[of_split("test")[0]]
    path.write_bytes(fixtures.wav(fixtures.samples(11)))
    after = open_folder(folder, features="raw").sources["test"][0]["x"]
    assert not np.array_equal(before, after)


# Real files


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="no Speech Commands below LASTAX_DATA")
@pytest.mark.parametrize("features", ["raw", "log-mel"])
def test_the_real_files(features):
    data = open_folder(REAL, features=features)
    listed = {
        split: (REAL / f"{name}_list.txt").read_text().split()
        for split, name in (("validation", "validation"), ("test", "testing"))
    }
    for split, found in listed.items():
        assert len(data.sources[split]) == len(found)
    train = data.sources["train"]
    total = sum(
        len(list(path.glob("*.wav")))
        for path in REAL.iterdir()
        if path.name[0] != "_" and path.is_dir()
    )
    assert len(train) == total - sum(map(len, listed.values()))
    x = np.stack([train[index]["x"] for index in range(0, len(train), 5)])
    np.testing.assert_allclose(x.mean(axis=(0, 1)), 0, atol=0.1)
    np.testing.assert_allclose(x.std(axis=(0, 1)), 1, atol=0.1)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="no Speech Commands below LASTAX_DATA")
def test_speakers_of_real_clips_decide_their_split():
    """The official lists are a hash of speakers' names; the ten-word set is from the test list."""
    clips = [f"{path.parent.name}/{path.name}" for path in REAL.glob("[!_]*/*.wav")]
    if len(clips) != 4074:
        pytest.skip("not the ten-word set")
    for name in clips:
        number = int(hashlib.sha1(speaker(name).encode()).hexdigest(), 16) % 2**27
        assert 10 <= number * (100 / (2**27 - 1)) < 20
