"""Arrays kept on disk between runs: what takes seconds to compute once is read back at once.

The cache only ever saves time. A damaged file is computed again, a folder that cannot be
written is done without, and two processes at once write the same bytes over each other whole.
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

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


def cache_folder() -> Path:
    """Where cached arrays live: the environment variable LASTAX_CACHE, or ~/.cache/lastax."""
    return Path(os.environ.get("LASTAX_CACHE") or "~/.cache/lastax").expanduser()


def cached(key: str, compute: Callable[[], Arrays]) -> Arrays:
    """`compute()`, or what an earlier call with this `key` kept of it.

    Whatever the arrays depend on (content, settings, version of the code) belongs in `key`.
    """
    path = cache_folder() / f"{key}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = compute()
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    """The arrays in `path`; None if there is no such file or its checksums do not fit."""
    try:
        # Opened here, as numpy leaves open what it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # numpy and zipfile have no common error for damage, so this lists what they raise.
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """Keep `arrays` in `path`, whole or not at all; without a word if the disk does not let us."""
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
