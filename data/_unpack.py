"""Safe unpacking of archives from untrusted sources.

Nothing is written outside the target folder. Paths that lead out of it, links and devices are
refused. Limits apply to the actual content, not to the sizes that the archive declares.
"""

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from lastax.data._errors import DataError

Progress = Callable[[int, int], None]

_CHUNK = 2**20  # bytes
_LARGEST_NOTE = (
    2**20
)  # bytes of an extended header (such as a long name), which tarfile holds in memory
_NOTES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# A damaged archive can raise any of these. BadGzipFile is an OSError. RuntimeError includes
# NotImplementedError, which unknown compression methods raise.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on the content of an archive. The defaults exceed all registered data sets by far.

    Attributes:
        members: number of files and folders.
        size: total bytes of all files.
    """

    members: int = 5_000_000
    size: int = 64 * 2**30


LIMITS = Limits()


@runtime_checkable
class _Content(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class _Member:
    """An entry of an archive. `kind` describes entries that are neither files nor folders."""

    name: str
    kind: str | None
    content: _Content | None  # None for a folder


def unpack(
    archive: Path,
    folder: Path,
    name: str,
    *,
    limits: Limits = LIMITS,
    on_progress: Progress | None = None,
) -> Path:
    """Unpack `archive` into the empty `folder` and return the file or folder called `name`.

    If the archive holds a single file or folder with this name, that is the result. Otherwise it
    is `folder`, because some archives have no top-level folder. A single compressed file gets the
    name `name`. The format (tar, tar.gz, zip or gz) is detected from the content.

    Args:
        archive: the archive.
        folder: an existing empty folder. Its content is undefined after an error.
        name: name of the file or folder of the data set.
        limits: limits on the content.
        on_progress: called with the number of bytes of the archive read and the total.

    Raises:
        DataError: if the archive is damaged, has an unknown format, or has forbidden content.
        OSError: if `folder` cannot be written.
    """
    try:
        with archive.open("rb") as file:
            _write_all(_members(file, name), file, folder, limits, on_progress)
    except _RefusedError as refused:
        raise DataError(
            f"refused to unpack {archive}: {refused}; get it from another source"
        ) from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{archive} is damaged ({reason}); remove it and download it again"
        ) from None
    made = list(folder.iterdir())
    if not made:
        raise DataError(f"{archive} is empty; remove it and download it again")
    return made[0] if [path.name for path in made] == [name] else folder


class _RefusedError(Exception):
    """Forbidden content of an archive."""


def _write_all(
    members: Iterator[_Member],
    file: io.BufferedReader,
    folder: Path,
    limits: Limits,
    on_progress: Progress | None,
) -> None:
    total = file.seek(0, 2)
    file.seek(0)
    room = limits.size
    for number, member in enumerate(members, start=1):
        if number > limits.members:
            raise _RefusedError(f"it has more than {limits.members:,} entries")
        path = folder / _safe(member)
        if member.content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(member.content) as content, path.open("wb") as copy:
            # Reading one byte beyond the limit detects that it is exceeded.
            while chunk := content.read(min(_CHUNK, room + 1)):
                room -= len(chunk)
                if room < 0:
                    raise _RefusedError(f"its files exceed {limits.size:,} bytes")
                copy.write(chunk)
                if on_progress is not None:
                    on_progress(min(file.tell(), total), total)


def _safe(member: _Member) -> PurePosixPath:
    """Path of a member inside the folder."""
    path = PurePosixPath(member.name)
    if member.kind is not None:
        raise _RefusedError(f"{member.name!r} is {member.kind}")
    if path.is_absolute() or ".." in path.parts:
        raise _RefusedError(f"{member.name!r} leads out of the folder")
    if not path.parts and member.content is not None:
        raise _RefusedError("a file has no name")
    return path


def _members(file: io.BufferedReader, name: str) -> Iterator[_Member]:
    """The entries of an archive. `name` is the name of a single compressed file."""
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"PK"):
        return _zip_members(file)
    if start.startswith(b"\x1f\x8b"):
        with gzip.open(file) as stream:
            inner = stream.read(512)
        file.seek(0)
        if _is_tar(inner):
            return _compressed_tar_members(file)
        return iter([_Member(name, None, gzip.GzipFile(fileobj=file))])
    if _is_tar(start):
        return _tar_members(file)
    raise _RefusedError("it is not a tar, zip or gz file")


def _is_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar"


class _Header(tarfile.TarInfo):
    """A tar header. Unlike tarfile, a damaged or missing header is not taken for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:  # the regular end
                raise
            raise tarfile.ReadError(str(error)) from None
        if header.type in _NOTES and header.size > _LARGEST_NOTE:
            raise tarfile.ReadError("an extended header of more than a mebibyte")
        return header


def _tar_members(stream: io.BufferedIOBase) -> Iterator[_Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
        while (header := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all headers
            content = archive.extractfile(header) if header.isfile() else None
            yield _Member(header.name, _tar_kind(header), content)


def _tar_kind(header: tarfile.TarInfo) -> str | None:
    if header.isfile() or header.isdir():
        return None
    if header.issym() or header.islnk():
        return "a link"
    return "a device or a pipe" if header.isdev() else "of unknown type"


def _compressed_tar_members(file: io.BufferedReader) -> Iterator[_Member]:
    with gzip.open(file) as stream:
        yield from _tar_members(stream)
        # The checksum follows the end of the tar file.
        while stream.read(_CHUNK):
            pass


def _zip_members(file: io.BufferedReader) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            mode = stat.S_IFMT(entry.external_attr >> 16)
            plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = None if plain else "a link" if stat.S_ISLNK(mode) else "a device or a pipe"
            content = None if entry.is_dir() else archive.open(entry)
            yield _Member(entry.filename, kind, content)
