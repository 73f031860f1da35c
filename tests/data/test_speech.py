"""The bundled speech sample: what is in the archive, what a record is, what damage says."""

import collections
import io
import pickle
import zipfile

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data import DATASETS, DataError, data_folder, make_speech_sample, speech
from lastax.data._archive import open_archive

CLIPS = {"train": 2839, "validation": 394, "test": 841}
SPEAKERS = {"train": 169, "validation": 22, "test": 48}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test, in memory and on disk."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LASTAX_CACHE", str(folder))
    speech._features.cache_clear()
    return folder


@pytest.fixture(scope="session")
def clips():
    return speech.clips_of_splits(open_archive(speech.ARCHIVE, hint=""))


@pytest.fixture
def members(clips):
    """The members of a small archive: five clips of each split, and the lists."""
    names = [name for split in clips.values() for name in split[::20][:5]]
    with zipfile.ZipFile(speech.ARCHIVE) as archive:
        return {name: archive.read(name) for name in (*speech.LISTS.values(), *names)}


def write(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


# The archive


def test_archive_is_small_and_sound():
    assert speech.ARCHIVE.stat().st_size <= 15_000_000
    with zipfile.ZipFile(speech.ARCHIVE) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_archive_carries_license_and_citation():
    with zipfile.ZipFile(speech.ARCHIVE) as archive:
        assert b"Attribution 4.0 International" in archive.read("LICENSE")
        readme = archive.read("README.txt").decode()
    for part in ("Warden", "1804.03209", "CC BY 4.0", "Changes made", "resampled", "requantized"):
        assert part in readme


def test_splits_have_the_documented_sizes_and_share_no_speaker(clips):
    assert {split: len(names) for split, names in clips.items()} == CLIPS
    speakers = {split: {speech.speaker(name) for name in names} for split, names in clips.items()}
    assert {split: len(found) for split, found in speakers.items()} == SPEAKERS
    assert len(set.union(*speakers.values())) == sum(SPEAKERS.values())


def test_every_listed_clip_is_there(clips):
    with zipfile.ZipFile(speech.ARCHIVE) as archive:
        for split, name in speech.LISTS.items():
            assert sorted(archive.read(name).decode().split()) == list(clips[split])


def test_clips_are_one_second_at_8_khz(members):
    for name, content in members.items():
        if name.endswith(".flac"):
            info = soundfile.info(io.BytesIO(content))
            assert (info.samplerate, info.frames, info.subtype) == (8000, 8000, "PCM_16")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), peak=st.floats(0, 1))
