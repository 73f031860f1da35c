"""Atomic creation of files and folders, and locks between processes."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lastax.data._errors import DataError


@contextlib.contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder next to `target`, locked for this process.

    Other processes that create the same target wait until the block ends, so check inside the
    block whether `target` exists by now. `publish` moves the result to its place. The folder is
    removed afterwards; the next call also removes what a killed process left behind.

    Raises:
        DataError: if the block raises OSError, for example because the disk is full.
    """
    staging = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(target.with_name(f".{target.name}.lock")):
            try:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir()
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise unwritable(target, error) from error


def publish(made: Path, target: Path) -> None:
    """Flush `made`, a file or folder on the same disk, and rename it to `target`.

    An existing file or empty folder is replaced. A folder with content is not.
    """
    # Without this, a power failure could leave the name without the content. One call for all
    # files, because syncing each of 50,000 files takes minutes.
    os.sync()
    made.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush `path` to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_lock(lock: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on the file `lock`, which exists only while it is locked.

    The operating system releases the lock if the process dies.

    Raises:
        BlockingIOError: if another process holds the lock and `wait` is false.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The last holder may have removed the file while this process was waiting.
            if _is_file(descriptor, lock):
                try:
                    yield
                    return
                finally:
                    lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def exists(target: Path) -> bool:
    """Whether `target` is a file or a folder that is not empty."""
    return any(target.iterdir()) if target.is_dir() else target.exists()


def unwritable(target: Path, error: OSError) -> DataError:
    """The error to raise if writing `target` raised `error`."""
    return DataError(
        f"cannot write {target} ({error.strerror or error}); free disk space, fix the "
        "permissions, or choose another folder with --data-dir or LASTAX_DATA"
    )


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
