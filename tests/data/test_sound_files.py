"""Decoding: every sample that the decoder delivers, and an error for every truncated file."""

import io
import struct

import numpy as np
import pytest
import soundfile

from lastax.data import DataError
from lastax.data._compressed_sound import _frames
from lastax.data._sound_files import read_pcm16, read_sound, resample

from . import sound_fixtures as fixtures

RATE = fixtures.RATE
SAMPLES = fixtures.samples(1)
WAV = fixtures.wav(SAMPLES)
DELAY = 576 + 529  # of LAME's encoder and of a decoder, in samples


def packed_as(values, rate=RATE, **options):
    packed = io.BytesIO()
    soundfile.write(packed, values, rate, **options)
    return packed.getvalue()


def noise(seconds=1.0, rate=RATE, channels=1, seed=0):
    values = np.random.default_rng(seed).normal(size=(round(seconds * rate), channels))
    # Quiet, then loud: frames of a variable bit rate differ in size.
    return 0.2 * values * np.linspace(0.01, 1, len(values))[:, None]


def mp3(rate=RATE, channels=1, **options):
    return packed_as(noise(rate=rate, channels=channels), rate, format="MP3", **options)


def without_length(packed):
    """An MP3 without its first frame, which states the length; and the stated number of frames."""
    tag = max(packed.find(b"Xing"), packed.find(b"Info"))
    start = packed.rfind(b"\xff", 0, tag)
    _, frames = struct.unpack_from(">II", packed, tag + 4)
    second = packed.index(packed[start : start + 2], tag)
    return packed[:start] + packed[second:], frames