def test_requantizing_errs_by_at_most_a_256th_of_the_peak(seed, peak):
    waveform = np.random.default_rng(seed).uniform(-peak, peak, 500)
    samples = make_speech_sample.requantize(waveform)
    error = np.abs(samples / 2.0**15 - waveform).max()
    assert error <= max(np.abs(waveform).max() / 2**8, 2.0**-15)
    used = samples[samples != 0]
    if used.size:
        step = np.min(used & -used)
        assert np.abs(samples // step).max() <= 2**9


def test_a_sample_is_made_the_same_from_a_folder_and_from_a_zip(tmp_path, members):
    with zipfile.ZipFile(speech.ARCHIVE) as archive:
        members["LICENSE"] = archive.read("LICENSE")
    for name, content in members.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    packed = write(tmp_path / "packed.zip", {f"all/{name}": members[name] for name in members})
    made = tmp_path / "made.zip"
    results = []
    for source in (packed, packed, tmp_path / "folder", made):
        make_speech_sample.main([str(source), str(made)])
        results.append(made.read_bytes())
    assert len(set(results[:3])) == 1
    with zipfile.ZipFile(made) as archive:
        assert archive.namelist()[:4] == ["README.txt", "LICENSE", *speech.LISTS.values()]
        assert set(members) < set(archive.namelist())
    assert len(speech.Speech("test", made)) == 5


def test_a_sample_that_is_too_large_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(make_speech_sample, "SIZE_LIMIT", 1000)
    with pytest.raises(SystemExit, match="above the limit of 1,000"):
        make_speech_sample.write_zip(tmp_path / "made.zip", {"clip": bytes(2000)})
    assert list(tmp_path.iterdir()) == []


# The source


@pytest.mark.slow
def test_the_whole_data_set():
    data = DATASETS["speech"].open(data_folder())
    assert DATASETS["speech"].expected == CLIPS
    for split, clips in CLIPS.items():
        source = data.sources[split]
        assert len(source) == clips
        assert len(set(source.speakers)) == SPEAKERS[split]
        records = [source[index] for index in range(clips)]
        counts = collections.Counter(int(record["label"]) for record in records)
        assert sorted(counts) == list(range(10))
        assert min(counts.values()) > 0.7 * max(counts.values())
        if split == "train":
            x = np.stack([record["x"] for record in records])
            np.testing.assert_allclose(x.mean(axis=(0, 1), dtype=np.float64), 0, atol=1e-4)
            np.testing.assert_allclose(x.std(axis=(0, 1), dtype=np.float64), 1, rtol=1e-4)


def test_records_match_the_registry(tmp_path, members):
    archive = write(tmp_path / "small.zip", members)
    described = speech.open_speech(archive=archive)
    for split in CLIPS:
        source = described.sources[split]
        assert len(source) == 5
        assert repr(source) == f"Speech({split!r}, clips=5)"
        for index in range(5):
            record = source[index]
            assert record["x"].shape == (described.length, described.input_size) == (101, 40)
            assert record["x"].dtype == np.float32
            assert np.all(np.isfinite(record["x"]))
            assert record["label"].dtype == np.int32
            word = described.classes[record["label"]]
            assert any(
                name.startswith(f"{word}/{source.speakers[index]}_nohash_") for name in members
            )


def test_features_are_those_of_librosa(tmp_path, members, clips):
    import librosa

    source = speech.Speech("test", write(tmp_path / "small.zip", members))
    name = [name for name in members if name in clips["test"]][2]
    waveform, rate = soundfile.read(io.BytesIO(members[name]), dtype="float32")
    assert rate == 8000
    power = librosa.feature.melspectrogram(y=waveform, sr=8000, n_fft=256, hop_length=80, n_mels=40)
    expected = np.log(speech.FLOOR + power.T)
    index = sorted(name for name in members if name in clips["test"]).index(name)
    got = source[index]["x"] * source.std + source.mean
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_cepstra_are_the_cosine_transform_of_the_bands(tmp_path, members):
    import scipy.fft

    archive = write(tmp_path / "small.zip", members)
    bands, cepstra = (speech.Speech("train", archive, features=f) for f in ("log-mel", "mfcc"))
    assert speech.open_speech(archive=archive, features="mfcc").input_size == 20
    frames = bands[2]["x"] * bands.std + bands.mean
    expected = scipy.fft.dct(frames, type=2, norm="ortho")[:, :20]
    assert cepstra[2]["x"].shape == (101, 20)
    got = cepstra[2]["x"] * cepstra.std + cepstra.mean
    np.testing.assert_allclose(got, expected, atol=1e-3)
    x = np.stack([record["x"] for record in cepstra])
    np.testing.assert_allclose(x.mean(axis=(0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=(0, 1)), 1, rtol=1e-3)


def test_unknown_features_are_named():
    with pytest.raises(
        ValueError, match=r"features must be one of \('log-mel', 'mfcc'\); got 'raw'"
    ):
        speech.open_speech(features="raw")


@pytest.mark.parametrize("number", [0, 3, 4])
def test_bad_clips_are_left_out_if_asked(tmp_path, members, clips, number):
    good = speech.open_speech(archive=write(tmp_path / "good.zip", members))
    name = [name for name in members if name in clips["validation"]][number]
    bad = write(tmp_path / "bad.zip", {**members, name: b"fLaC and then nothing"})
    with pytest.raises(DataError, match=f"{name} in {bad}"):
        speech.open_speech(archive=bad)
    data = speech.open_speech(archive=bad, skip_bad=True)
    assert (good.skipped, data.skipped) == (0, 1)
    for split, source in data.sources.items():
        whole = good.sources[split]
        index = sorted(name for name in members if name in clips[split])
        left = [i for i, other in enumerate(index) if other != name]
        assert len(source) == len(left)
        assert source.speakers == tuple(whole.speakers[i] for i in left)
        for record, i in zip(source, left, strict=True):
            np.testing.assert_array_equal(record["x"], whole[i]["x"])
            assert record["label"] == whole[i]["label"]


def test_a_source_survives_pickling(tmp_path, members):
    source = speech.Speech("train", write(tmp_path / "small.zip", members))
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == len(source)
    np.testing.assert_array_equal(again[3]["x"], source[3]["x"])


# The cache


def contents(source):
    return np.stack([source[index]["x"] for index in range(len(source))])


@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "empty", "other"])
def test_a_damaged_cache_file_does_not_change_the_data(tmp_path, members, cache, damage):
    archive = write(tmp_path / "small.zip", members)
    expected = contents(speech.Speech("train", archive))
    [kept] = cache.iterdir()
    good = kept.read_bytes()
    middle = len(good) // 2
    kept.write_bytes(
        {
            "none": good,
            "cut": good[:middle],
            "flipped": good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :],
            "empty": b"",
            "other": b"not what it was",
        }[damage]
    )
    speech._features.cache_clear()
    np.testing.assert_array_equal(contents(speech.Speech("train", archive)), expected)
    assert [path.name for path in cache.iterdir()] == [kept.name]  # nothing unfinished is left
    with np.load(kept) as again:
        np.testing.assert_array_equal(again["x"][:5], expected)


