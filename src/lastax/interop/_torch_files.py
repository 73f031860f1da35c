"""Files of `torch.save`, without torch. Both layouts are read: zip files and older pickles."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lastax._errors import RunError
from lastax.interop._unpickling import TORCH_STORAGES, Unpickler, resolved

# The pickled number 0x1950a86a20f9469cfc6c, with which files of the older layout start.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_LOCAL_HEADER_SIZE = 30
# torch.save does not compress. A compressed pickle of this size would be unpacked in memory.
_LARGEST_COMPRESSED = 2**28
_ALIGNMENT = 64
_STORAGE_NAMES = {dtype: name for name, dtype in TORCH_STORAGES.items()}


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file, read from the disk only when they are used."""
    if path.stat().st_size == 0:
        raise RunError("the file is empty")
    return np.memmap(path, np.uint8, "r")


def read_torch_zip(path: Path, archive: zipfile.ZipFile) -> Any:
    """The object in a zip file of `torch.save`, with arrays that are mapped from the file."""
    members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RunError(
            f"a zip file of torch.save has one data.pkl, this one has {len(pickles)}; known zip "
            "files are those of torch.save and npz"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "constants.pkl" in members:
        raise RunError(
            "the file is a TorchScript archive, which holds code; load it with torch.jit.load and "
            "save its state_dict() with torch.save"
        )
    pickled = members[pickles[0]]
    if pickled.compress_type != zipfile.ZIP_STORED and pickled.file_size > _LARGEST_COMPRESSED:
        raise RunError(
            f"{pickles[0]} is compressed and has {pickled.file_size:,} bytes; write the file again "
            "with torch.save"
        )
    big_endian = _text(archive, members, folder + "byteorder") == "big"
    content = mapped(path)

    def fetch(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        member = members.get(f"{folder}data/{key}")
        if member is None or member.file_size < count * dtype.itemsize:
            raise RunError(f"the storage {key} is missing or too short")
        if member.compress_type == zipfile.ZIP_STORED:
            start = _data_start(content, member)
            data = content[start : start + count * dtype.itemsize]
        else:
            # Compressed zeros may be a thousand times as large as the file.
            with archive.open(member) as stream:
                data = np.frombuffer(stream.read(count * dtype.itemsize), np.uint8)
        if len(data) < count * dtype.itemsize:
            raise RunError(f"the storage {key} is truncated")
        return data.view(dtype.newbyteorder(">" if big_endian else "<"))

    return resolved(
        Unpickler(io.BytesIO(archive.read(pickles[0])), fetch).load(), pickled.file_size
    )


def read_torch_legacy(path: Path) -> Any:
    """The object in a file of `torch.save` before version 1.6."""
    content = mapped(path)
    positions: dict[str, int] = {}

    def fetch(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        data = content[positions[key] : positions[key] + count * dtype.itemsize]
        return data.view(dtype.newbyteorder("<"))

    with path.open("rb") as file:
        _, protocol, system = (Unpickler(file).load() for _ in range(3))
        if protocol != 1001 or not system["little_endian"]:
            raise RunError(f"version {protocol} of the torch format is not supported")
        unpickler = Unpickler(file, fetch)
        tree = unpickler.load()
        for key in Unpickler(file).load():
            dtype, needed = unpickler.storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            positions[key] = file.tell()
            if count < needed or positions[key] + count * dtype.itemsize > len(content):
                raise RunError(f"the storage {key} is truncated")
            file.seek(count * dtype.itemsize, io.SEEK_CUR)
    missing = unpickler.storages.keys() - positions.keys()
    if missing:
        raise RunError(f"the storages {', '.join(sorted(missing))} are missing")
    return resolved(tree, len(content))


def write_torch(path: Path, tree: Any) -> bytes:
    """The bytes of a zip file as `torch.save` writes it.

    Args:
        path: where the file will be; its stem names the folder within the zip file.
        tree: nested dictionaries and lists of arrays and plain values.

    Returns:
        Content of the file.
    """
    pickled = _Pickler()
    storages: list[np.ndarray] = []

    def tensor(array: np.ndarray) -> None:
        pickled.tensor(array, str(len(storages)))
        storages.append(np.ascontiguousarray(array))

    pickled.value(tree, tensor)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        folder = path.stem or "archive"
        _add(archive, file, f"{folder}/data.pkl", pickled.content())
        _add(archive, file, f"{folder}/byteorder", b"little")
        for key, array in enumerate(storages):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            _add(archive, file, f"{folder}/data/{key}", little.tobytes())
        _add(archive, file, f"{folder}/version", b"3\n")
    return file.getvalue()


class _Pickler:
    """Writes the pickle of a tree of tensors, which Python's pickler cannot do without torch."""

    def __init__(self) -> None:
        self._parts = [b"\x80\x02"]

    def content(self) -> bytes:
        return b"".join([*self._parts, b"."])

    def value(self, value: Any, tensor: Callable[[np.ndarray], None]) -> None:
        if isinstance(value, np.ndarray):
            tensor(value)
        elif isinstance(value, Mapping):
            self._parts.append(b"ccollections\nOrderedDict\n)R(")
            for key, item in value.items():
                self.value(key, tensor)
                self.value(item, tensor)
            self._parts.append(b"u")
        elif isinstance(value, list):
            self._parts.append(b"](")
            for item in value:
                self.value(item, tensor)
            self._parts.append(b"e")
        elif value is None or isinstance(value, bool | int | float | str):
            # Without the first two bytes (protocol) and the last one (end of the pickle).
            self._parts.append(pickle.dumps(value, protocol=2)[2:-1])
        else:
            raise TypeError(f"{type(value).__name__} cannot be written to a torch file")

    def tensor(self, array: np.ndarray, key: str) -> None:
        if array.dtype.name not in _STORAGE_NAMES:
            raise TypeError(f"torch has no storage for numbers of type {array.dtype.name}")
        storage = _STORAGE_NAMES[array.dtype.name]
        strides = [
            int(np.prod(array.shape[axis + 1 :], dtype=np.int64)) for axis in range(array.ndim)
        ]
        self._parts.append(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        self._plain("storage")
        self._parts.append(f"ctorch\n{storage}\n".encode())
        for part in (key, "cpu", array.size):
            self._plain(part)
        self._parts.append(b"tQ")
        self._plain(0)
        for numbers in (array.shape, strides):
            self._parts.append(b"(")
            for number in numbers:
                self._plain(int(number))
            self._parts.append(b"t")
        self._parts.append(b"\x89ccollections\nOrderedDict\n)RtR")

    def _plain(self, value: str | int) -> None:
        self._parts.append(pickle.dumps(value, protocol=2)[2:-1])


def _add(archive: zipfile.ZipFile, file: io.BytesIO, name: str, content: bytes) -> None:
    """Add a member whose data start at a multiple of 64 bytes, as torch does."""
    member = zipfile.ZipInfo(name)
    start = file.tell() + _LOCAL_HEADER_SIZE + len(name.encode())
    padding = -(start + 4) % _ALIGNMENT
    member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(member, content)


def _text(archive: zipfile.ZipFile, members: Mapping[str, Any], name: str) -> str:
    return archive.read(name).decode("ascii", "replace") if name in members else ""


def _data_start(content: np.ndarray, member: zipfile.ZipInfo) -> int:
    """Position of a member's data, after its header, its name and its extra field."""
    header = bytes(content[member.header_offset : member.header_offset + _LOCAL_HEADER_SIZE])
    if len(header) < _LOCAL_HEADER_SIZE or header[:4] != b"PK\x03\x04":
        raise RunError(f"{member.filename} is damaged")
    name, extra = struct.unpack("<HH", header[26:])
    return member.header_offset + _LOCAL_HEADER_SIZE + name + extra
