"""Misfortunes that tests ask for: full disks, missing rights."""

import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Limit = Callable[[Path, int], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def _small_files(folder: Path, size: int) -> Iterator[None]:
    del folder
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["disk", "files"])
def full_disk(request: pytest.FixtureRequest) -> tuple[Limit, str]:
    """A context, for a folder and a size, in which no more than that can be written.

    With what the system then says: a disk of its own, or, where none may be mounted, a limit on
    the size of files.
    """
    if request.param == "disk":
        return _small_disk, "No space left on device"
    return _small_files, "File too large"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that anyone may use, and no special rights while the test runs."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(was)
            for folder, _, _ in os.walk(name):
                os.chmod(folder, 0o700)
