"""The log of a training: one JSON record per line."""

import json
import os
from pathlib import Path

import jax

from lastax._typing import Record


class Log:
    """A file of records. With several processes, only the first one writes to it."""

    def __init__(self, path: Path) -> None:
        """The log in the file `path`. The first record creates the file."""
        self._path, self._writes = path, jax.process_index() == 0

    def append(self, record: Record) -> int:
        """Write a record, and wait until it is on the disk.

        Returns:
            The size of the file in bytes, or 0 in a process that does not write.
        """
        if not self._writes:
            return 0
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def truncate(self, size: int) -> None:
        """Remove what was written after the first `size` bytes."""
        if self._writes:
            with self._path.open("ab") as file:
                file.truncate(min(size, file.tell()))
