"""A zip archive of data, read whole, whose every failure is one clear DataError."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lastax.data._errors import DataError

# Damage to a zip file shows as any of these, depending on the bytes that it hit. RuntimeError
# includes NotImplementedError: an unknown way of compression.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class Archive:
    """The content of a zip file. Two archives are equal if their bytes are.

    `cure` is what an error message tells its reader to do.
    """

    digest: str
    path: Path = field(compare=False)
    cure: str = field(compare=False)
    content: bytes = field(compare=False, repr=False)

    def names(self) -> tuple[str, ...]:
        """The names of all members, sorted."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
                return tuple(sorted(archive.namelist()))
        except _DAMAGE as error:
            raise DataError(f"{self.path} is damaged ({error}); {self.cure}") from None

    def read(self, *names: str) -> list[bytes]:
        """The bytes of the members `names`, checked against the archive's own checksums."""
        found = []
        for content in self.attempt(*names):
            if isinstance(content, DataError):
                raise content
            found.append(content)
        return found

    def attempt(self, *names: str) -> Iterator[bytes | DataError]:
        """As `read`, one after the other, and what is wrong with a member in its place."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            for name in names:
                try:
                    yield archive.read(name)
                except KeyError:
                    yield DataError(f"{self.path} has no {name}; {self.cure}")
                except _DAMAGE as error:
                    yield DataError(f"{self.member(name)} is damaged ({error}); {self.cure}")

    def member(self, name: str) -> str:
        """`name` as an error message writes it: with the archive that holds it."""
        return f"{name} in {self.path}"


def open_archive(path: Path, *, cure: str) -> Archive:
    """Read the zip file `path` into memory. `cure`: what to do if it, or a part, is unreadable."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no archive {path}; {cure}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {cure}") from None
    return Archive(hashlib.sha256(content).hexdigest(), path, cure, content)
