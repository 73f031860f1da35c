"""Ogg and MP3 streams, divided into parts whose length the decoder knows.

libsndfile decodes no more samples than it expects when it opens a file. For files that were joined
end to end, it expects only the first one. For an MP3 without a length header, it expects an
estimate from the size of the first frames.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lastax.data._errors import DataError

_PAGE = struct.Struct("<4sBB20xB")  # Ogg: b"OggS", version, flags, number of segments
_FIRST = 2  # flag of the first page of a stream

# MPEG audio, layer III: bit rates in kbit/s, samples per second.
_BIT_RATES = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_LENGTH_HEADERS = (b"Xing", b"Info")
_HAS_FRAMES = 1  # flag of a length header: the number of frames follows
_ID3 = b"ID3"
# Frames of one stream differ in size by less than this factor.
_CLAIMED = 64


class EndlessFile(io.BytesIO):
    """A file that claims to be longer than it is, so that estimates of its length are too large."""

    _at_end = False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at_end = whence == io.SEEK_END
        super().seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return super().tell() * (_CLAIMED if self._at_end else 1)


def ogg_parts(packed: bytes) -> list[io.BytesIO]:
    """The streams of an Ogg file, one after the other."""
    starts, place, was_first = [0], 0, True
    while (place := packed.find(b"OggS", place)) >= 0 and place + _PAGE.size <= len(packed):
        _, _, flags, segments = _PAGE.unpack_from(packed, place)
        is_first = bool(flags & _FIRST)
        # Streams that are interleaved begin with several first pages.
        if is_first and not was_first:
            starts.append(place)
        was_first = is_first
        place += _PAGE.size
        place += segments + sum(packed[place : place + segments])
    ends = [*starts[1:], len(packed)]
    return [io.BytesIO(packed[start:end]) for start, end in zip(starts, ends, strict=True)]


def mp3_parts(packed: bytes) -> list[io.BytesIO]:
    """The files that were joined to `packed`, readable to their ends.

    A length header is kept, unless the part has more frames than it states.

    Raises:
        DataError: if the file ends inside a frame. The message is the reason alone.
    """
    groups: list[list[_Frame]] = []
    for frame in _frames(packed):
        if frame.length_header is not None or not groups:
            groups.append([])
        groups[-1].append(frame)
    # Other layers than III have no length headers.
    return [_part(packed, group) for group in groups] or [EndlessFile(packed)]


@dataclass(frozen=True)
class _Frame:
    """A frame. `length_header`: place of the header that states the length, or None."""

    start: int
    end: int
    length_header: int | None


def _part(packed: bytes, frames: list[_Frame]) -> io.BytesIO:
    start, header = frames[0].start, frames[0].length_header
    if header is not None:
        flags, stated = struct.unpack_from(">II", packed, header + 4)
        if flags & _HAS_FRAMES and stated >= len(frames) - 1:
            return io.BytesIO(packed[start : frames[-1].end])
        start = frames[0].end
    return EndlessFile(packed[start : frames[-1].end])


def _frames(packed: bytes) -> Iterator[_Frame]:
    place = 0
    while (place := _next_frame(packed, place)) >= 0:
        end = place + _frame_size(packed, place)
        header = place + 4 + _side_size(packed[place : place + 4])
        is_length = packed[header : header + 4] in _LENGTH_HEADERS and header + 12 <= end
        yield _Frame(place, end, header if is_length else None)
        place = end


def _next_frame(packed: bytes, place: int) -> int:
    """The first place from `place` on where a frame begins; -1 if there is none.

    Raises:
        DataError: if the frame right at `place`, behind another one, is not complete.
    """
    follows = place > 0
    while place >= 0:
        place = _behind_tag(packed, place)
        end = place + _frame_size(packed, place)
        if end > place:
            if follows and end > len(packed):
                raise DataError(
                    f"ends inside a frame: {len(packed) - place} of {end - place} bytes"
                )
            # Other bytes can look like a frame, but hardly like two in a row.
            if follows or end == len(packed) or _frame_size(packed, end):
                return place
        follows = False
        found = (packed.find(_ID3, place + 1), packed.find(b"\xff", place + 1))
        place = min((other for other in found if other >= 0), default=-1)
    return -1


def _behind_tag(packed: bytes, place: int) -> int:
    """`place`, or the end of the ID3 tag that begins there."""
    if not packed.startswith(_ID3, place) or place + 10 > len(packed):
        return place
    size = 0
    for seven_bits in packed[place + 6 : place + 10]:
        size = size << 7 | seven_bits
    return place + 10 + size


def _frame_size(packed: bytes, place: int) -> int:
    """Number of bytes of the frame of layer III that begins at `place`; 0 if none does."""
    if place + 4 > len(packed) or packed[place] != 0xFF or packed[place + 1] & 0xE6 != 0xE2:
        return 0
    version = packed[place + 1] >> 3 & 3
    bits, rate = packed[place + 2] >> 4, packed[place + 2] >> 2 & 3
    if version not in _RATES or rate == 3 or not 0 < bits < 15:
        return 0
    newest = version == 3
    bit_rate = _BIT_RATES[1 if newest else 2][bits]
    padding = packed[place + 2] >> 1 & 1
    return (144_000 if newest else 72_000) * bit_rate // _RATES[version][rate] + padding


def _side_size(head: bytes) -> int:
    """Number of bytes between the header of a frame and its data."""
    mono, newest = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    return (17 if mono else 32) if newest else (9 if mono else 17)
