"""An `.npz` file read in pieces: an array need not fit into memory. Nothing in it is run."""

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
_AT_ONCE = 2**24  # bytes of a piece
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Damage to a zip file shows as any of these, depending on the bytes that it hit. RuntimeError
# includes NotImplementedError: an unknown way of compression.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class Header:
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool


class Npz:
    """The arrays of one file by name. Every failure is a DataError that says in which of them."""

    def __init__(self, path: Path):
        """Read the headers of all arrays.

        Raises:
            DataError: if there is no such file, or it is damaged.
        """
        self.path = path
        if not path.exists():
            raise DataError(f"there is no file {path}: give another --data")
        try:
            with path.open("rb"):  # the errors of the disk before those of the format
                pass
        except OSError as error:
            raise unreadable(path, error) from None
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
        except _DAMAGE as error:
            raise DataError(f"{path} is damaged or no .npz file ({error}); save it anew") from None
        names = (name.removesuffix(_SUFFIX) for name in members if name.endswith(_SUFFIX))
        self.headers: Mapping[str, Header] = {name: self._header(name) for name in names}

    def wrong(self, name: str, what: str) -> DataError:
        """What to raise if the array `name` is not as it must be."""
        return DataError(f"{self.path}: {name} {what}")

    def whole(self, name: str) -> Shaped[np.ndarray, "..."]:
        """All of an array."""
        header = self.headers[name]
        return np.concatenate([np.zeros((0, *header.shape[1:]), header.dtype), *self.pieces(name)])

    def pieces(self, name: str) -> Iterator[Shaped[np.ndarray, "..."]]:
        """An array of numbers or text, some rows at a time; at once, if it is stored by columns."""
        header = self.headers[name]
        count, *shape = header.shape
        size = math.prod(shape) * header.dtype.itemsize
        step = count if header.by_columns else max(_AT_ONCE // max(size, 1), 1)
        with self._opened(name) as (_, stream):
            _read_header(stream)
            for start in range(0, count, step):
                rows = min(step, count - start)
                content = stream.read(rows * size)  # zipfile compares the checksum at the end
                flat = np.frombuffer(content, header.dtype)
                yield flat.reshape((rows, *shape), order="F" if header.by_columns else "C")

    def _header(self, name: str) -> Header:
        with self._opened(name) as (size, stream):
            header = _read_header(stream)
            # Room on the disk is taken by what the header says: no more than there is.
            needed = math.prod(header.shape) * header.dtype.itemsize
            if not header.dtype.hasobject and needed != size - stream.tell():
                raise ValueError("its size is not that of its shape")
            return header

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, zipfile.ZipExtFile]]:
        """An array's bytes, and how many there are."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                member = archive.getinfo(name + _SUFFIX)
                with archive.open(member) as stream:
                    yield member.file_size, cast(zipfile.ZipExtFile, stream)
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise self.wrong(name, f"is damaged ({reason}); save the file anew") from None


def _read_header(stream: zipfile.ZipExtFile) -> Header:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, by_columns, dtype = _HEADERS[version](stream)
    return Header(shape, dtype, by_columns and len(shape) > 1)
