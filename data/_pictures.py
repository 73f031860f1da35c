"""Images to sequences: PNG decoding, grayscale conversion, standardization."""

import io
import struct
import zlib

import numpy as np
from jaxtyping import Float32, Int, UInt8

from lastax.data._errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # bytes of content, type


def decode_png(packed: bytes, *, size: int) -> UInt8[np.ndarray, "size size"]:
    """Decode a PNG file of `size` x `size` pixels to gray levels.

    All checksums in the file are verified.

    Raises:
        DataError: if the file is damaged or has another size. The message is the reason alone;
            callers prepend the file name.
    """
    from PIL import Image

    _check_png(packed, size)
    try:
        with Image.open(io.BytesIO(packed), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("L"))
    # Pillow has no common exception for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"cannot be decoded: {' '.join(str(error).split())}") from None


def _check_png(packed: bytes, size: int) -> None:
    """Check length, checksums and image size, which Pillow checks only in part."""
    if not packed:
        raise DataError("is empty")
    if not packed.startswith(_SIGNATURE):
        raise DataError("is not a PNG image")
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
    """Luminance (ITU-R BT.601), rounded in 16-bit fixed point like Pillow."""
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
    """Return (pixels / 255 - mean) / std.

    Args:
        pixels: gray levels or colors, one row per pixel.
        mean: mean of pixels in 0..1.
        std: standard deviation of pixels in 0..1.
        order: if given, step t of the result is pixel `order[t]`.
    """
    if order is not None:
        pixels = pixels[order]
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std
