"""Reading pickles without executing them.

A pickle is a program that may call any importable function. This unpickler knows the functions
that build tensors, NumPy and JAX arrays and ordered dictionaries. It replaces them by its own,
and refuses every other name.
"""

import collections
import io
import math
import pickle
import struct
from collections.abc import Callable
from io import BufferedIOBase
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from lastax._errors import RunError

# Names of the classes of storages, and the dtypes of their numbers.
TORCH_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
# The number of values that a pickle of any size may have.
_MOST_VALUES = 1_000_000
# Storages of a torch file by their persistent identifier: dtype, key and number of elements.
FetchStorage = Callable[[np.dtype, str, int], np.ndarray]


def dtype_named(name: str) -> np.dtype:
    """A numeric dtype by its NumPy name, `bfloat16` included.

    Raises:
        RunError: if the name is unknown or is not that of numbers.
    """
    try:
        dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    except TypeError as error:
        raise RunError(f"numbers of type {name!r} are not supported") from error
    if dtype.kind not in "biufc" and dtype != ml_dtypes.bfloat16:
        raise RunError(f"numbers of type {name!r} are not supported")
    return dtype


class PickledTensor:
    """A tensor whose storage is read later; old torch files store the numbers at their end."""

    def __init__(
        self, storage: Callable[[], np.ndarray], offset: Any, size: Any, stride: Any
    ) -> None:
        self.storage, self.offset = storage, offset
        self.size, self.stride = size, stride
        self.conjugate = False

    def array(self) -> np.ndarray:
        """The tensor as a read-only view of its storage."""
        storage = self.storage()
        # Checked here and not before: a pickle can change the attributes of its objects.
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(type(n) is not int or n < 0 for n in numbers):
            raise RunError(f"a tensor of size {self.size!r} and stride {self.stride!r} is damaged")
        if not isinstance(storage, np.ndarray) or storage.ndim != 1:
            raise RunError("a tensor without a storage is damaged")
        count = math.prod(self.size)
        last = self.offset + sum(
            (n - 1) * step for n, step in zip(self.size, self.stride, strict=True)
        )
        if count and (last >= len(storage) or count > len(storage)):
            raise RunError(
                f"a tensor of size {self.size} does not fit its storage of {len(storage)} elements"
            )
        if not count:
            return np.zeros(self.size, storage.dtype)
        strides = [step * storage.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(
            storage[self.offset :], self.size, strides, writeable=False
        )
        return view.conj() if self.conjugate else view


class _PickledDtype:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.dtype = dtype_named(str(code))

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", "<"):
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """Stands in for a NumPy array."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, fortran, data = state
        if not isinstance(dtype, _PickledDtype) or not isinstance(data, bytes):
            raise RunError("an array of Python objects is not supported")
        array = np.frombuffer(data, dtype.dtype)
        self.value = array.reshape(shape, order="F" if fortran else "C")


class _BoundedFile:
    """A file that does not allocate more bytes than it has left, whatever a pickle asks for."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        position = file.tell()
        self._size = file.seek(0, io.SEEK_END)
        file.seek(position)
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        left = self._size - self._file.tell()
        if count > max(left, 1):
            raise RunError(
                f"the pickle is damaged or truncated: it states {count:,} bytes, {left:,} are left"
            )
        return self._file.read(count)


# The Python implementation, because the one in C allocates a memo of any size.
class Unpickler(pickle._Unpickler):
    """Unpickles tensors, arrays, containers and plain values, and refuses everything else."""

    def __init__(self, file: BufferedIOBase, fetch: FetchStorage | None = None) -> None:
        super().__init__(_BoundedFile(file))
        self._fetch = fetch
        # Dtype and largest number of elements of each storage that the pickle uses.
        self.storages: dict[str, tuple[np.dtype, int]] = {}
        self._known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._first,
            ("torch", "Size"): self._tuple,
            ("torch", "device"): self._first,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("flax.core.frozen_dict", "FrozenDict"): self._first,
            ("numpy", "dtype"): self._dtype,
            ("numpy", "ndarray"): "ndarray",
            ("ml_dtypes", "bfloat16"): "bfloat16",
            ("jax._src.array", "_reconstruct_array"): self._jax_array,
            ("_codecs", "encode"): self._encoded,
        }
        for package in ("numpy.core", "numpy._core"):
            self._known |= {
                (f"{package}.multiarray", "_reconstruct"): self._array,
                (f"{package}.multiarray", "scalar"): self._scalar,
                (f"{package}.numeric", "_frombuffer"): self._from_buffer,
            }

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def _load_bytearray(self: Any) -> None:
        # The original allocates before it reads.
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name, if it is known."""
        if module == "torch" and name in TORCH_STORAGES:
            # A string, which a pickle cannot change.
            return TORCH_STORAGES[name]
        if module == "torch" and name in TORCH_STORAGES.values():
            return name
        if (module, name) not in self._known:
            raise RunError(
                f"the pickle asks for {module}.{name}, which is neither an array nor a plain "
                "value; nothing was executed. Save only the state dict or the parameters"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Callable[[], np.ndarray]:
        """The storage of a tensor."""
        match pid:
            case ("storage", str(name), str(key), _, int(count), *view) if count >= 0:
                dtype = dtype_named(name)
                if self._fetch is None or any(part is not None for part in view):
                    raise RunError("a view of a storage is not supported; save the file again")
                fetch = self._fetch
                self.storages[key] = (dtype, max(count, self.storages.get(key, (dtype, 0))[1]))
                return lambda: fetch(dtype, key, count)
        raise RunError(f"the pickle refers to {str(pid)[:60]}, which is not a storage of numbers")

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> PickledTensor:
        # After `requires_grad` and hooks, newer versions store flags of the tensor.
        flags = rest[2] if len(rest) > 2 and rest[2] else {}
        if not set(flags) <= {"conj"}:
            raise RunError(f"a tensor with {', '.join(map(str, flags))} is not supported")
        if not callable(storage):
            raise RunError("a tensor without a storage is not supported")
        tensor = PickledTensor(storage, offset, size, stride)
        tensor.conjugate = bool(flags.get("conj"))
        return tensor

    def _first(self, value: Any, *rest: Any) -> Any:
        return value

    def _tuple(self, values: Any) -> tuple[Any, ...]:
        return tuple(values)

    def _dtype(self, *arguments: Any) -> _PickledDtype:
        return _PickledDtype(*arguments)

    def _array(self, *arguments: Any) -> PickledArray:
        return PickledArray()

    def _scalar(self, dtype: _PickledDtype, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype.dtype).reshape(())

    def _from_buffer(self, data: Any, dtype: _PickledDtype, shape: Any, order: str) -> PickledArray:
        if not isinstance(data, bytes | bytearray):
            raise RunError("an array without bytes is damaged")
        array = PickledArray()
        array.__setstate__((1, shape, dtype, order == "F", bytes(data)))
        return array

    def _jax_array(self, build: Any, arguments: Any, state: Any, *rest: Any) -> PickledArray:
        array = PickledArray()
        array.__setstate__(state)
        return array

    def _encoded(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise RunError(f"text in the encoding {encoding!r} is not supported")
        return text.encode("latin1")


def resolved(node: Any, size: int) -> Any:
    """A tree with NumPy arrays in place of `PickledTensor` and `PickledArray`.

    Args:
        node: the tree.
        size: number of bytes of the pickle.

    Raises:
        RunError: if the tree has more values than bytes. A small pickle can repeat its parts.
    """
    most = left = max(_MOST_VALUES, size)

    def visit(node: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RunError(
                f"the pickle repeats its parts to more than {most:,} values; save only the state "
                "dict or the parameters"
            )
        if isinstance(node, PickledTensor):
            return node.array()
        if isinstance(node, PickledArray):
            return node.value
        if isinstance(node, dict):
            return {key: visit(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [visit(value) for value in node]
        return node

    return visit(node)
