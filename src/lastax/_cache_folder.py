"""The folder of everything that can be computed again."""

import os
from pathlib import Path

from lastax._errors import DataError


def cache_folder() -> Path:
    """Folder of the cache: the environment variable LASTAX_CACHE, or `~/.cache/lastax`.

    Raises:
        DataError: if there is no such home folder.
    """
    return with_home(os.environ.get("LASTAX_CACHE") or "~/.cache/lastax")


def with_home(path: str | Path) -> Path:
    """A path with the home folder in place of `~` or `~USER`.

    Raises:
        DataError: if there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path}: there is no such home folder; pass the complete path") from None
