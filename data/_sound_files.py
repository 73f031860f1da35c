"""Sound files to waveforms, with nothing missing: decoders pass over what was cut off.

librosa is imported where it is needed, as its import takes seconds.
"""

import io
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int16

from lastax.data._errors import DataError

_CHUNK = struct.Struct("<4sI")  # kind, bytes of content
_FORMAT = struct.Struct("<HHIIHH")  # tag, channels, rate, bytes/s, bytes a frame, bits a sample
_PCM = 1
_UNKNOWN = (0, 2**32 - 1)  # what programs that write into a pipe put for the size


def read_pcm16(packed: bytes, *, rate: int) -> Int16[np.ndarray, " samples"]:
    """The samples of a WAV file of one channel in 16 bits at `rate` Hz.

    Raises:
        DataError: the reason, to be put behind the file's name, if it is damaged or of another
            kind.
    """
    chunks = dict(_wav_chunks(packed))
    if len(chunks.get(b"fmt ", b"")) < _FORMAT.size or b"data" not in chunks:
        raise DataError("has no format or no samples")
    tag, channels, found_rate, _, _, bits = _FORMAT.unpack_from(chunks[b"fmt "])
    if (tag, channels, found_rate, bits) != (_PCM, 1, rate, 16):
        raise DataError(
            f"has {channels} channels of {bits} bits at {found_rate} Hz (format {tag}), must have "
            f"1 of 16 at {rate} (format {_PCM})"
        )
    samples = chunks[b"data"]
    if not samples or len(samples) % 2:
        raise DataError(f"holds {len(samples)} bytes of sound")
    return np.frombuffer(samples, "<i2").astype(np.int16)


def decode_sound(packed: bytes, *, rate: int) -> Float32[np.ndarray, " samples"]:
    """A sound file (WAV, FLAC, Ogg, MP3) as a mono waveform in -1..1 at `rate` Hz.

    Channels are averaged. A file at another rate is resampled with its high frequencies removed.

    Raises:
        DataError: the reason, to be put behind the file's name, if it is damaged, cut short or
            silent for want of samples. In Ogg and MP3, which say their length nowhere, a file that
            was cut between two packets is a shorter one.
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
        raise DataError(f"holds no sound that can be decoded ({_reason(error)})") from None
    if len(waveform) < promised:
        raise DataError(f"ends at sample {len(waveform):,} of {promised:,}")
    if not len(waveform):
        raise DataError("holds no samples")
    if not np.isfinite(waveform).all():
        raise DataError("holds samples that are no numbers")
    return waveform if found_rate == rate else _resample(waveform, found_rate, rate)


def _resample(
    waveform: Float32[np.ndarray, " samples"], rate: int, wanted: int
) -> Float32[np.ndarray, " resampled"]:
    with warnings.catch_warnings():
        # Under Python 3.11 and 3.12 it imports modules that 3.13 drops, which they announce.
        warnings.simplefilter("ignore", DeprecationWarning)
        import librosa

        return librosa.resample(waveform, orig_sr=rate, target_sr=wanted)


def _wav_chunks(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each part of a WAV file.

    Raises:
        DataError: if it is none, or ends inside a part.
    """
    if not packed:
        raise DataError("is empty")
    if packed[:4] != b"RIFF" or packed[8:12] != b"WAVE":
        raise DataError("is no WAV file")
    place = 12
    while place + _CHUNK.size <= len(packed):
        kind, size = _CHUNK.unpack_from(packed, place)
        place += _CHUNK.size
        if kind == b"data" and size in _UNKNOWN:
            size = len(packed) - place
        if place + size > len(packed):
            missing = f"{len(packed) - place:,} of {size:,} bytes"
            raise DataError(f"ends early: its part {kind.decode('latin1')!r} has {missing}")
        yield kind, packed[place : place + size]
        place += size + size % 2
    if place < len(packed) - 1:  # one byte may stand behind an odd part
        raise DataError("ends inside the head of a part")


def _reason(error: Exception) -> str:
    # libsndfile puts the address of the buffer in front of its reason.
    return " ".join(str(error).split()).rpartition(">: ")[2]
