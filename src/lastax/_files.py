"""Writing so that a reader, or a crash, never meets half of a file or folder."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lastax._errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`, which holds either all of it or what it held before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_at_once(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill, which appears at `path` when the block ends without an error.

    Raises:
        RunError: if `path` is there already and `replace` is false, or cannot be written.
    """
    if path.exists() and not replace:
        raise RunError(f"{path} is there already: choose another --out, or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
