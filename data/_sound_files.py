"""Audio files to waveforms. Truncated files are errors, although decoders accept them.

librosa is imported inside a function, because the import takes seconds.
"""

import contextlib
import io
import mmap
import struct
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16

from lastax.data._chunked_sound import chunks, with_stated_size
from lastax.data._compressed_sound import EndlessFile, mp3_parts, ogg_parts
from lastax.data._errors import DataError

_FORMAT = struct.Struct("<HHIIHH")  # tag, channels, rate, bytes/s, bytes/frame, bits/sample
_PCM, _EXTENSIBLE = 1, 0xFFFE
_SUBFORMAT = 24  # place of the tag in an extensible format
_BLOCK = 2**18  # samples that are decoded at once
_AU = struct.Struct(">4sII")  # magic, place of the samples, their bytes
_AU_UNKNOWN = 2**32 - 1
_UNKNOWN_LENGTH = 2**63 - 1
_NOTHING = np.zeros(0, np.float32)
_LARGEST_RATIO = 100  # of the rates after and before resampling

Waveform = Float32[np.ndarray, " samples"]


class Sound(NamedTuple):
    """A decoded file.

    Attributes:
        waveform: the mean of the channels, at `rate` samples per second.
        rate: samples per second.
        floating: whether the file stores floating-point samples, which may exceed -1..1.
    """

    waveform: Waveform
    rate: int
    floating: bool


def read_pcm16(packed: bytes, *, rate: int) -> Int16[np.ndarray, " samples"]:
    """Samples of a mono 16-bit WAV file with `rate` samples per second.

    Raises:
        DataError: if the file is damaged or has another format. The message is the reason alone;
            callers prepend the file name.
    """
    if not packed:
        raise DataError("is empty")
    if packed[:4] != b"RIFF" or packed[8:12] != b"WAVE":
        raise DataError("is not a WAV file")
    found = {it.kind: packed[it.start : it.start + it.size] for it in chunks(packed)}
    form, samples = found.get(b"fmt ", b""), found.get(b"data")
    if len(form) < _FORMAT.size or samples is None:
        raise DataError("has no format or no samples")
    tag, channels, found_rate, _, _, bits = _FORMAT.unpack_from(form)
    if tag == _EXTENSIBLE and len(form) >= _SUBFORMAT + 2:
        (tag,) = struct.unpack_from("<H", form, _SUBFORMAT)
    if (tag, channels, found_rate, bits) != (_PCM, 1, rate, 16):
        raise DataError(
            f"has {channels} channels of {bits} bits at {found_rate} Hz (format {tag}) instead of "
            f"1 channel of 16 bits at {rate} Hz (format {_PCM})"
        )
    if not samples or len(samples) % 2:
        raise DataError(f"has {len(samples)} bytes of samples")
    return np.frombuffer(samples, "<i2").astype(np.int16)


def decode_sound(packed: bytes, *, rate: int) -> Waveform:
    """Decode an audio file to a mono waveform at `rate` Hz; see `read_sound` and `resample`."""
    sound = read_sound(packed)
    return resample(sound.waveform, sound.rate, rate)


def read_sound(packed: bytes) -> Sound:
    """Decode an audio file of any kind that libsndfile reads, and average its channels.

    The length is what the decoder delivers. Ogg and MP3 files that were joined end to end are read
    to the end.

    Raises:
        DataError: if the file is damaged, truncated or empty. The message is the reason alone;
            callers prepend the file name. Truncation between two packets of an Ogg file, or of an
            MP3 file without a length header, is not detected, because these files do not store the
            length.
    """
    sound = divide_sound(packed)
    waveform = np.concatenate(
        [
            resample(np.concatenate([_NOTHING, *decode_blocks(part)]), rate, sound.rates[0])
            for part, rate in zip(sound.parts, sound.rates, strict=True)
        ]
    )
    if not len(waveform):
        raise DataError("has no samples")
    if not np.isfinite(waveform).all():
        raise DataError("has samples that are not finite")
    return Sound(waveform, sound.rates[0], sound.floating)


