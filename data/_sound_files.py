"""Audio files to waveforms. Truncated files are errors, although decoders accept them.

librosa is imported inside a function, because the import takes seconds.
"""

import io
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int16

from lastax.data._errors import DataError

_CHUNK = struct.Struct("<4sI")  # type, bytes of content
_FORMAT = struct.Struct("<HHIIHH")  # tag, channels, rate, bytes/s, bytes/frame, bits/sample
_PCM = 1
_UNKNOWN = (0, 2**32 - 1)  # sizes that programs write if the output is a pipe


def read_pcm16(packed: bytes, *, rate: int) -> Int16[np.ndarray, " samples"]:
    """Samples of a mono 16-bit WAV file with `rate` samples per second.

    Raises:
        DataError: if the file is damaged or has another format. The message is the reason alone;
            callers prepend the file name.
    """
    chunks = dict(_wav_chunks(packed))
    if len(chunks.get(b"fmt ", b"")) < _FORMAT.size or b"data" not in chunks:
        raise DataError("has no format or no samples")
    tag, channels, found_rate, _, _, bits = _FORMAT.unpack_from(chunks[b"fmt "])
    if (tag, channels, found_rate, bits) != (_PCM, 1, rate, 16):
        raise DataError(
            f"has {channels} channels of {bits} bits at {found_rate} Hz (format {tag}) instead of "
            f"1 channel of 16 bits at {rate} Hz (format {_PCM})"
        )
    samples = chunks[b"data"]
    if not samples or len(samples) % 2:
        raise DataError(f"has {len(samples)} bytes of samples")
    return np.frombuffer(samples, "<i2").astype(np.int16)


def decode_sound(packed: bytes, *, rate: int) -> Float32[np.ndarray, " samples"]:
    """Decode an audio file (WAV, FLAC, Ogg, MP3) to a mono waveform in -1..1 at `rate` Hz.

    Channels are averaged. Files at another rate are resampled with an anti-aliasing filter.

    Raises:
        DataError: if the file is damaged, truncated or empty. The message is the reason alone;
            callers prepend the file name. Truncation between two packets of an Ogg or MP3 file is
            not detected, because these formats do not store the length.
    """
    import soundfile

    if not packed:
        raise DataError("is empty")
    if packed[:4] == b"RIFF":
        for _ in _wav_chunks(packed):
            pass
    try:
        with soundfile.SoundFile(io.BytesIO(packed)) as file:
            promised, found_rate = file.frames, file.samplerate
            waveform = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot be decoded ({_reason(error)})") from None
    if len(waveform) < promised:
        raise DataError(f"ends at sample {len(waveform):,} of {promised:,}")
    if not len(waveform):
        raise DataError("has no samples")
    if not np.isfinite(waveform).all():
        raise DataError("has samples that are not finite")
    return waveform if found_rate == rate else _resample(waveform, found_rate, rate)


def _resample(
    waveform: Float32[np.ndarray, " samples"], rate: int, wanted: int
) -> Float32[np.ndarray, " resampled"]:
    with warnings.catch_warnings():
        # On Python 3.11 and 3.12, librosa imports modules that are deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import librosa

        return librosa.resample(waveform, orig_sr=rate, target_sr=wanted)


def _wav_chunks(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk of a WAV file.

    Raises:
        DataError: if the file is not a WAV file, or ends inside a chunk.
    """
    if not packed:
        raise DataError("is empty")
    if packed[:4] != b"RIFF" or packed[8:12] != b"WAVE":
        raise DataError("is not a WAV file")
    place = 12
    while place + _CHUNK.size <= len(packed):
        kind, size = _CHUNK.unpack_from(packed, place)
        place += _CHUNK.size
        if kind == b"data" and size in _UNKNOWN:
            size = len(packed) - place
        if place + size > len(packed):
            missing = f"{len(packed) - place:,} of {size:,} bytes"
            raise DataError(f"ends early: its chunk {kind.decode('latin1')!r} has {missing}")
        yield kind, packed[place : place + size]
        place += size + size % 2
    if place < len(packed) - 1:  # an odd chunk may be followed by one byte
        raise DataError("ends inside the header of a chunk")


def _reason(error: Exception) -> str:
    # libsndfile prefixes the reason with the address of the buffer.
    return " ".join(str(error).split()).rpartition(">: ")[2]
