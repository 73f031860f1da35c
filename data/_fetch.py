"""Downloads from publishers: resumed after interruptions, verified, unpacked.

An unfinished download is called `.part` until its checksum matches the published one.
"""

import contextlib
import errno
import hashlib
import http
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from lastax.data._atomic import exists, publish, staging_folder
from lastax.data._data_set import Remote
from lastax.data._errors import DataError
from lastax.data._folders import unreadable
from lastax.data._unpack import LIMITS, Limits, Progress, unpack

_CHUNK = 2**20  # bytes
_BUSY = frozenset({408, 416, 425, 429, 500, 502, 503, 504})  # worth another attempt


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to retry an interrupted download.

    Attributes:
        timeout: seconds without data after which a connection counts as lost.
        pauses: seconds to wait before each retry. The download fails after the last one. Each
            mebibyte of progress resets the list.
    """

    timeout: float = 30.0
    pauses: tuple[float, ...] = (1.0, 3.0, 10.0)


def fetch(
    remote: Remote,
    root: Path,
    *,
    on_progress: Progress | None = None,
    on_unpack: Progress | None = None,
    retries: RetryPolicy = RetryPolicy(),
    limits: Limits = LIMITS,
) -> Path:
    """Download a published file, verify it and unpack it below `root`.

    An existing result is kept. An interrupted download is resumed, also by another process. An
    archive is removed after unpacking. An archive that the user has placed in `root` is used
    instead of a download, and is kept.

    Args:
        remote: the file.
        root: folder that holds all data sets.
        on_progress: called with the number of bytes received and the total.
        on_unpack: called with the number of bytes of the archive unpacked and the total.
        retries: when to retry.
        limits: limits on the content of an archive.

    Returns:
        The file or folder, `root / remote.unpacks_to`.

    Raises:
        DataError: if the download fails, the file is not the published one, or the disk is full.
    """
    target = root / remote.unpacks_to
    if exists(target):
        return target
    with staging_folder(target) as staging:
        if exists(target):  # another process has made it
            return target
        name = PurePosixPath(urlsplit(remote.url).path).name
        part = target.with_name(f"{name}.part")
        if name == target.name:
            download(remote, part, target, on_progress=on_progress, retries=retries)
            publish(part, target)
            return target
        archive = manual = root / name
        if manual.is_file():
            _check(manual, remote)
        else:
            archive = part
            download(remote, part, manual, on_progress=on_progress, retries=retries)
        made = unpack(archive, staging, target.name, limits=limits, on_progress=on_unpack)
        publish(made, target)
        part.unlink(missing_ok=True)
    return target


def download(
    remote: Remote,
    part: Path,
    manual: Path,
    *,
    on_progress: Progress | None = None,
    retries: RetryPolicy = RetryPolicy(),
) -> None:
    """Download the published file to `part`; resume if `part` exists.

    Error messages tell the reader to place a manually downloaded file at `manual`.

    Raises:
        DataError: if the download fails. `part` keeps the bytes received so far.
        OSError: if `part` cannot be written.
    """
    connection = _Connection(remote, part, manual, retries.timeout)
    pauses = iter(retries.pauses)
    restarted = False
    while True:
        before = _size(part)
        try:
            connection.receive(on_progress)
        except _ConnectionLostError as error:
            if _size(part) - before >= _CHUNK:
                pauses = iter(retries.pauses)
            pause = next(pauses, None)
            if pause is None:
                raise DataError(
                    f"download of {remote.url} stopped after {_size(part):,} of "
                    f"{remote.size:,} bytes ({error}); run the same command again to resume"
                ) from None
            time.sleep(pause)
            continue
        if _digest(part) == remote.sha256:
            return
        part.unlink()
        # The pieces may come from before and after the publisher changed the file.
        if before == 0 or restarted:
            raise DataError(
                f"the content of {remote.url} differs from the published file (sha256); try "
                f"again later, or place the correct file at {manual}"
            )
        restarted = True


class _ConnectionLostError(Exception):
    """A lost connection. Another attempt may succeed."""


@dataclass(frozen=True)
class _Connection:
    """Repeated attempts to complete `part`."""

    remote: Remote
    part: Path
    manual: Path
    timeout: float

    def receive(self, on_progress: Progress | None) -> None:
        """Append missing bytes to `part` until it is complete or the connection is lost."""
        size = self.remote.size
        done = _size(self.part)
        if done > size:  # part of another file
            self.part.unlink()
            done = 0
        if done == size:
            return
        free = shutil.disk_usage(self.part.parent).free
        if free < size - done:
            raise OSError(errno.ENOSPC, f"{size - done:,} bytes needed, {free:,} free")
        with self._open(done) as response:
            done = self._start(response, done)
            with self.part.open("ab" if done else "wb") as file:
                while done < size:
                    with _connection_errors():
                        # One packet at a time, so that everything received so far is kept.
                        chunk = response.read1(min(_CHUNK, size - done))
                    if not chunk:
                        raise _ConnectionLostError("the connection was closed")
                    file.write(chunk)
                    done += len(chunk)
                    if on_progress is not None:
                        on_progress(done, size)

    def _open(self, start: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": "lastax"} | ({"Range": f"bytes={start}-"} if start else {})
        request = urllib.request.Request(self.remote.url, headers=headers)
        try:
            with _connection_errors():
                response = urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self.part.unlink(missing_ok=True)  # part of another file
                reply = " ".join(f"{error.code} ({error.reason})".split())
                if error.code in _BUSY:
                    raise _ConnectionLostError(f"the server replied {reply}") from None
                raise DataError(
                    f"{self.remote.url}: the server replied {reply}; try again later, or place "
                    f"the file at {self.manual}"
                ) from None
        if not isinstance(response, http.client.HTTPResponse):  # urllib also speaks FTP
            response.close()
            raise DataError(f"{self.remote.url} redirects to {response.url}, which is not HTTP")
        return response

    def _start(self, response: http.client.HTTPResponse, asked: int) -> int:
        """First byte of the response: `asked`, or 0 if the server sends the complete file."""
        start = asked if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if start and _first_byte(response) != asked:
            self.part.unlink()
            raise _ConnectionLostError("the server sent another range than requested")
        if response.length not in (None, self.remote.size - start):
            raise DataError(
                f"{self.remote.url} now has {start + response.length:,} bytes instead of "
                f"{self.remote.size:,}; place the published file at {self.manual}"
            )
        return start


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn connection errors into `_ConnectionLostError`; HTTP error responses pass unchanged."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise _ConnectionLostError(error.reason) from None
    # ValueError: a redirection to an invalid URL.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _ConnectionLostError(str(error) or type(error).__name__) from None


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    """First byte of a partial response, or None if the header is missing."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _check(manual: Path, remote: Remote) -> None:
    """Raise DataError if the file is not the published one."""
    try:
        right = _size(manual) == remote.size and _digest(manual) == remote.sha256
    except OSError as error:
        raise unreadable(manual, error) from None
    if not right:
        raise DataError(
            f"{manual} is not the file published at {remote.url} ({remote.size:,} bytes, "
            f"sha256 {remote.sha256}); remove it"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
