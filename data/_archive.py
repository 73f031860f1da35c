"""Zip archives held in memory. Every failure is a `DataError`."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lastax.data._errors import DataError

# A damaged zip file can raise any of these. RuntimeError includes NotImplementedError, which
# unknown compression methods raise.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class Archive:
    """The content of a zip file. Two archives are equal if their bytes are equal.

    Attributes:
        digest: SHA-256 of the content.
        path: where it was read from.
        hint: what error messages tell the reader to do.
        content: all bytes of the file.
    """

    digest: str
    path: Path = field(compare=False)
    hint: str = field(compare=False)
    content: bytes = field(compare=False, repr=False)

    def names(self) -> tuple[str, ...]:
        """Sorted names of all members."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
                return tuple(sorted(archive.namelist()))
        except _DAMAGE as error:
            raise DataError(f"{self.path} is damaged ({error}); {self.hint}") from None

    def read(self, *names: str) -> list[bytes]:
        """Contents of the members `names`, checked against the checksums of the archive.

        Raises:
            DataError: if a member is missing or damaged.
        """
        found = []
        for content in self.attempt(*names):
            if isinstance(content, DataError):
                raise content
            found.append(content)
        return found

    def attempt(self, *names: str) -> Iterator[bytes | DataError]:
        """Like `read`, one member at a time; yields the error of a bad member in its place."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            for name in names:
                try:
                    yield archive.read(name)
                except KeyError:
                    yield DataError(f"{self.path} has no member {name}; {self.hint}")
                except _DAMAGE as error:
                    yield DataError(f"{self.member(name)} is damaged ({error}); {self.hint}")

    def member(self, name: str) -> str:
        """`name` and the path of the archive, for error messages."""
        return f"{name} in {self.path}"


def open_archive(path: Path, *, hint: str) -> Archive:
    """Read the zip file `path` into memory.

    Args:
        path: the zip file.
        hint: what error messages tell the reader to do.

    Raises:
        DataError: if the file is missing or unreadable.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"archive not found: {path}; {hint}") from None
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); {hint}") from None
    return Archive(hashlib.sha256(content).hexdigest(), path, hint, content)
