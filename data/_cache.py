"""A disk cache of arrays that are slow to compute.

The cache only saves time. A damaged file is computed again, a folder that cannot be written is
ignored, and two processes that write the same file at once replace it atomically.
"""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from lastax._cache_folder import cache_folder as cache_folder

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


def cached(key: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return `compute()`, or the cached result of an earlier call with the same `key`.

    `key` must identify everything that the arrays depend on: content, settings, code version.
    """
    path = cache_folder() / f"{key}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = compute()
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    """The arrays in `path`, or None if the file is missing or damaged."""
    try:
        # Opened here, because numpy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # numpy and zipfile have no common exception for damaged files.
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """Write `arrays` to `path` atomically. Errors of the disk are ignored."""
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            unfinished = file.name
            np.savez(file, allow_pickle=False, **dict[str, Any](arrays))
        os.replace(unfinished, path)
    except OSError:
        if unfinished is not None:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
