"""The folder of everything that can be computed again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder of the cache: the environment variable LASTAX_CACHE, or `~/.cache/lastax`."""
    return Path(os.environ.get("LASTAX_CACHE") or "~/.cache/lastax").expanduser()
