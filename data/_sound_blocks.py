"""Sounds that come in block by block: files, and PCM or WAV from a pipe."""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from lastax.data._errors import DataError
from lastax.data._folders import unreadable
from lastax.data._sound_files import decode_blocks, divide_sound

Waveform = Float32[np.ndarray, " samples"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FORMAT = struct.Struct("<HHIIHH")  # tag, channels, rate, bytes/s, bytes/frame, bits/sample
_SUBFORMAT = 24  # place of the tag in an extensible format
# Types of samples, by tag and bits, and the value that is 1.
_SAMPLES: Mapping[tuple[int, int], tuple[np.dtype, int]] = {
    (_PCM, 16): (np.dtype("<i2"), 2**15),
    (_PCM, 32): (np.dtype("<i4"), 2**31),
    (_FLOAT, 32): (np.dtype("<f4"), 1),
    (_FLOAT, 64): (np.dtype("<f8"), 1),
}
# Programs that write into a pipe do not know the size. They write 0 or a number near 2^31 or 2^32.
_UNKNOWN = 0x7F000000
# First bytes of files that could be taken for raw samples.
_OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b"caff": "CAF", b".snd": "AU"}
_OTHERS |= {b"RF64": "RF64", b"RIFX": "RIFX", b"riff": "W64"}


@runtime_checkable
class BinaryStream(Protocol):
    """A binary file, for example `sys.stdin.buffer`. `read` returns fewer bytes only at the end."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes."""


class SoundBlocks(NamedTuple):
    """A sound as an iterator of blocks of mono samples, for example of a microphone.

    Attributes:
        blocks: the blocks, of any lengths.
        rate: samples per second.
        floating: whether the source stores floating-point samples. They are divided by
            the divisor of `StreamFeatures.scale`, like those of the training data.
    """

    blocks: Iterator[Waveform]
    rate: int
    floating: bool = False


def open_sound(path: str | Path, *, seconds: float | int = 0.1) -> SoundBlocks:
    """A sound file that libsndfile reads, decoded block by block. Channels are averaged.

    Memory does not depend on the length. However, Ogg and MP3 files are read into memory before
    they are decoded.

    Args:
        path: the file.
        seconds: length of a block.

    Raises:
        DataError: if the file is missing or damaged. Damage behind the header is found when its
            block is read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if path.is_fifo():
            raise DataError(f"{path} is a pipe; pass - and read it from stdin") from None
        raise unreadable(path, error) from None
    except ValueError:  # an empty file cannot be mapped
        raise DataError(f"{path} is empty; pass a sound file") from None
    try:
        sound = divide_sound(packed)
        if len(set(sound.rates)) > 1:
            raise DataError(f"has parts at {' and '.join(map(str, sound.rates))} Hz")
    except DataError as error:
        raise DataError(f"{path} {error}; pass a sound file") from None
    rate = sound.rates[0]

    def blocks() -> Iterator[Waveform]:
        try:
            for part in sound.parts:
                yield from decode_blocks(part, samples=max(round(seconds * rate), 1))
        except DataError as error:
            raise DataError(f"{path} {error}; pass a sound file") from None

    return SoundBlocks(blocks(), rate, sound.floating)


def read_pcm(file: BinaryStream, *, rate: int, seconds: float | int = 0.1) -> SoundBlocks:
    """Samples from a pipe: 16-bit little-endian mono PCM, or a WAV stream.

    WAV streams have PCM samples of 16 or 32 bits or floating-point samples, and any number of
    channels, which are averaged. A block is returned as soon as its samples are there.

    Args:
        file: for example `sys.stdin.buffer`.
        rate: samples per second of raw PCM; a WAV stream states its own rate.
        seconds: length of a block.

    Raises:
        DataError: if the stream is empty, another kind of file, or damaged.
    """
    head = file.read(4)
    if not head:
        raise DataError("the stream is empty; pass 16-bit PCM or WAV")
    kind = _OTHERS.get(head, "MP3" if head[:3] == b"ID3" else None)
    if kind is not None:
        raise DataError(f"the stream is {kind}; pass WAV (ffmpeg -i FILE -f wav -) or 16-bit PCM")
    if head == b"RIFF":
        return _read_wav(file, seconds)
    return SoundBlocks(_pcm_blocks(file, head, round(seconds * rate)), rate)


def _read_wav(file: BinaryStream, seconds: float | int) -> SoundBlocks:
    """A WAV stream behind its first four bytes."""
    if _exactly(file, 8)[4:] != b"WAVE":
        raise DataError("the stream holds a RIFF file of another kind than WAVE; pass WAV")
    form = b""
    while True:
        kind, size = struct.unpack("<4sI", _exactly(file, 8))
        if kind == b"data":
            break
        content = _exactly(file, size + size % 2)
        if kind == b"fmt ":
            form = content
    if len(form) < _FORMAT.size:
        raise DataError("the stream holds a WAV stream without a format")
    tag, channels, rate, _, _, bits = _FORMAT.unpack_from(form)
    if tag == _EXTENSIBLE and len(form) >= _SUBFORMAT + 2:
        (tag,) = struct.unpack_from("<H", form, _SUBFORMAT)
    if (tag, bits) not in _SAMPLES or not channels or not rate:
        raise DataError(
            f"the stream has {channels} channels of {bits} bits at {rate} Hz (format {tag}); pass "
            "WAV of 16 bits (ffmpeg -i FILE -c:a pcm_s16le -f wav -)"
        )
    limit = None if size == 0 or size >= _UNKNOWN else size
    blocks = _pcm_blocks(
        file, b"", round(seconds * rate), kind=(tag, bits), channels=channels, limit=limit
    )
    return SoundBlocks(blocks, rate, tag == _FLOAT)


def _pcm_blocks(
    file: BinaryStream,
    head: bytes,
    samples: int,
    *,
    kind: tuple[int, int] = (_PCM, 16),
    channels: int = 1,
    limit: int | None = None,
) -> Iterator[Waveform]:
    """Blocks of `head` and what follows it in `file`, which ends after `limit` bytes."""
    dtype, one = _SAMPLES[kind]
    frame = channels * dtype.itemsize
    size, done = max(samples, 1) * frame, 0
    while True:
        wanted = size if limit is None else min(size, limit - done)
        block = head + file.read(max(wanted - len(head), 0))
        head, done = b"", done + len(block)
        if len(block) % frame:
            raise DataError(
                f"the stream ends inside a sample, after {done:,} bytes of {8 * frame}-bit samples"
            )
        if block:
            values = np.frombuffer(block, dtype).reshape(-1, channels)
            with np.errstate(over="ignore"):  # beyond single precision is not finite
                mono = (values / one).astype(np.float32).mean(axis=1)
            yield mono
        if len(block) < size:
            break
    if limit is not None and done < limit:
        raise DataError(f"the stream ends early: it has {done:,} of {limit:,} bytes")


def _exactly(file: BinaryStream, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise DataError("the stream ends inside the header of a WAV stream")
    return content
