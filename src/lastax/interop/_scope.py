"""The arrays below one path of a file, with checks of names, shapes and values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

import numpy as np

from lastax._errors import RunError


class NotRepresentableError(Exception):
    """The file holds something that lastax has no module for."""


class Scope:
    """Arrays below one path.

    Sizes are checked by the names of axes: the first array with an axis `H` determines `H` for
    this scope and its children.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        path: str = "",
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.arrays, self.path = arrays, path
        self.sizes = dict(sizes or {})

    def child(self, path: str) -> Scope:
        """The arrays below a relative path."""
        return Scope(self.arrays, self._full(path), self.sizes)

    def __contains__(self, name: str) -> bool:
        return self._full(name) in self.arrays

    def names(self) -> list[str]:
        """Relative names of all arrays."""
        start = f"{self.path}." if self.path else ""
        return [name.removeprefix(start) for name in self.arrays if name.startswith(start)]

    def numbered(self, pattern: str) -> range:
        """The numbers of repeated parts, such as the layers.

        Args:
            pattern: regular expression for the start of a relative name, with a group for the
                number.

        Raises:
            RunError: if numbers are missing.
        """
        matches = (re.match(pattern, name) for name in self.names())
        found = {int(match[1]) for match in matches if match}
        if found != set(range(len(found))):
            raise RunError(f"{self._full(pattern)}: the file has only the numbers {sorted(found)}")
        return range(len(found))

    def take(self, name: str, *axes: str | int) -> np.ndarray:
        """An array of finite numbers, at least in float32.

        Args:
            name: relative name.
            *axes: the size of each axis, or its name.

        Raises:
            RunError: if the array is missing, has another shape, or values are not finite.
        """
        full = self._full(name)
        if full not in self.arrays:
            raise RunError(f"{full} is missing; {self._nearest(full)}")
        array = self.arrays[full]
        shape = array.shape
        sizes = dict(self.sizes)
        if len(shape) == len(axes):
            for axis, size in zip(axes, shape, strict=True):
                if isinstance(axis, str):
                    sizes.setdefault(axis, size)
        wanted = tuple(sizes.get(axis) if isinstance(axis, str) else axis for axis in axes)
        if shape != wanted:
            given = ", ".join(f"{axis} = {size}" for axis, size in self.sizes.items())
            expected = ", ".join(str(axis) for axis in axes)
            raise RunError(
                f"{full} has shape {shape}, expected ({expected})" + (given and f" with {given}")
            )
        self.sizes = sizes
        return self._finite(full, array)

    def optional(self, name: str, *axes: str | int) -> np.ndarray | None:
        """As `take`, or None if there is no array of this name."""
        return self.take(name, *axes) if name in self else None

    def complex(self, name: str, *axes: str | int) -> np.ndarray:
        """Complex numbers as real pairs on a new last axis; they may be stored as such pairs."""
        full = self._full(name)
        if full in self.arrays and not np.iscomplexobj(self.arrays[full]):
            return self.take(name, *axes, 2)
        array = self.take(name, *axes)
        return np.stack([array.real, array.imag], axis=-1)

    def _finite(self, full: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind in "SUOMm" or array.dtype.itemsize > np.dtype(np.complex128).itemsize:
            raise RunError(f"{full} has values of type {array.dtype}, which lastax cannot read")
        kind = np.complex64 if np.iscomplexobj(array) else np.float32
        # Numbers of 16 bits become float32 without loss; double precision stays.
        array = np.asarray(array, np.result_type(kind, array.dtype.newbyteorder("=")))
        wrong = np.size(array) - np.count_nonzero(np.isfinite(array))
        if wrong:
            raise RunError(f"{full} has {wrong} values that are not finite, of {array.size}")
        return array

    def _full(self, name: str) -> str:
        return ".".join(part for part in (self.path, name) if part)

    def _nearest(self, full: str) -> str:
        near = difflib.get_close_matches(full, self.arrays, n=3, cutoff=0.3)
        return f"nearest names in the file: {', '.join(near)}" if near else "the file has no arrays"
