"""Prepared data: compact `.npy` files that are memory-mapped.

Published files are slow to read (50,000 files, text to parse, images to decode). They are
converted once. The name of the folder is a hash of the source files and the options.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from lastax.data._atomic import file_lock, sync
from lastax.data._cache import cache_folder
from lastax.data._errors import DataError
from lastax.data._skipping import HINT

ABOUT = "about.json"


def prepared(name: str, identity: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder of a prepared data set. It is built if it does not exist.

    If two processes need the same folder, the second waits for the first. The folder is created
    atomically. The next process removes what a killed process left behind.

    Args:
        name: name of the data set, shown in the cache.
        identity: everything that the result depends on, as JSON values: the `fingerprint` of the
            files, options, the version of the code.
        build: writes the files into an empty folder, with `write_array`, `ArrayWriter` and
            `save_about`.

    Raises:
        DataError: if `build` raises it, or if the folder cannot be written.
    """
    described = json.dumps({"name": name, **identity}, sort_keys=True).encode()
    folder = cache_folder() / "prepared" / f"{name}-{hashlib.sha256(described).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(_lock_of(folder)):
            if not folder.is_dir():
                _remove_unfinished(folder)
                _build(folder, build)
    except OSError as error:
        raise DataError(
            f"cannot prepare {name} in {folder.parent} ({_reason(error)}); free disk space, fix "
            "the permissions, or choose another folder with LASTAX_CACHE"
        ) from error
    return folder


def fingerprint(paths: Iterable[Path], *, skip_bad: bool = False) -> str:
    """A hash of the names, sizes and modification times of files. No file is opened.

    Names are relative to the common folder, so a data set may be moved.

    Args:
        paths: the files.
        skip_bad: accept files that are missing, such as links that lead nowhere.

    Raises:
        DataError: if a file is missing and `skip_bad` is false.
    """
    files = sorted(map(str, paths))
    shared = os.path.commonpath(set(map(os.path.dirname, files))) if files else ""
    seen = hashlib.sha256()
    for file in files:
        name = file[len(shared) :]
        try:
            status = os.stat(file)
        except OSError as error:
            if not skip_bad:
                raise DataError(f"cannot read {file} ({error.strerror}); {HINT}") from None
            seen.update(f"{name}\0{error.strerror}\0".encode())
            continue
        seen.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return seen.hexdigest()[:16]


class StoredArray:
    """An array in a `.npy` file, memory-mapped on first use.

    Only the path is pickled. Worker processes map the file themselves and share its pages.
    """

    def __init__(self, path: Path):
        self.path = path

    @functools.cached_property
    def _array(self) -> Shaped[np.ndarray, "..."]:
        try:
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.path} is damaged ({reason}); remove {self.path.parent} to prepare it again"
            ) from None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Shaped[np.ndarray | np.generic, "..."]:
        return self._array[index]

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __repr__(self) -> str:
        return f"StoredArray({str(self.path)!r})"


def write_array(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """A new array of zeros in `folder/name.npy`, memory-mapped for writing.

    The disk space is reserved at once. Otherwise writing to a full disk would kill the process
    instead of raising OSError.
    """
    path = folder / f"{name}.npy"
    size = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": shape,
            },
        )
        start = file.tell()
        if hasattr(os, "posix_fallocate") and size:
            file.flush()
            os.posix_fallocate(file.fileno(), start, size)
        else:
            for offset in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - offset)))
    return np.lib.format.open_memmap(path, mode="r+")


class ArrayWriter:
    """Writes `folder/name.npy` in pieces, without knowing its length in advance."""

    def __init__(self, folder: Path, name: str, dtype: Any):
        self._dtype = np.dtype(dtype)
        self._length = 0
        self._file = (folder / f"{name}.npy").open("wb")
        self._start = self._write_header()

    def __len__(self) -> int:
        return self._length

    def append(self, piece: Shaped[np.ndarray, " n"]) -> None:
        """Append `piece`, converted to the dtype of the array."""
        self._file.write(np.ascontiguousarray(piece, self._dtype).data)
        self._length += len(piece)

    def close(self) -> None:
        """Write the length into the header. The file is invalid without it."""
        with self._file:
            self._file.seek(0)
            # numpy pads the header so that the first axis may grow.
            if self._write_header() != self._start:
                raise RuntimeError(
                    f"{self._file.name}: no space for length {self._length} in the header"
                )

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(OSError):  # the error that is being raised matters more
                self._file.close()

    def _write_header(self) -> int:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._length,),
            },
        )
        return self._file.tell()


def save_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Save facts about a prepared data set (vocabulary, skipped items) as JSON."""
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_about(folder: Path) -> dict[str, Any]:
    """The facts that `save_about` saved.

    Raises:
        DataError: if it is missing or damaged.
    """
    try:
        return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{folder / ABOUT} is damaged ({reason}); remove {folder} to prepare it again"
        ) from None


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    unfinished = Path(
        tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part")
    )
    try:
        build(unfinished)
        for path in unfinished.iterdir():
            sync(path)
        sync(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _remove_unfinished(folder: Path) -> None:
    """Remove unfinished folders of killed processes: of `folder`, which is locked, and others."""
    for part in folder.parent.glob(".*.part"):
        owner = part.with_name(part.name[1:].rsplit(".", 2)[0])
        if owner == folder:
            shutil.rmtree(part, ignore_errors=True)
            continue
        with contextlib.suppress(BlockingIOError), file_lock(_lock_of(owner), wait=False):
            shutil.rmtree(part, ignore_errors=True)


def _reason(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"
