"""Atomic writing of files and folders: readers and crashes never see a partial one."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lastax._errors import RunError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, which holds either all of it or its earlier content.

    A link is followed, and an existing file keeps its permissions. Pipes and devices are written to
    directly.
    """
    path, temporary = Path(path), None
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(content)
            return
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_at_once(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends without an error.

    Args:
        path: where the folder appears.
        replace: replace an existing folder, which is removed only after the new one is complete.

    Raises:
        RunError: if `path` exists and `replace` is false, or if it cannot be written.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise RunError(f"{path} already exists: choose another folder, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    try:
        fresh = workplace / "new"
        fresh.mkdir()
        yield fresh
        old = workplace / "old"
        try:
            if replace and path.exists():
                path.rename(old)
            fresh.rename(path)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        finally:
            # An interrupt may come at any time.
            if os.path.lexists(old) and not os.path.lexists(path):
                old.rename(path)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
