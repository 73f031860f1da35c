"""Files and folders that appear whole or not at all, and processes that wait for each other."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lastax.data._errors import DataError


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` to make it in, for this process alone.

    Another process that wants to make the same waits for the end of the block: look for `target`
    inside. The folder is gone afterwards; what a killed process left in one is removed by the
    next. `finish` moves what was made to its place.

    Raises:
        DataError: if an OSError leaves the block: the folder cannot be written, the disk is full.
    """
    workshop = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target.with_name(f".{target.name}.lock")):
            try:
                shutil.rmtree(workshop, ignore_errors=True)
                workshop.mkdir()
                yield workshop
            finally:
                shutil.rmtree(workshop, ignore_errors=True)
    except OSError as error:
        raise unwritable(target, error) from error


def finish(made: Path, target: Path) -> None:
    """Give `made`, a file or folder on the same disk, its name `target`, once it is on the disk.

    A file is replaced; so is an empty folder, but no other.
    """
    # Else a power cut could leave the name without the content. One call for all files: waiting
    # for each of 50,000 takes minutes.
    os.sync()
    made.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(lock: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold `lock`, a file that exists only meanwhile. The system frees it if the process dies.

    Raises:
        BlockingIOError: if another process holds it and `wait` is false.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Its last holder may have removed the file while this process waited for it.
            if _is_file(descriptor, lock):
                try:
                    yield
                    return
                finally:
                    lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def exists(target: Path) -> bool:
    """Whether `target` is there: a file, or a folder that holds something."""
    return any(target.iterdir()) if target.is_dir() else target.exists()


def unwritable(target: Path, error: OSError) -> DataError:
    """What to raise where making `target` raised `error`."""
    return DataError(
        f"{target} cannot be written ({error.strerror or error}); make room or permit writing "
        "there, or name another folder by --data-dir or LASTAX_DATA"
    )


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
