"""Sound files that consist of chunks: WAV, RF64, W64, AIFF, CAF.

libsndfile reads a truncated file without an error, so the sizes of the chunks are compared with the
size of the file.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lastax.data._errors import DataError

# Programs that write into a pipe do not know the size. They write 0, 2^32 - 1, or a number near
# 2^31 from which they may have subtracted the headers.
_PLACEHOLDERS = 0x7F000000
_IN_DS64 = 2**32 - 1


@dataclass(frozen=True)
class _Layout:
    """Where chunks are.

    Attributes:
        start: place of the first chunk.
        head: type and size of a chunk.
        align: chunks begin at multiples of this.
        samples: type of the chunk with the samples.
        with_head: whether sizes count the heads.
    """

    start: int
    head: struct.Struct
    align: int = 2
    samples: bytes = b"data"
    with_head: bool = False


_LAYOUTS = {
    b"RIFF": _Layout(12, struct.Struct("<4sI")),
    b"RIFX": _Layout(12, struct.Struct(">4sI")),
    b"RF64": _Layout(12, struct.Struct("<4sI")),
    b"FORM": _Layout(12, struct.Struct(">4sI"), samples=b"SSND"),
    b"caff": _Layout(8, struct.Struct(">4sq"), align=1),
    b"riff": _Layout(40, struct.Struct("<4s12xQ"), align=8, with_head=True),
}


@dataclass(frozen=True)
class Chunk:
    """A chunk. `is_open`: the file does not state the size, so the chunk reaches to its end."""

    kind: bytes
    start: int
    size: int
    is_open: bool = False


def chunks(packed: bytes | mmap.mmap) -> Iterator[Chunk]:
    """The chunks up to the one with the samples; none for files of other kinds.

    Bytes behind the samples are ignored. If their size is a placeholder, or if it is 0 and the size
    of the file is wrong, too, they reach to the end of the file.

    Raises:
        DataError: if the file ends inside a chunk. The message is the reason alone.
    """
    layout = _LAYOUTS.get(packed[:4])
    if layout is None:
        return
    place, long_size = layout.start, 0
    while place + layout.head.size <= len(packed):
        kind, size = layout.head.unpack_from(packed, place)
        place += layout.head.size
        size -= layout.head.size if layout.with_head else 0
        available = len(packed) - place
        is_open = False
        if kind == layout.samples:
            if size == _IN_DS64 and long_size:
                size = long_size
            elif (size >= _PLACEHOLDERS and size > available) or size < 0:
                is_open = True
            elif size == 0:
                _, total = layout.head.unpack_from(packed, 0)
                is_open = total != len(packed) - layout.head.size
        if is_open:
            size = available
        if size > available:
            missing = f"{available:,} of {size:,} bytes"
            raise DataError(f"ends early: its chunk {kind.decode('latin1')!r} has {missing}")
        yield Chunk(kind, place, size, is_open)
        if kind == layout.samples:
            return
        if kind == b"ds64" and size >= 16:
            (long_size,) = struct.unpack_from("<Q", packed, place + 8)
        place += -(-size // layout.align) * layout.align
    if place < len(packed) - 1:  # an odd chunk may be followed by one byte
        raise DataError("ends inside the header of a chunk")


def with_stated_size(packed: bytes | mmap.mmap) -> bytes | mmap.mmap:
    """`packed` with the size of the samples in its header, if it is open and below 4 GiB.

    Raises:
        DataError: as `chunks`.
    """
    for chunk in chunks(packed):
        if chunk.is_open and chunk.size < _IN_DS64:
            layout = _LAYOUTS[packed[:4]]
            size = chunk.size + (layout.head.size if layout.with_head else 0)
            field = layout.head.pack(chunk.kind, size)[4 if layout.head.size == 8 else -8 :]
            return packed[: chunk.start - len(field)] + field + packed[chunk.start :]
    return packed
