"""Files of safetensors, NumPy, Flax (msgpack) and Equinox, as nested trees of arrays."""

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import msgpack
import numpy as np

from lastax._errors import RunError
from lastax.interop._torch_files import mapped
from lastax.interop._unpickling import Unpickler, dtype_named, resolved

_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
    "C64": "complex64",
}
# Extension types of `flax.serialization`.
_FLAX_ARRAY, _FLAX_COMPLEX, _FLAX_SCALAR = 1, 2, 3


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped from it."""
    # The library's reader loads all of them, and does not know bfloat16 in NumPy.
    content = mapped(path)
    size = int.from_bytes(bytes(content[:8]), "little")
    start = 8 + size
    if start > len(content):
        raise RunError("the header is truncated")
    header = json.loads(bytes(content[8:start]))
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise RunError(f"{name} has numbers of type {entry['dtype']}, which are not supported")
        dtype = dtype_named(_SAFETENSORS_DTYPES[entry["dtype"]])
        first, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if not 0 <= first <= end <= len(content) - start:
            raise RunError(f"{name} is truncated")
        if end - first != math.prod(shape) * dtype.itemsize:
            raise RunError(f"{name} has {end - first} bytes, which do not fit its shape {shape}")
        arrays[name] = content[start + first : start + end].view(dtype).reshape(shape)
    return arrays


def read_npz(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file."""
    del archive
    with np.load(path, allow_pickle=False) as file:
        return {name: _as_bfloat16(file[name]) for name in file.files}


def read_npy_records(path: Path) -> list[np.ndarray]:
    """The records of a file of `equinox.tree_serialise_leaves`, which has no names."""
    records, size = [], path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            records.append(_as_bfloat16(np.lib.format.read_array(file, allow_pickle=False)))
    return records


def read_msgpack(path: Path) -> Any:
    """The tree in a file of `flax.serialization.to_bytes`."""
    tree = msgpack.unpackb(path.read_bytes(), ext_hook=_flax_value, raw=False, strict_map_key=False)
    return _unchunked(tree)


def write_msgpack(tree: Any) -> bytes:
    """The bytes of `flax.serialization.to_bytes`."""

    def encoded(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            parts = (value.shape, value.dtype.name, value.tobytes())
            return msgpack.ExtType(_FLAX_ARRAY, msgpack.packb(parts))
        raise TypeError(f"{type(value).__name__} cannot be written as msgpack")

    content: bytes = msgpack.packb(tree, default=encoded, strict_types=True)
    return content


def read_pickle(path: Path) -> Any:
    """The tree of arrays in a pickle, which is not executed."""
    with path.open("rb") as file:
        return resolved(Unpickler(file).load(), path.stat().st_size)


def named_records(records: Sequence[np.ndarray], template: Any) -> dict[str, np.ndarray]:
    """The records of an Equinox file under the names of a template's leaves.

    Args:
        records: all records of the file.
        template: the tree that was saved, or one of the same structure.

    Raises:
        RunError: if the number of leaves or a shape differs.
    """
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(template)
        if isinstance(
            leaf,
            jax.Array | np.ndarray | np.generic | bool | int | float | complex
            | jax.ShapeDtypeStruct,
        )
    ]  # fmt: skip
    if len(leaves) != len(records):
        raise RunError(f"the file has {len(records)} records, the template {len(leaves)} leaves")
    for (name, leaf), record in zip(leaves, records, strict=True):
        if np.shape(leaf) != record.shape:
            raise RunError(
                f"{name} is {record.shape} in the file, {np.shape(leaf)} in the template"
            )
    return {name: record for (name, _), record in zip(leaves, records, strict=True)}


def _flax_value(code: int, data: bytes) -> Any:
    if code in (_FLAX_ARRAY, _FLAX_SCALAR):
        shape, dtype, content = msgpack.unpackb(data, raw=False)
        return np.frombuffer(content, dtype_named(dtype)).reshape(shape)
    if code == _FLAX_COMPLEX:
        real, imaginary = msgpack.unpackb(data)
        return complex(real, imaginary)
    raise RunError(f"the msgpack extension type {code} is not one of Flax")


def _unchunked(node: Any) -> Any:
    """Join arrays that Flax has cut into pieces of 1 GiB."""
    if not isinstance(node, dict):
        return node
    if not node.get("__msgpack_chunked_array__"):
        return {key: _unchunked(value) for key, value in node.items()}
    shape, chunks = (
        [part[str(i)] for i in range(len(part))] for part in (node["shape"], node["chunks"])
    )
    return np.concatenate(chunks).reshape(shape)


def _as_bfloat16(array: np.ndarray) -> np.ndarray:
    """NumPy's own files store bfloat16 as numbers of an unknown type of two bytes."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        return array.view(ml_dtypes.bfloat16)
    return array
