"""The lock of a run: only one process at a time may train it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lastax._errors import RunError


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of an existing folder until the block ends, or until the process ends.

    Nothing is written. Windows, and file systems without locks, do not detect a second process.

    Raises:
        RunError: if another process holds the lock.
    """
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Closing alone would leave the lock to forked processes.
            stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
        except BlockingIOError:
            raise RunError(
                f"another process is training the run {folder}: wait until it ends, or choose "
                "another folder"
            ) from None
        except (ImportError, OSError):
            pass
        yield
