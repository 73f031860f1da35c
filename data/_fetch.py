"""Downloads of what publishers offer: resumed where they broke off, checked, unpacked whole.

What is complete is what has the published checksum; everything before that is called `.part`.
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

from lastax.data._atomic import exists, finish, making
from lastax.data._data_set import Remote
from lastax.data._errors import DataError
from lastax.data._folders import unreadable
from lastax.data._unpack import LIMITS, Limits, Progress, unpack

_CHUNK = 2**20  # bytes
_BUSY = frozenset({408, 416, 425, 429, 500, 502, 503, 504})  # another attempt may do better


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to put up with a bad connection.

    Attributes:
        timeout: seconds without a byte after which a connection counts as broken.
        pauses: seconds before each new attempt. When they are used up, that was it; a mebibyte of
            progress gives all of them back.
    """

    timeout: float = 30.0
    pauses: tuple[float, ...] = (1.0, 3.0, 10.0)


def fetch(
    remote: Remote,
    root: Path,
    *,
    on_progress: Progress | None = None,
    on_unpack: Progress | None = None,
    patience: Patience = Patience(),
    limits: Limits = LIMITS,
) -> Path:
    """Get a published file and make of it what the data set's reader looks for below `root`.

    An archive is unpacked and then removed; a file that is called as it is published is kept as it
    is. What is there already is left alone. A download that broke off, in whichever process, goes
    on where it ended. An archive that was put into `root` by hand, as it is published, is used
    instead, and stays.

    Args:
        remote: what to get.
        root: folder of all data sets.
        on_progress: called with bytes that are here, and bytes in all.
        on_unpack: called with bytes of the archive that are unpacked, and bytes in all.
        patience: with bad connections.
        limits: of what an archive may hold.

    Returns:
        The file or folder, `root / remote.unpacks_to`.

    Raises:
        DataError: if the server, the file or the disk is not as it should be.
    """
    target = root / remote.unpacks_to
    if exists(target):
        return target
    with making(target) as workshop:
        if exists(target):  # by another process, meanwhile
            return target
        name = PurePosixPath(urlsplit(remote.url).path).name
        part = target.with_name(f"{name}.part")
        if name == target.name:
            download(remote, part, target, on_progress=on_progress, patience=patience)
            finish(part, target)
            return target
        archive = by_hand = root / name
        if by_hand.is_file():
            _check(by_hand, remote)
        else:
            archive = part
            download(remote, part, by_hand, on_progress=on_progress, patience=patience)
        made = unpack(archive, workshop, target.name, limits=limits, on_progress=on_unpack)
        finish(made, target)
        part.unlink(missing_ok=True)
    return target


def download(
    remote: Remote,
    part: Path,
    by_hand: Path,
    *,
    on_progress: Progress | None = None,
    patience: Patience = Patience(),
) -> None:
    """Complete `part`, which may be there already or not, to the published file.

    `by_hand` is where an error message tells its reader to put a file that came by other means.

    Raises:
        DataError: if it can't be had. What has been received of it stays in `part`.
        OSError: if `part` cannot be written.
    """
    connection = _Connection(remote, part, by_hand, patience.timeout)
    pauses = iter(patience.pauses)
    restarted = False
    while True:
        before = _size(part)
        try:
            connection.receive(on_progress)
        except _BrokenOffError as error:
            if _size(part) - before >= _CHUNK:
                pauses = iter(patience.pauses)
            pause = next(pauses, None)
            if pause is None:
                raise DataError(
                    f"{remote.url} broke off after {_size(part):,} of {remote.size:,} bytes "
                    f"({error}); run the same again to go on from there"
                ) from None
            time.sleep(pause)
            continue
        if _digest(part) == remote.sha256:
            return
        part.unlink()
        # Pieces may not fit together: from before and after the publisher changed the file.
        if before == 0 or restarted:
            raise DataError(
                f"{remote.url} gives other bytes than were published (their sha256 differs); try "
                f"again later, or put the right file to {by_hand}"
            )
        restarted = True


class _BrokenOffError(Exception):
    """A connection that may work the next time."""


@dataclass(frozen=True)
class _Connection:
    """One attempt after the other to complete `part`."""

    remote: Remote
    part: Path
    by_hand: Path
    timeout: float

    def receive(self, on_progress: Progress | None) -> None:
        """Append what `part` lacks, as far as one connection carries."""
        size = self.remote.size
        done = _size(self.part)
        if done > size:  # so it belongs to another file
            self.part.unlink()
            done = 0
        if done == size:
            return
        free = shutil.disk_usage(self.part.parent).free
        if free < size - done:
            raise OSError(errno.ENOSPC, f"it needs {size - done:,} bytes, {free:,} are free")
        with self._open(done) as response:
            done = self._start(response, done)
            with self.part.open("ab" if done else "wb") as file:
                while done < size:
                    with _breaking_off():
                        # A packet at a time: what came before a break is kept.
                        chunk = response.read1(min(_CHUNK, size - done))
                    if not chunk:
                        raise _BrokenOffError("the connection was closed")
                    file.write(chunk)
                    done += len(chunk)
                    if on_progress is not None:
                        on_progress(done, size)

    def _open(self, start: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": "lastax"} | ({"Range": f"bytes={start}-"} if start else {})
        request = urllib.request.Request(self.remote.url, headers=headers)
        try:
            with _breaking_off():
                response = urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self.part.unlink(missing_ok=True)  # it belongs to another file
                answer = " ".join(f"{error.code} ({error.reason})".split())
                if error.code in _BUSY:
                    raise _BrokenOffError(f"it answers {answer}") from None
                raise DataError(
                    f"{self.remote.url} answers {answer}; try again later, or put the file to "
                    f"{self.by_hand}"
                ) from None
        if not isinstance(response, http.client.HTTPResponse):  # urllib also speaks FTP
            response.close()
            raise DataError(f"{self.remote.url} leads to {response.url}, which is no web server")
        return response

    def _start(self, response: http.client.HTTPResponse, asked: int) -> int:
        """The place in the file that an answer begins at: `asked`, or 0."""
        start = asked if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if start and _first_byte(response) != asked:
            self.part.unlink()
            raise _BrokenOffError("the server sent another part than it was asked for")
        if response.length not in (None, self.remote.size - start):
            raise DataError(
                f"{self.remote.url} has {start + response.length:,} bytes now, "
                f"{self.remote.size:,} were published; put the right file to {self.by_hand}"
            )
        return start


@contextlib.contextmanager
def _breaking_off() -> Iterator[None]:
    """Call what goes wrong with a connection by one name; answers that say no are not that."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise _BrokenOffError(error.reason) from None
    # ValueError: a redirection to what is no address.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from None


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    """Which byte of the file a partial answer begins with; None if it does not say."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _check(by_hand: Path, remote: Remote) -> None:
    """Refuse a file that is not the published one."""
    try:
        right = _size(by_hand) == remote.size and _digest(by_hand) == remote.sha256
    except OSError as error:
        raise unreadable(by_hand, error) from None
    if not right:
        raise DataError(
            f"{by_hand} is not the file that was published at {remote.url} ({remote.size:,} bytes, "
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