# Compressed sound


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 1)])
@pytest.mark.parametrize("bitrate_mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_without_a_length_header_is_read_to_the_end(rate, channels, bitrate_mode):
    packed = mp3(rate, channels, bitrate_mode=bitrate_mode, compression_level=0.5)
    bare, frames = without_length(packed)
    waveform = read_sound(bare).waveform
    assert len(waveform) == frames * (1152 if rate >= 32_000 else 576)
    # The header also states the delay, which is otherwise not removed.
    expected = read_sound(packed).waveform
    assert len(expected) == rate
    np.testing.assert_allclose(waveform[DELAY : DELAY + rate], expected, atol=1e-6)


def test_tags_around_an_mp3_are_not_sound():
    bare, _ = without_length(mp3())
    expected = read_sound(bare).waveform
    front = b"ID3\x04\0\0" + bytes([0, 0, 3, 0]) + bytes(3 * 128)
    for packed in (front + bare, bare + b"TAG" + bytes(125), front + bare + b"TAG" + bytes(125)):
        np.testing.assert_array_equal(read_sound(packed).waveform, expected)


@pytest.mark.parametrize(
    "kind",
    [{"format": "MP3"}, {"format": "OGG"}, {"format": "OGG", "subtype": "OPUS"}],
    ids=["mp3", "vorbis", "opus"],
)
def test_files_joined_end_to_end_are_read_to_the_end(kind):
    one, two = (packed_as(noise(0.4 + 0.2 * k, seed=k), **kind) for k in range(2))
    expected = [read_sound(packed).waveform for packed in (one, two, one)]
    assert [len(waveform) for waveform in expected] == [6400, 9600, 6400]
    joined = read_sound(one + two + one).waveform
    np.testing.assert_allclose(joined, np.concatenate(expected), atol=1e-6)


def test_a_length_header_of_another_file_is_not_believed():
    packed = mp3()
    bare, frames = without_length(packed)
    assert len(read_sound(packed + bare).waveform) == 2 * frames * 576


@pytest.mark.parametrize("header", [False, True])
def test_a_truncated_mp3_is_an_error(header):
    packed = mp3() if header else without_length(mp3())[0]
    with pytest.raises(DataError, match=r"ends inside a frame: \d+ of \d+ bytes"):
        read_sound(packed[:-100])
    if header:
        ends = [frame.end for frame in _frames(packed)]
        with pytest.raises(DataError, match=r"ends at sample [\d,]+ of 16,000"):
            read_sound(packed[: ends[len(ends) // 2]])


def test_a_flac_of_unknown_length_is_read_to_the_end():
    packed = bytearray(packed_as(SAMPLES, format="FLAC"))
    packed[21] &= 0xF0  # 36 bits in STREAMINFO hold the number of samples; 0: unknown
    packed[22:26] = bytes(4)
    np.testing.assert_array_equal(read_sound(bytes(packed)).waveform * 2**15, SAMPLES)
    with pytest.raises(DataError, match="cannot be decoded"):
        read_sound(bytes(packed[: len(packed) // 2]))


# Chunks


def piped(riff, data, content=WAV):
    place = content.index(b"data") + 4
    riff, data = struct.pack("<I", riff), struct.pack("<I", data)
    return content[:4] + riff + content[8:place] + data + content[place + 4 :]


UNKNOWN = (0, 0x7FFFF000, 0x7FFFF024, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 37, 0x7F000000)


@pytest.mark.parametrize("size", UNKNOWN)
def test_wav_files_written_into_a_pipe_are_read_to_the_end(size):
    packed = piped(size, size)
    np.testing.assert_array_equal(read_pcm16(packed, rate=RATE), SAMPLES)
    np.testing.assert_array_equal(read_sound(packed).waveform * 2**15, SAMPLES)


@pytest.mark.parametrize(
    "junk",
    [b"TAG" + bytes(125), bytes(7), b"written by a program\n", b"LIST\xff\xff\0\0cut", b"\n"],
    ids=["id3", "zeros", "text", "cut chunk", "newline"],
)
def test_bytes_behind_the_samples_are_ignored(junk):
    np.testing.assert_array_equal(read_pcm16(WAV + junk, rate=RATE), SAMPLES)
    np.testing.assert_array_equal(read_sound(WAV + junk).waveform * 2**15, SAMPLES)


def test_the_extensible_format_is_pcm_too():
    np.testing.assert_array_equal(
        read_pcm16(packed_as(SAMPLES, format="WAVEX").replace(b"fact", b"junk"), rate=RATE), SAMPLES
    )


def test_an_empty_wav_file_is_not_one_of_unknown_size():
    """The size 0 is right, and a chunk without samples follows."""
    packed = fixtures.wav(np.zeros(0, np.int16)) + b"LIST\x04\0\0\0INFO"
    packed = packed[:4] + struct.pack("<I", len(packed) - 8) + packed[8:]
    with pytest.raises(DataError, match="has no samples"):
        read_sound(packed)


KINDS = {
    "AIFF": "ends early: its chunk 'SSND'",
    "AU": "ends early: it has 1,564 of 3,000 bytes",
    "CAF": "ends early: its chunk 'data'",
    "RF64": "ends early: its chunk 'data'",
    "W64": "ends early: its chunk 'data'",
    "WAV": "ends early: its chunk 'data'",
}


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_without_compression_are_errors(kind):
    packed = packed_as(SAMPLES, format=kind)
    np.testing.assert_array_equal(read_sound(packed).waveform * 2**15, SAMPLES)
    with pytest.raises(DataError, match=KINDS[kind]):
        read_sound(packed[:-1436])


@pytest.mark.parametrize(
    ("kind", "size"),
    [("AIFF", b"\0" * 4), ("AIFF", b"\x7f\0\0\x08"), ("CAF", b"\xff" * 8), ("W64", bytes(8))],
)
def test_other_files_of_unknown_size_are_read_to_the_end(kind, size):
    packed = packed_as(SAMPLES, format=kind)
    start = packed.index(b"SSND" if kind == "AIFF" else b"data") + (16 if kind == "W64" else 4)
    packed = packed[:start] + size + packed[start + len(size) :]
    packed = packed[:4] + (bytes(4) if kind == "AIFF" else packed[4:8]) + packed[8:]
    waveform = read_sound(packed).waveform * 2**15
    np.testing.assert_array_equal(waveform[: len(SAMPLES)], SAMPLES)
    assert len(waveform) <= len(SAMPLES) + 8


def test_an_au_file_of_unknown_size_is_read_to_the_end():
    packed = packed_as(SAMPLES, format="AU", endian="BIG")
    packed = packed[:8] + b"\xff" * 4 + packed[12:]
    np.testing.assert_array_equal(read_sound(packed).waveform * 2**15, SAMPLES)


def test_a_header_with_a_wrong_rate_does_not_fill_the_memory():
    sound = read_sound(packed_as(noise(seconds=0.1), rate=1, format="WAV"))
    assert sound.rate == 1
    with pytest.raises(DataError, match="has a rate of 1 Hz, which is too low for 16000 Hz"):
        resample(sound.waveform, sound.rate, 16000)
