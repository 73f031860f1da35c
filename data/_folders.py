"""Locations of data sets, and file access that raises `DataError`."""

import os
from pathlib import Path

from lastax._cache_folder import cache_folder, with_home
from lastax.data._errors import DataError

# Folders below the root that may hold a data set. The Long Range Arena release is nested twice.
_LAYERS = ("", "lra_release", "lra_release/lra_release")


def data_folder(root: Path | None = None) -> Path:
    """Folder that holds all data sets.

    `root` if given, else the environment variable LASTAX_DATA, else `data` in the cache folder.
    """
    if root is not None:
        return with_home(root)
    named = os.environ.get("LASTAX_DATA")
    return with_home(named) if named else cache_folder() / "data"


def find(root: Path, *candidates: str, is_file: bool = False) -> Path | None:
    """The first of `candidates` (relative paths) that exists, or None; with `is_file`, as a file.

    The search covers `root`, `root/lra_release` and `root/lra_release/lra_release`.
    """
    for candidate in candidates:
        for layer in _LAYERS:
            path = root / layer / candidate
            try:
                if path.is_file() if is_file else path.exists():
                    return path
            except OSError as error:
                raise unreadable(path, error) from None
    return None


def need(root: Path, *candidates: str, hint: str, is_file: bool = False) -> Path:
    """Like `find`, but required.

    Raises:
        DataError: if no candidate exists. The message names the first one, then `hint`.
    """
    found = find(root, *candidates, is_file=is_file)
    if found is None:
        raise DataError(f"not found: {root / candidates[0]}; {hint}")
    return found


def list_folder(folder: Path, suffix: str = "") -> list[Path]:
    """Paths in `folder` whose names end in `suffix`, sorted by name.

    Names that begin with a dot are left out: macOS adds a file `._NAME` to each file that it copies
    to other disks.

    Raises:
        DataError: if the folder is missing or cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise unreadable(folder, error) from None
    return [folder / name for name in names if name.endswith(suffix) and not name.startswith(".")]


def read_file(path: Path) -> bytes:
    """The bytes of `path`.

    Raises:
        DataError: if the file is missing or cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # faster than Path.read_bytes for 50,000 files
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> DataError:
    """The error to raise if reading `path` raised `error`."""
    return DataError(f"cannot read {path} ({error.strerror}); restore it or fix its permissions")