def test_the_cache_is_read(tmp_path, members, monkeypatch):
    archive = write(tmp_path / "small.zip", members)
    expected = contents(speech.Speech("train", archive))
    speech._features.cache_clear()
    monkeypatch.setattr(speech, "_compute_features", lambda *given: pytest.fail("computed again"))
    np.testing.assert_array_equal(contents(speech.Speech("train", archive)), expected)


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, members, cache):
    cache.write_text("a file where the folder should be")
    assert len(speech.Speech("train", write(tmp_path / "small.zip", members))) == 5


# Errors


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"split must be one of \('train'.*; got 'training'"):
        speech.Speech("training")


def failure(archive):
    with pytest.raises(DataError) as caught:
        speech.Speech("train", archive)
    message = str(caught.value)
    assert str(archive) in message
    assert "make_speech_sample.py" in message  # what to do
    assert "\n" not in message
    return message


def test_a_missing_archive_is_named(tmp_path):
    assert "archive not found" in failure(tmp_path / "gone.zip")


def test_a_folder_is_not_an_archive(tmp_path):
    assert "cannot read" in failure(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_archive_is_named(tmp_path, members, share):
    path = write(tmp_path / "small.zip", members)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "is damaged" in failure(path)


@pytest.mark.parametrize("content", [b"", b"fLaC and then nothing", "flipped", "cut"])
def test_a_damaged_clip_is_named(tmp_path, members, content):
    name = max(members, key=lambda name: name.endswith(".flac"))
    good = members[name]
    middle = len(good) // 2
    members[name] = {
        "flipped": good[:middle] + bytes(byte ^ 255 for byte in good[middle:]),
        "cut": good[:middle],
    }.get(content, content)
    message = failure(write(tmp_path / "small.zip", members))
    assert message.startswith(name)


def test_a_flipped_byte_in_the_archive_is_found(tmp_path, members):
    path = write(tmp_path / "small.zip", members)
    good = path.read_bytes()
    name = next(name for name in members if name.endswith(".flac"))
    place = good.index(members[name]) + 1000
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert failure(path).startswith(f"{name} in ")


@pytest.mark.parametrize("split", speech.LISTS)
def test_a_missing_list_is_named(tmp_path, members, split):
    del members[speech.LISTS[split]]
    assert f"has no member {speech.LISTS[split]}" in failure(write(tmp_path / "small.zip", members))


def test_a_split_without_clips_is_named(tmp_path, members, clips):
    few = {name: content for name, content in members.items() if name not in clips["train"]}
    assert "has no train clips" in failure(write(tmp_path / "small.zip", few))


# Augmentation


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 120),
    bands=st.integers(1, 50),
)
def test_augmentation_shifts_and_blanks_and_nothing_else(seed, frames, bands):
    x = np.arange(1, frames * bands + 1, dtype=np.float32).reshape(frames, bands)
    example = {"x": x.copy(), "label": np.int32(3)}
    changed = speech.augment(example, np.random.default_rng(seed))
    np.testing.assert_array_equal(example["x"], x)  # the source's own array stays
    assert changed["label"] == 3
    assert changed["x"].shape == x.shape
    assert changed["x"].dtype == np.float32
    rows, columns = np.nonzero(changed["x"])
    old_rows, old_columns = np.divmod(changed["x"][rows, columns].astype(int) - 1, bands)
    np.testing.assert_array_equal(columns, old_columns)
    assert len(set(rows - old_rows)) <= 1
    assert np.all(np.abs(rows - old_rows) <= 10)
    blank = changed["x"] == 0
    assert blank.all(axis=0).sum() <= 6 or blank.all()
    assert blank.all(axis=1).sum() <= 10 + 12 or blank.all()


def test_augmentation_is_a_function_of_its_generator():
    example = {"x": np.ones((101, 40), np.float32), "label": np.int32(0)}
    results = [speech.augment(example, np.random.default_rng(seed))["x"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
