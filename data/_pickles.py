"""Pickled uint8 arrays from a stranger, read without running anything that the file names.

A pickle is a program: the usual reader imports and calls whatever it asks for. This one knows the
three names that numpy's arrays need, and even those lead to code of this module alone.
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
    """The dictionary in a pickle of dictionaries, lists, numbers, texts and uint8 arrays.

    Texts of Python 2 are read as Latin-1.

    Raises:
        DataError: the reason, to be put behind the file's name, if it is damaged or asks for
            anything else.
    """
    try:
        content = _Reader(io.BytesIO(packed), encoding="latin1").load()
    except DataError:
        raise
    # Damaged bytes are a random program for the unpickler: it may fail in any way.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"is damaged or no pickle ({reason})") from None
    if not isinstance(content, dict):
        raise DataError("holds no dictionary")
    return {
        key: value.values if isinstance(value, _Array) else value for key, value in content.items()
    }


# In Python, as the one in C takes as much memory as a number in the file says.
class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise DataError(f"asks for {module}.{name}, which no data file needs") from None


class _Type:
    """Stands for `numpy.dtype`: remembers which one."""

    def __init__(self, code: str):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields: nothing that a type of one byte has."""


class _Array:
    """Stands for `numpy.ndarray` until its content comes."""

    values: UInt8[np.ndarray, "..."] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Type) or kind.code not in ("u1", "|u1"):
            raise DataError("holds an array of another type than uint8")
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
    ("numpy", "ndarray"): "the class of arrays, an argument of the above",
    ("numpy", "dtype"): _new_type,
}
