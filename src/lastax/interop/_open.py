"""Opening a file of any known kind."""

import pickle
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgpack

from lastax._errors import RunError
from lastax.interop._contents import Contents, contents_of
from lastax.interop._discretax_records import discretax_names
from lastax.interop._orbax_folders import read_orbax
from lastax.interop._other_files import (
    named_records,
    read_msgpack,
    read_npy_records,
    read_npz,
    read_pickle,
    read_safetensors,
)
from lastax.interop._torch_files import LEGACY_MAGIC, read_torch_legacy, read_torch_zip

# Files that are easily taken for checkpoints, by their first bytes.
_NO_CHECKPOINTS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"<": "a web page or XML; download the file again",
    b"\x1f\x8b": "compressed with gzip; unpack it",
}

# What the libraries raise for damaged files.
_DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError),
    *(MemoryError, RecursionError, ArithmeticError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, pickle.UnpicklingError, msgpack.UnpackException, struct.error),
    *(zlib.error, SyntaxError, tokenize.TokenError),
)


def open_contents(path: str | Path, template: Any = None) -> Contents:
    """Read the arrays and plain values of a file or folder. No code from the file is executed.

    The kind is recognized from the first bytes: files of `torch.save` (both layouts), safetensors,
    `.npz`, msgpack of Flax, pickles of arrays, folders of Orbax, and files of
    `equinox.tree_serialise_leaves`.

    Args:
        path: the file or folder.
        template: for Equinox files, the tree that was saved or one of the same structure. Without
            it, the file must be that of a model of discretax.

    Returns:
        The contents.

    Raises:
        RunError: if the file is missing, damaged, of no known kind, or asks for code.
    """
    path = Path(path)
    try:
        return _open(path, template)
    except RunError as error:
        raise RunError(f"read: {path}: {error}") from error
    except FileNotFoundError as error:
        raise RunError(f"read: there is no file {path}") from error
    except _DAMAGED as error:
        raise RunError(f"read: {path} is damaged or truncated: {error}") from error


def _open(path: Path, template: Any) -> Contents:
    if path.is_dir():
        return contents_of("orbax", read_orbax(path))
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise RunError("the file is empty")
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if names and all(name.endswith(".npy") for name in names):
                return contents_of("npz", read_npz(path, archive))
            return contents_of("torch", read_torch_zip(path, archive))
    if start.startswith(LEGACY_MAGIC):
        return contents_of("torch", read_torch_legacy(path))
    if start.startswith(b"\x93NUMPY"):
        records = read_npy_records(path)
        if template is not None:
            return contents_of("equinox", named_records(records, template))
        return contents_of("equinox", discretax_names(records))
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return contents_of("safetensors", read_safetensors(path))
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return contents_of("pickle", read_pickle(path))
    if 0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF):
        return contents_of("msgpack", read_msgpack(path))
    if path.suffix in (".pkl", ".pickle"):
        return contents_of("pickle", read_pickle(path))
    for first, kind in _NO_CHECKPOINTS.items():
        if start.startswith(first):
            raise RunError(f"the file is {kind}")
    raise RunError(
        f"the file starts with {start[:8]!r}, which is no known kind; known are torch.save, "
        "safetensors, npz, Flax msgpack, pickle, Orbax and Equinox"
    )
