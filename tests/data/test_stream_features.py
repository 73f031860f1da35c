"""Sounds that come in block by block: features, resampling, decoding, predictions."""

import dataclasses
import io
import math
import shutil
import struct
import tracemalloc
from pathlib import Path

import jax
import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import lastax
from lastax.data import (
    DataError,
    SoundBlocks,
    audio_folder,
    every_step,
    open_sound,
    read_pcm,
    speech,
    speech35,
)
from lastax.data._audio import log_mel
from lastax.data._latencies import Latencies
from lastax.data._resampling import StreamResampler
from lastax.data._sound_files import read_sound

from . import sound_fixtures as fixtures

# Length of the sounds that are divided, in samples: shorter than the second of a record, and odd.
COUNT = 4001
CUTS = st.lists(st.integers(0, COUNT), max_size=12).map(sorted)


def noise(count, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def divided(samples, cuts):
    """The samples in blocks that end at `cuts`; some are empty."""
    return np.split(samples, cuts)


def streamed(features, blocks):
    state, parts = features.init(), []
    for block in blocks:
        state, finished = features.chunk(state, block)
        assert len(state.tail) < features.window + features.hop
        parts.append(finished)
    return np.concatenate([*parts, features.finish(state)])


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Small data sets of every representation of sounds, and the largest difference of a value."""
    folder = tmp_path_factory.mktemp("streams")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTAX_CACHE", str(folder / "cache"))
        archive = fixtures.small_speech_archive(folder / "clips.zip")
        sounds = shutil.copytree(fixtures.FIXTURES / fixtures.FOLDER, folder / "sounds")

        def of_folder(**options):
            return audio_folder.DATA_SET.open(Path("/nowhere"), data=sounds, **options)

        return {
            # Values are standardized, so 1e-5 is a rounding error of the logarithm of a power.
            "speech": (speech.open_speech(archive=archive), 1e-5),
            "speech mfcc": (speech.open_speech(archive=archive, features="mfcc"), 1e-5),
            "speech35": (speech35.open_speech35(fixtures.FIXTURES), 0),
            "raw": (of_folder(features="raw", rate=8000), 0),
            # Integers of 2^-10 and 2^-8: a rounding error can be one of them.
            "log-mel": (of_folder(rate=16_000), 1.001 * 2**-10),
            "mfcc": (of_folder(features="mfcc", rate=11_025), 1.001 * 2**-8),
            "every 3": (every_step(of_folder(rate=16_000), 3), 1.001 * 2**-10),
            "raw every 5": (every_step(of_folder(features="raw"), 5), 0),
        }


REPRESENTATIONS = (
    *("speech", "speech mfcc", "speech35", "raw", "log-mel", "mfcc", "every 3", "raw every 5"),
)


@pytest.fixture(scope="module", params=REPRESENTATIONS)
def case(request, opened, tmp_path_factory):
    """Features, a sound, its features by `read_file`, and the largest difference."""
    data, largest = opened[request.param]
    features = data.stream_features()
    path = tmp_path_factory.mktemp("sound") / "noise.wav"
    # Short enough for all records; 16 bits, since other samples are not exact in a file.
    samples = np.rint(noise(min(COUNT, features.rate // 11)) * 2**15) / 2**15
    soundfile.write(path, samples, features.rate)
    (record,) = data.read_file(path)
    expected = record["x"][: record.get("length", data.length)]
    return features, samples.astype(np.float32), expected, largest


@settings(max_examples=15)
@given(cuts=CUTS)
def test_blocks_of_any_lengths_have_the_features_of_the_record(case, cuts):
    features, samples, expected, largest = case
    found = streamed(features, divided(samples, [min(cut, len(samples)) for cut in cuts]))
    # In units of the standardized values, which are divided by deviations above 0.1.
    np.testing.assert_allclose(found, expected, rtol=0, atol=10 * largest)
    if largest > 1e-4:
        assert (found != expected).mean() < 0.01


def test_a_sound_may_be_longer_than_a_record(opened):
    data, largest = opened["speech"]
    features, source = data.stream_features(), data.sources["train"]
    samples = noise(20_000)
    offline = (log_mel(samples[None], rate=8000, hop=80)[0] - source.mean) / source.std
    found = streamed(features, divided(samples, [3, 7000, 7001, 19_999]))
    np.testing.assert_allclose(found, offline, rtol=0, atol=10 * largest)


def test_a_frame_is_finished_after_the_stated_latency(opened):
    features = opened["speech"][0].stream_features()
    for number in (0, 1, 7):
        needed = number * features.hop + features.latency
        for count in (needed - 1, needed):
            _, frames = features.chunk(features.init(), noise(count))
            assert len(frames) == number + (count == needed)


def test_statistics_of_each_time_step_cannot_stream(opened):
    data = speech35.open_speech35(fixtures.FIXTURES, normalization="published")
    with pytest.raises(DataError, match=r"cannot stream.*--normalization standard"):
        data.stream_features()


@pytest.mark.parametrize(
    ("rate", "wanted"), [(44_100, 8000), (16_000, 8000), (8000, 16_000), (11_025, 16_000)]
)
@settings(max_examples=10)
@given(cuts=CUTS)
def test_resampled_blocks_are_the_resampled_sound(rate, wanted, cuts):
    samples, resampler = noise(COUNT), StreamResampler(rate, wanted)
    found = [resampler.chunk(block) for block in divided(samples, cuts)]
    found = np.concatenate([*found, resampler.finish()])
    expected = librosa.resample(samples, orig_sr=rate, target_sr=wanted)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24"), ("ogg", None), ("mp3", None)],
)
def test_blocks_of_a_file_are_the_decoded_file(tmp_path, suffix, subtype):
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, noise(20_000).reshape(-1, 2), 16_000, subtype=subtype)
    whole, sound = read_sound(path.read_bytes()), open_sound(path, seconds=0.013)
    assert (sound.rate, sound.floating) == (16_000, subtype == "FLOAT")
    np.testing.assert_array_equal(np.concatenate(list(sound.blocks)), whole.waveform)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "sound.wav"
    for content, words in (
        (b"", "is empty"),
        (b"no sound", "cannot be decoded"),
        (fixtures.wav(fixtures.samples(0))[:-100], "ends early"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"sound.wav {words}"):
            open_sound(path)
    with pytest.raises(DataError, match="cannot read"):
        open_sound(tmp_path / "nothing.wav")


def wav_stream(values, size):
    """A WAV file in 32-bit floating point that states a size of its samples."""
    values = np.asarray(values, "<f4")
    channels = values.shape[1]
    form = struct.pack("<HHIIHH", 3, channels, 16_000, 64_000 * channels, 4 * channels, 32)
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", 16) + form + b"note" + struct.pack("<I", 3)
    chunks += b"abc\0" + b"data" + struct.pack("<I", size) + values.tobytes()
    return b"RIFF" + struct.pack("<I", 2**32 - 1) + chunks


@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**31 - 36, 4000])
def test_pcm_and_wav_come_from_a_pipe(size):
    samples = fixtures.samples(0)
    pcm = read_pcm(io.BytesIO(samples.astype("<i2").tobytes()), rate=8000, seconds=0.01)
    assert (pcm.rate, pcm.floating) == (8000, False)
    blocks = list(pcm.blocks)
    assert {len(block) for block in blocks} == {80}
    np.testing.assert_array_equal(np.concatenate(blocks), samples / np.float32(2**15))

    same = read_pcm(io.BytesIO(fixtures.wav(samples)), rate=8000)
    assert same.rate == fixtures.RATE
    np.testing.assert_array_equal(np.concatenate(list(same.blocks)), samples / np.float32(2**15))

    stereo = noise(1000).reshape(-1, 2)
    packed = wav_stream(stereo, size) + (b"LIST" if size == 4000 else b"")
    sound = read_pcm(io.BytesIO(packed), rate=8000)
    assert (sound.rate, sound.floating) == (16_000, True)
    np.testing.assert_array_equal(np.concatenate(list(sound.blocks)), stereo.mean(axis=1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"abc", "ends inside a sample"),
        (b"fLaC1234", "is FLAC"),
        (b"ID3\3 mp3", "is MP3"),
        (b"RIFF1234AVI ", "another kind than WAVE"),
        (b"RIFF1234WAVEfmt ", "ends inside the header"),
        (b"RIFF1234WAVEdata\0\0\0\0", "without a format"),
        (wav_stream(np.zeros((2, 1)), 100), "ends early: it has 8 of 100 bytes"),
        (wav_stream(np.zeros((2, 1)), 8).replace(b"\x03\0\x01", b"\x07\0\x01", 1), "format 7"),
    ],
)
def test_what_is_wrong_with_a_pipe(content, words):
    with pytest.raises(DataError, match=words):
        list(read_pcm(io.BytesIO(content), rate=8000).blocks)


# From samples to predictions


@pytest.fixture(scope="module")
def model():
    config = lastax.ModelConfig(layers=1, channels=4, states=4, bidirectional=False)
    return lastax.build_network(config, input_size=40, classes=10, key=jax.random.key(0))


@pytest.fixture(scope="module")
def cell(model):
    return lastax.streaming(model)


def stream(cell, features, blocks, rate=8000, **options):
    predictions = []
    summary = lastax.data.stream_sound(
        cell, features, SoundBlocks(iter(blocks), rate), on_prediction=predictions.append, **options
    )
    return summary, predictions


def test_predictions_are_those_of_the_network(opened, model, cell):
    features = opened["speech"][0].stream_features()
    samples = noise(8000)
    steps = streamed(features, [samples])
    blocks = divided(samples, [100, 101, 5000])
    summary, predictions = stream(cell, features, blocks, every=0.3)
    assert summary.steps_per_chunk == 30
    assert [round(prediction.seconds, 6) for prediction in predictions] == [0.29, 0.59, 0.89, 1]
    assert summary.steps == len(steps) == 101
    for prediction, count in zip(predictions, (30, 60, 90, 101), strict=True):
        logits = lastax.predict(model, {"x": steps[None, :count]})
        expected = np.asarray(jax.nn.softmax(logits)[0])
        np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-4)
    np.testing.assert_array_equal(summary.probabilities, predictions[-1].probabilities)
    assert summary.lookahead == 0.016
    assert 0 < summary.latencies[0] <= summary.latencies[1] <= summary.latencies[2]

    # After a reset, predictions are those of a new sound.
    summary, predictions = stream(cell, features, blocks, every=0.3, reset=0.6)
    logits = lastax.predict(model, {"x": steps[None, 60:90]})
    expected = np.asarray(jax.nn.softmax(logits)[0])
    np.testing.assert_allclose(predictions[2].probabilities, expected, rtol=1e-4)

    # Another rate: the prediction of the resampled sound.
    other = np.asarray(librosa.resample(samples, orig_sr=8000, target_sr=22_050))
    again = librosa.resample(other, orig_sr=22_050, target_sr=8000)
    summary, _ = stream(cell, features, divided(other, [500, 9000]), rate=22_050, every=0.3)
    expected, _ = stream(cell, features, [again], every=0.3)
    np.testing.assert_allclose(summary.probabilities, expected.probabilities, rtol=1e-4)


def test_an_hour_needs_the_memory_of_a_second(opened, cell):
    # Other values in the same buffers: an hour of spectra takes several seconds.
    features = dataclasses.replace(
        opened["speech"][0].stream_features(), compute=lambda windows: windows[:, 100:140].copy()
    )
    block = noise(40_000)
    second, _ = stream(cell, features, [block], every=5)
    arrays, peaks = len(jax.live_arrays()), []

    def measure(prediction):
        peaks.append((tracemalloc.get_traced_memory()[0], len(jax.live_arrays())))

    tracemalloc.start()
    try:
        hour = lastax.data.stream_sound(
            cell,
            features,
            SoundBlocks((block for _ in range(720)), 8000),
            every=5,
            on_prediction=measure,
        )
    finally:
        tracemalloc.stop()
    assert hour.seconds == 3600
    assert hour.steps == 360_001
    assert hour.state_bytes == second.state_bytes
    # A second block arrives while less than a frame of the first one waits.
    assert hour.buffer_bytes <= second.buffer_bytes + 500 * 40 * 4
    early, late = peaks[10], peaks[-2]
    assert late[0] - early[0] < 100_000  # bytes; an hour of features has 57 MB
    assert late[1] <= early[1] <= arrays + 20


def test_samples_that_are_not_finite(opened, cell):
    features = opened["speech"][0].stream_features()
    clean = noise(4000)
    clean[[700, 900, 3000]] = 0
    damaged = clean.copy()
    damaged[[700, 900, 3000]] = np.nan, np.inf, -np.inf
    blocks, warnings = divided(damaged, [800]), []
    with pytest.raises(DataError, match=r"sample 700 \(0.087 s\) is not finite.*--on-nan continue"):
        stream(cell, features, blocks)
    summary, _ = stream(cell, features, blocks, on_nan=warnings.append)
    assert len(warnings) == 1
    assert "sample 700" in warnings[0]
    assert summary.not_finite == 3
    expected, _ = stream(cell, features, divided(clean, [800]))
    np.testing.assert_array_equal(summary.probabilities, expected.probabilities)


def test_floating_point_samples_are_on_the_scale_of_the_training_data(opened, cell):
    features = opened["speech"][0].stream_features()
    halved = dataclasses.replace(features, scale=lastax.data.SoundScale(2.0))
    samples = noise(4000)

    def streamed(features, samples):
        sound = SoundBlocks(iter(divided(samples, [800])), 8000, floating=True)
        return lastax.data.stream_sound(cell, features, sound).probabilities

    np.testing.assert_array_equal(streamed(halved, 2 * samples), streamed(features, samples))
    samples[3000] = 5
    assert streamed(halved, samples).shape == (10,)
    with pytest.raises(DataError, match=r"the sound has samples up to 5, .*; pass a sound like"):
        streamed(features, samples)


def test_wrong_streams(opened, cell):
    features = opened["speech"][0].stream_features()
    with pytest.raises(DataError, match="no samples"):
        stream(cell, features, [])
    for wrong in ({"every": math.inf}, {"reset": math.inf}, {"every": 1e9}):
        with pytest.raises(ValueError, match=f"stream_sound: {next(iter(wrong))} must be"):
            stream(cell, features, [], **wrong)
    with pytest.raises(ValueError, match="every must be positive"):
        stream(cell, features, [noise(10)], every=0)
    with pytest.raises(ValueError, match=r"shape \(L, 40\)"):
        stream(cell, opened["speech mfcc"][0].stream_features(), [noise(10)])


def test_percentiles_in_constant_memory():
    times, latencies = np.random.default_rng(0).lognormal(-7, 2, 3000), Latencies()
    for seconds in times:
        latencies.add(seconds)
    for percent in (50, 95, 99):
        expected = np.percentile(times, percent, method="inverted_cdf")
        assert latencies.percentile(percent) == pytest.approx(expected, rel=0.012)
