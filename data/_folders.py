"""Where data sets lie on this machine, and reading from there so that every failure has a name."""

import os
from pathlib import Path

from lastax.data._cache import cache_folder
from lastax.data._errors import DataError

# Where a set may begin below the root: the release of the Long Range Arena nests itself twice.
_LAYERS = ("", "lra_release", "lra_release/lra_release")


def data_folder(root: Path | None = None) -> Path:
    """The one root of all data sets: `root`, else LASTAX_DATA, else `data` in the cache folder."""
    if root is not None:
        return root.expanduser()
    named = os.environ.get("LASTAX_DATA")
    return Path(named).expanduser() if named else cache_folder() / "data"


def find(root: Path, *candidates: str) -> Path | None:
    """The first file or folder below `root` that one of `candidates` names; None if none exists.

    Each is looked for below `root`, `root/lra_release` and `root/lra_release/lra_release`.
    """
    for candidate in candidates:
        for layer in _LAYERS:
            path = root / layer / candidate
            try:
                if path.exists():
                    return path
            except OSError as error:
                raise unreadable(path, error) from None
    return None


def need(root: Path, *candidates: str, cure: str) -> Path:
    """What `find` finds.

    Raises:
        DataError: naming the first candidate and the `cure`, if there is nothing.
    """
    found = find(root, *candidates)
    if found is None:
        raise DataError(f"there is no {root / candidates[0]}; {cure}")
    return found


def list_folder(folder: Path, suffix: str = "") -> list[Path]:
    """What `folder` holds whose name ends in `suffix`, sorted by name.

    Raises:
        DataError: if the folder is missing or cannot be read.
    """
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(suffix)]
    except OSError as error:
        raise unreadable(folder, error) from None


def read_file(path: Path) -> bytes:
    """The bytes of `path`.

    Raises:
        DataError: if the file is missing or cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # one file in 50,000: what `path` adds counts
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> DataError:
    """What to raise where reading `path` raised `error`."""
    return DataError(
        f"{path} cannot be read ({error.strerror}); restore it, or permit reading by chmod"
    )
