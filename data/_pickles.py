"""Safe reading of pickled uint8 arrays from untrusted files.

A pickle is a program: the standard reader imports and calls anything that the file names. This
reader accepts only the three names that numpy arrays need, and maps them to code in this module.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from lastax.data._errors import DataError


def read_pickle(packed: bytes) -> dict[Any, Any]:
    """Read a pickled dictionary of dictionaries, lists, numbers, strings and uint8 arrays.

    Python 2 strings are decoded as Latin-1.

    Raises:
        DataError: if the pickle is damaged or names anything else. The message is the reason
            alone; callers prepend the file name.
    """
    try:
        content = _Reader(io.BytesIO(packed), encoding="latin1").load()
    except DataError:
        raise
    # Damaged bytes are a random program for the unpickler, which can raise anything.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"is damaged or not a pickle ({reason})") from None
    if not isinstance(content, dict):
        raise DataError("does not hold a dictionary")
    return {
        key: value.values if isinstance(value, _Array) else value for key, value in content.items()
    }


# The Python implementation, because the one in C allocates any size that the file asks for.
class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise DataError(f"names {module}.{name}, which is not allowed in a data file") from None


class _Type:
    """Replaces `numpy.dtype`; stores the type code."""

    def __init__(self, code: str):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and fields, which one-byte types do not have."""


class _Array:
    """Replaces `numpy.ndarray`."""

    values: UInt8[np.ndarray, "..."] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Type) or kind.code not in ("u1", "|u1"):
            raise DataError("holds an array that is not uint8")
        if isinstance(content, str):
            content = content.encode("latin1")
        if by_columns or len(content) != math.prod(shape):
            raise DataError(f"holds {len(content)} bytes for an array of shape {shape}")
        self.values = np.frombuffer(content, np.uint8).reshape(shape)


def _new_array(*arguments: Any) -> _Array:
    del arguments
    return _Array()


def _new_type(code: str, *arguments: Any) -> _Type:
    del arguments
    return _Type(code)


_KNOWN: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): "the array class, an argument of _reconstruct",
    ("numpy", "dtype"): _new_type,
}
