"""Reading `.npz` files in pieces, so that arrays need not fit into memory. Never unpickles."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Shaped

from lastax.data._errors import DataError
from lastax.data._folders import unreadable

_SUFFIX = ".npy"
_AT_ONCE = 2**24  # bytes per piece
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# A damaged zip file can raise any of these. RuntimeError includes NotImplementedError, which
# unknown compression methods raise.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class Header:
    """Header of an array. `by_columns`: stored in Fortran order."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool


class Npz:
    """The arrays of one file, by name. Every failure is a DataError that names the array."""

    def __init__(self, path: Path):
        """Read the headers of all arrays.

        Raises:
            DataError: if the file is missing or damaged.
        """
        self.path = path
        if not path.exists():
            raise DataError(f"file not found: {path}; pass another --data")
        try:
            with path.open("rb"):  # errors of the disk first, then those of the format
                pass
        except OSError as error:
            raise unreadable(path, error) from None
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
        except _DAMAGE as error:
            raise DataError(
                f"{path} is damaged or not an .npz file ({error}); save it again"
            ) from None
        # macOS adds members whose names begin with `._`, in a folder of their own.
        own = (name for name in members if not name.rpartition("/")[2].startswith("."))
        names = (name.removesuffix(_SUFFIX) for name in own if name.endswith(_SUFFIX))
        self.headers: Mapping[str, Header] = {name: self._header(name) for name in names}

    def error(self, name: str, what: str) -> DataError:
        """The error to raise about the array `name`."""
        return DataError(f"{self.path}: {name} {what}")

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """A complete array."""
        header = self.headers[name]
        return np.concatenate([np.zeros((0, *header.shape[1:]), header.dtype), *self.pieces(name)])

    def pieces(self, name: str) -> Iterator[Shaped[np.ndarray, "..."]]:
        """An array of numbers or text, some rows at a time; in one piece if in Fortran order."""
        header = self.headers[name]
        count, *shape = header.shape
        size = math.prod(shape) * header.dtype.itemsize
        step = count if header.by_columns else max(_AT_ONCE // max(size, 1), 1)
        with self._opened(name) as (_, stream):
            _read_header(stream)
            for start in range(0, count, step):
                rows = min(step, count - start)
                content = stream.read(rows * size)  # zipfile checks the checksum at the end
                flat = np.frombuffer(content, header.dtype)
                yield flat.reshape((rows, *shape), order="F" if header.by_columns else "C")

    def _header(self, name: str) -> Header:
        with self._opened(name) as (size, stream):
            header = _read_header(stream)
            # Disk space is reserved from the header, so the header must be right.
            needed = math.prod(header.shape) * header.dtype.itemsize
            if not header.dtype.hasobject and needed != size - stream.tell():
                raise ValueError("its size does not match its shape")
            return header

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, zipfile.ZipExtFile]]:
        """Number of bytes of an array, and a stream of them."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                member = archive.getinfo(name + _SUFFIX)
                with archive.open(member) as stream:
                    yield member.file_size, cast(zipfile.ZipExtFile, stream)
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise self.error(name, f"is damaged ({reason}); save the file again") from None


def _read_header(stream: zipfile.ZipExtFile) -> Header:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"unsupported format version {version}")
    shape, by_columns, dtype = _HEADERS[version](stream)
    return Header(shape, dtype, by_columns and len(shape) > 1)