class DividedSound(NamedTuple):
    """A file that is not decoded yet.

    Attributes:
        parts: what was joined end to end to this file; mostly one part.
        rates: samples per second of each part.
        floating: whether the file stores floating-point samples, which may exceed -1..1.
    """

    parts: list[io.BytesIO | mmap.mmap]
    rates: list[int]
    floating: bool


def divide_sound(packed: bytes | mmap.mmap) -> DividedSound:
    """The parts of an audio file. A file in a memory map is not copied, if it is not compressed.

    Raises:
        DataError: if the file is damaged, truncated or empty. The message is the reason alone.
    """
    import soundfile

    if not len(packed):
        raise DataError("is empty")
    packed = with_stated_size(packed)
    _check_au(packed)
    with _decoding():
        with soundfile.SoundFile(_readable(packed)) as file:
            kind, floating = file.format, file.subtype in ("FLOAT", "DOUBLE")
        divide = {"MP3": mp3_parts, "OGG": ogg_parts}.get(kind)
        parts: list[io.BytesIO | mmap.mmap] = []
        parts += [_readable(packed)] if divide is None else divide(packed[:])
        rates = []
        for part in parts:
            with soundfile.SoundFile(part) as file:
                rates.append(file.samplerate)
            part.seek(0)
    return DividedSound(parts, rates, floating)


def decode_blocks(
    part: io.BytesIO | mmap.mmap, *, samples: int = _BLOCK
) -> Iterator[Float32[np.ndarray, " block"]]:
    """The mean of the channels of a part of a `DividedSound`, in blocks of `samples` samples.

    Raises:
        DataError: if the part is damaged or truncated. The message is the reason alone.
    """
    import soundfile

    # Otherwise soundfile allocates the length that the file states, which may be unknown, and
    # seeks after each block, which some decoders cannot do.
    class Sequential(soundfile.SoundFile):
        def seekable(self) -> bool:
            return False

    with _decoding(), Sequential(part) as file:
        count = 0
        while len(block := file.read(samples, dtype="float32", always_2d=True)):
            count += len(block)
            yield block.mean(axis=1)
        endless = isinstance(part, EndlessFile) or file.frames == _UNKNOWN_LENGTH
        if count < file.frames and not endless:
            raise DataError(f"ends at sample {count:,} of {file.frames:,}")


def resample(waveform: Waveform, rate: int, wanted: int) -> Float32[np.ndarray, " resampled"]:
    """`waveform` at another rate, with an anti-aliasing filter.

    Raises:
        DataError: if the new rate is more than 100 times as high; the header of the file is then
            probably wrong. The message is the reason alone.
    """
    if rate == wanted:
        return waveform
    if wanted > _LARGEST_RATIO * rate:
        raise DataError(f"has a rate of {rate} Hz, which is too low for {wanted} Hz")
    with warnings.catch_warnings():
        # On Python 3.11 and 3.12, librosa imports modules that are deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import librosa

        return librosa.resample(waveform, orig_sr=rate, target_sr=wanted)


def _readable(packed: bytes | mmap.mmap) -> io.BytesIO | mmap.mmap:
    if isinstance(packed, bytes):
        return io.BytesIO(packed)
    packed.seek(0)
    return packed


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Turn errors of the decoder into DataError."""
    import soundfile

    try:
        yield
    except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot be decoded ({_reason(error)})") from None


def _check_au(packed: bytes | mmap.mmap) -> None:
    """Raise DataError if an AU file is shorter than it states."""
    if packed[:4] == b".snd" and len(packed) >= _AU.size:
        _, start, size = _AU.unpack_from(packed)
        if size != _AU_UNKNOWN and start + size > len(packed):
            raise DataError(f"ends early: it has {len(packed) - start:,} of {size:,} bytes")


def _reason(error: Exception) -> str:
    # libsndfile prefixes the reason with the address of the buffer.
    return " ".join(str(error).split()).rpartition(">: ")[2]
