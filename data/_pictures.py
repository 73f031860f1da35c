"""Pictures to sequences: unpack a PNG, gray from color, gray levels to numbers."""

import io
import struct
import zlib

import numpy as np
from jaxtyping import Float32, Int, UInt8

from lastax.data._errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # bytes of content, kind


def decode_png(packed: bytes, *, size: int) -> UInt8[np.ndarray, "size size"]:
    """The gray levels of a PNG file of `size` x `size` pixels; colors become gray.

    Raises:
        DataError: the reason, to be put behind the file's name, if it is damaged or of another
            size. Every byte counts: what the checksums inside a PNG cover is compared with them.
    """
    from PIL import Image

    _check_png(packed, size)
    try:
        with Image.open(io.BytesIO(packed), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("L"))
    # Pillow has no common error for damage, so this lists what it raises.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"cannot be unpacked: {' '.join(str(error).split())}") from None


def _check_png(packed: bytes, size: int) -> None:
    """Compare length, checksums and size, which Pillow looks at in part only."""
    if not packed:
        raise DataError("is empty")
    if not packed.startswith(_SIGNATURE):
        raise DataError("is no PNG picture")
    place, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        if place + _CHUNK.size + 4 > len(packed):
            raise DataError("ends early")
        length, kind = _CHUNK.unpack_from(packed, place)
        end = place + _CHUNK.size + length
        if end + 4 > len(packed):
            raise DataError("ends early")
        if zlib.crc32(packed[place + 4 : end]) != int.from_bytes(packed[end : end + 4]):
            raise DataError("has a wrong checksum")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", packed, place + _CHUNK.size)
            if (width, height) != (size, size):
                raise DataError(f"has {width} x {height} pixels instead of {size} x {size}")
        place = end + 4


def gray(colors: UInt8[np.ndarray, "... 3"]) -> UInt8[np.ndarray, "..."]:
    """Luminance of red, green and blue in 0..255: ITU-R BT.601 in 16 bits, rounded, as Pillow."""
    total = np.full(colors.shape[:-1], 2**15, np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        total += colors[..., channel] * np.uint32(weight)
    return (total >> 16).astype(np.uint8)


def standardize(
    pixels: UInt8[np.ndarray, "L d"],
    *,
    mean: Float32[np.ndarray, " d"],
    std: Float32[np.ndarray, " d"],
    order: Int[np.ndarray, " L"] | None = None,
) -> Float32[np.ndarray, "L d"]:
    """(pixels / 255 - mean) / std; `mean` and `std` are those of pixels in 0..1.

    Step t of the result is pixel `order[t]`, if an order is given.
    """
    if order is not None:
        pixels = pixels[order]
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std
