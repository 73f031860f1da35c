"""Downloads from a server on the loopback address that does everything wrong, one thing a test."""

import contextlib
import functools
import gc
import hashlib
import io
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from lastax.data import DataError, Remote
from lastax.data._fetch import RetryPolicy, fetch
from lastax.data._unpack import Limits

CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 12_345)
HASTE = RetryPolicy(timeout=5.0, pauses=(0.0, 0.0, 0.0))


class Publisher(ThreadingHTTPServer):
    """A server of one file. `answers` holds a way to answer for each request to come, in order;
    when they are used up, it answers as it should. `asked` keeps each request's range."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.answers = []
        self.asked = []
        self.released = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/folder/file.bin"

    def remote(self, unpacks_to="set/file.bin", **changes):
        published = {
            "url": self.url,
            "size": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "unpacks_to": unpacks_to,
        }
        return Remote(**{**published, **changes})

    def handle_error(self, request, client_address):
        """A client that hangs up is no error."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        answers = self.server.answers
        answer = answers.pop(0) if answers else serve
        answer(
            self, self.server.content, int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        )

    def log_message(self, *arguments):
        pass


def head(handler, status, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def serve(handler, content, start, *, body=None, length=None):
    """The rest from `start`; `body` and `length` are lies about it."""
    rest = content[start:]
    length = len(rest) if length is None else length
    if start:
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        head(handler, 206, Content_Length=length, Content_Range=place)
    else:
        head(handler, 200, Content_Length=length)
    handler.wfile.write(rest if body is None else body)


def break_off_after(count):
    def answer(handler, content, start):
        serve(
            handler,
            content,
            start,
            body=content[start : start + count],
            length=len(content) - start,
        )

    return answer


def announce(length):
    return functools.partial(serve, length=length)


def damage(handler, content, start):
    place = start + (len(content) - start) // 2
    serve(handler, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :], start)


def ignore_range(handler, content, start):
    serve(handler, content, 0)


def say_nothing_of_length(handler, content, start):
    head(handler, 200)
    handler.wfile.write(content)


def send_more(handler, content, start):
    head(handler, 200)
    handler.wfile.write(content + b"and more")


def send_more_than_announced(handler, content, start):
    serve(handler, content, start, body=content[start:] + b"and more", length=len(content) - start)


def send_another_part(handler, content, start):
    head(handler, 206, Content_Range=f"bytes {start + 1}-{len(content) - 1}/{len(content)}")
    handler.wfile.write(content[start + 1 :])


def send_a_part_without_place(handler, content, start):
    head(handler, 206)
    handler.wfile.write(content[start:])


def say(status):
    return lambda handler, content, start: handler.send_error(status)


def redirect(address):
    return lambda handler, content, start: head(handler, 302, Location=address)


def stall_after(count):
    def answer(handler, content, start):
        head(handler, 200, Content_Length=len(content))
        handler.wfile.write(content[:count])
        handler.server.released.wait(30)

    return answer


def babble(handler, content, start):
    handler.wfile.write(b"this is no HTTP\r\n\r\n")


def hang_up(handler, content, start):
    pass


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Publisher() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def failure(remote, root, **options):
    """The one line that a failed fetch says."""
    with pytest.raises(DataError) as caught:
        fetch(remote, root, **{"retries": HASTE, **options})
    message = str(caught.value)
    assert "\n" not in message
    assert not (root / remote.unpacks_to).exists()
    assert ".lock" not in str(names(root))
    return message


# What works


def test_a_file_is_kept_as_it_is(publisher, tmp_path):
    seen = []
    path = fetch(
        publisher.remote(), tmp_path / "root", on_progress=lambda *bytes: seen.append(bytes)
    )
    assert path == tmp_path / "root/set/file.bin"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "root") == ["set", "set/file.bin"]
    assert publisher.asked == [None]
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert counts[-1] == len(CONTENT)
    assert {total for _, total in seen} == {len(CONTENT)}
    assert len(seen) > 3


def test_existing_files_are_not_changed(publisher, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin").write_text("mine")
    fetch(publisher.remote(), tmp_path)
    assert (tmp_path / "set/file.bin").read_text() == "mine"
    assert publisher.asked == []


def test_redirections_are_followed(publisher, tmp_path):
    publisher.answers = [break_off_after(5000), redirect("/elsewhere"), redirect(publisher.url)]
    path = fetch(publisher.remote(), tmp_path, retries=HASTE)
    assert path.read_bytes() == CONTENT
    assert publisher.asked == [None, *["bytes=5000-"] * 3]


@pytest.mark.parametrize("answer", [say_nothing_of_length, send_more, send_more_than_announced])
def test_the_published_bytes_are_taken_and_no_more(publisher, tmp_path, answer):
    publisher.answers = [answer]
    assert fetch(publisher.remote(), tmp_path).read_bytes() == CONTENT


# Connections that break


def test_a_download_goes_on_where_it_broke_off(publisher, tmp_path):
    publisher.answers = [break_off_after(1000), break_off_after(0), break_off_after(70_000)]
    seen = []
    path = fetch(
        publisher.remote(),
        tmp_path,
        retries=HASTE,
        on_progress=lambda done, total: seen.append(done),
    )
    assert path.read_bytes() == CONTENT
    assert publisher.asked == [None, "bytes=1000-", "bytes=1000-", "bytes=71000-"]
    assert seen == sorted(seen)
    assert names(tmp_path) == ["set", "set/file.bin"]


def test_a_download_goes_on_in_another_run(publisher, tmp_path):
    publisher.answers = [break_off_after(1000)]
    message = failure(publisher.remote(), tmp_path, retries=RetryPolicy(pauses=()))
    assert message == (
        f"download of {publisher.url} stopped after 1,000 of {len(CONTENT):,} bytes (the "
        "connection was closed); run the same command again to resume"
    )
    assert names(tmp_path) == ["set", "set/file.bin.part"]
    assert fetch(publisher.remote(), tmp_path).read_bytes() == CONTENT
    assert publisher.asked == [None, "bytes=1000-"]


def test_patience_comes_back_with_progress(publisher, tmp_path):
    publisher.answers = [break_off_after(2**20)] * 3
    path = fetch(publisher.remote(), tmp_path, retries=RetryPolicy(pauses=(0.0,)))
    assert path.read_bytes() == CONTENT
    assert len(publisher.asked) == 4


def test_patience_ends(publisher, tmp_path):
    publisher.answers = [break_off_after(2**10)] * 3
    message = failure(publisher.remote(), tmp_path, retries=RetryPolicy(pauses=(0.0, 0.0)))
    assert f"stopped after 3,072 of {len(CONTENT):,} bytes" in message
    assert len(publisher.asked) == 3


def test_pauses_are_kept(publisher, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    publisher.answers = [say(503)] * 9
    failure(publisher.remote(), tmp_path, retries=RetryPolicy(pauses=(1.0, 3.0, 10.0)))
    assert slept == [1, 3, 10]
    assert len(publisher.asked) == 4


@pytest.mark.parametrize("answer", [say(500), say(503), say(429), hang_up, babble, damage])
def test_passing_troubles_pass(publisher, tmp_path, answer):
    publisher.answers = [break_off_after(1000), answer]
    assert fetch(publisher.remote(), tmp_path, retries=HASTE).read_bytes() == CONTENT


@pytest.mark.parametrize("count", [0, 1000])
def test_a_server_that_stalls_is_left(publisher, tmp_path, count):
    publisher.answers = [stall_after(count)]
    start = time.monotonic()
    path = fetch(publisher.remote(), tmp_path, retries=RetryPolicy(timeout=0.2, pauses=(0.0,)))
    assert path.read_bytes() == CONTENT
    assert publisher.asked == [None, f"bytes={count}-" if count else None]
    assert time.monotonic() - start < 10


def test_a_server_that_always_stalls_is_one_line(publisher, tmp_path):
    publisher.answers = [stall_after(1000)]
    message = failure(publisher.remote(), tmp_path, retries=RetryPolicy(timeout=0.2, pauses=()))
    assert "stopped after 1,000" in message
    assert "timed out" in message


def test_an_unreachable_server_is_one_line(publisher, tmp_path):
    remote = publisher.remote(url="http://127.0.0.1:1/file.bin")
    assert "stopped after 0" in (message := failure(remote, tmp_path))
    assert "Connection refused" in message


# Servers that lie


def test_a_server_that_ignores_ranges_begins_anew(publisher, tmp_path):
    publisher.answers = [break_off_after(1000), ignore_range]
    assert fetch(publisher.remote(), tmp_path, retries=HASTE).read_bytes() == CONTENT
    assert publisher.asked == [None, "bytes=1000-"]


@pytest.mark.parametrize("answer", [send_another_part, send_a_part_without_place])
def test_another_part_than_asked_for_is_not_taken(publisher, tmp_path, answer):
    publisher.answers = [break_off_after(1000), answer]
    assert fetch(publisher.remote(), tmp_path, retries=HASTE).read_bytes() == CONTENT
    assert publisher.asked == [None, "bytes=1000-", None]


@pytest.mark.parametrize("difference", [-1, 1, 10**12])
def test_a_file_of_another_length_is_not_taken(publisher, tmp_path, difference):
    length = len(CONTENT) + difference
    publisher.answers = [announce(length)]
    message = failure(publisher.remote(), tmp_path)
    assert message.startswith(
        f"{publisher.url} now has {length:,} bytes instead of {len(CONTENT):,}; "
    )
    assert f"place the published file at {tmp_path / 'set/file.bin'}" in message
    assert names(tmp_path) == ["set"]
    assert len(publisher.asked) == 1


def test_damaged_bytes_are_not_taken(publisher, tmp_path):
    publisher.answers = [damage]
    message = failure(publisher.remote(), tmp_path)
    assert message.startswith(f"the content of {publisher.url} differs from the published file")
    assert names(tmp_path) == ["set"]
    assert len(publisher.asked) == 1  # a whole file that is wrong is not a bad connection


def test_damaged_bytes_are_given_one_more_chance_if_they_came_in_pieces(publisher, tmp_path):
    publisher.answers = [break_off_after(1000), damage, damage]
    assert "differs from the published file" in failure(publisher.remote(), tmp_path)
    assert publisher.asked == [None, "bytes=1000-", None]
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("kind", ["another file", "longer", "whole but wrong", "whole"])
def test_a_part_that_is_there_is_used_if_it_fits(publisher, tmp_path, kind):
    part = tmp_path / "set/file.bin.part"
    part.parent.mkdir()
    part.write_bytes(
        {
            "another file": bytes(5000),
            "longer": CONTENT + b"more",
            "whole but wrong": bytes(len(CONTENT)),
            "whole": CONTENT,
        }[kind]
    )
    assert fetch(publisher.remote(), tmp_path).read_bytes() == CONTENT
    assert (
        publisher.asked
        == {
            "another file": ["bytes=5000-", None],
            "longer": [None],
            "whole but wrong": [None],
            "whole": [],
        }[kind]
    )
    assert names(tmp_path) == ["set", "set/file.bin"]


def test_a_file_that_became_shorter_is_not_taken(publisher, tmp_path):
    remote = publisher.remote()
    part = tmp_path / "set/file.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:5000])
    publisher.content = CONTENT[:4000]
    publisher.answers = [say(416)]
    assert f"now has 4,000 bytes instead of {len(CONTENT):,}" in failure(remote, tmp_path)
    assert publisher.asked == ["bytes=5000-", None]


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "Forbidden"), (404, "Not Found"), (410, "Gone")]
)
def test_http_errors_are_reported(publisher, tmp_path, status, reason):
    publisher.answers = [say(status)]
    message = failure(publisher.remote(), tmp_path)
    assert message == (
        f"{publisher.url}: the server replied {status} ({reason}); try again later, or place the "
        f"file at {tmp_path / 'set/file.bin'}"
    )
    assert len(publisher.asked) == 1


@pytest.mark.parametrize("address", ["/folder/file.bin", "file:///etc/passwd", ""])
def test_a_redirection_into_nothing_is_one_line(publisher, tmp_path, address):
    publisher.answers = [redirect(address)] * 50
    message = failure(publisher.remote(), tmp_path)
    assert message.startswith(publisher.url)
    assert names(tmp_path) == ["set"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # urllib forgets to close the connection
def test_a_redirection_to_an_invalid_address_is_a_one_line_error(publisher, tmp_path):
    publisher.answers = [redirect("http://[x/")]
    message = failure(publisher.remote(), tmp_path, retries=RetryPolicy(pauses=()))
    assert "stopped after 0" in message
    gc.collect()


# Archives


def packed(members, mode="w:gz"):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


FILES = {"file/a.txt": b"a", "file/below/b.txt": b"b" * 5000}


@pytest.fixture
def archive(publisher):
    publisher.content = packed(FILES)
    return publisher.remote("file")


def test_an_archive_is_unpacked_and_removed(publisher, tmp_path, archive):
    unpacked = []
    publisher.answers = [break_off_after(30)]
    path = fetch(archive, tmp_path, retries=HASTE, on_unpack=lambda *bytes: unpacked.append(bytes))
    assert path == tmp_path / "file"
    assert names(tmp_path) == ["file", "file/a.txt", "file/below", "file/below/b.txt"]
    assert (path / "below/b.txt").read_bytes() == b"b" * 5000
    assert unpacked
    assert {total for _, total in unpacked} == {len(publisher.content)}
    fetch(archive, tmp_path)
    assert publisher.asked == [None, "bytes=30-"]


def test_an_empty_folder_counts_as_nothing(publisher, tmp_path, archive):
    (tmp_path / "file").mkdir()
    fetch(archive, tmp_path)
    assert (tmp_path / "file/a.txt").read_bytes() == b"a"


def test_an_archive_placed_by_hand_is_used_and_kept(publisher, tmp_path, archive):
    (tmp_path / "file.bin").write_bytes(publisher.content)
    fetch(archive, tmp_path)
    assert publisher.asked == []
    assert (tmp_path / "file/a.txt").read_bytes() == b"a"
    assert (tmp_path / "file.bin").read_bytes() == publisher.content


@pytest.mark.parametrize("change", ["cut", "flipped"])
def test_errors_name_a_wrong_archive_placed_by_hand(publisher, tmp_path, archive, change):
    right = publisher.content
    wrong = {"cut": right[:-1], "flipped": right[:-1] + bytes([right[-1] ^ 1])}[change]
    (tmp_path / "file.bin").write_bytes(wrong)
    message = failure(archive, tmp_path)
    assert message.startswith(f"{tmp_path / 'file.bin'} is not the file published at")
    assert (tmp_path / "file.bin").read_bytes() == wrong
    assert names(tmp_path) == ["file.bin"]


def test_an_archive_that_cannot_be_unpacked_leaves_nothing_but_itself(publisher, tmp_path, archive):
    message = failure(archive, tmp_path, limits=Limits(size=1000))
    assert "its files exceed 1,000 bytes" in message
    assert names(tmp_path) == ["file.bin.part"]
    fetch(archive, tmp_path)
    assert publisher.asked == [None]
    assert names(tmp_path) == ["file", "file/a.txt", "file/below", "file/below/b.txt"]


# Disks and processes


def test_a_full_disk_is_reported_before_the_download(publisher, tmp_path, full_disk):
    limit, reason = full_disk
    with limit(tmp_path / "root", 2**20):
        message = failure(publisher.remote(), tmp_path / "root")
    if reason == "File too large":  # a limit that nobody sees beforehand
        assert message.startswith(f"cannot write {tmp_path}/root/set/file.bin ({reason})")
    else:
        assert re.search(r"\(3,158,073 bytes needed, [\d,]+ free\); free disk space", message)
        assert publisher.asked == []


def test_a_disk_that_fills_up_while_unpacking_is_one_line(publisher, tmp_path, full_disk):
    limit, reason = full_disk
    publisher.content = packed({"file/a.txt": bytes(2**22)})  # small as long as it is packed
    remote = publisher.remote("file")
    with limit(tmp_path / "root", 2**20):
        message = failure(remote, tmp_path / "root")
        assert names(tmp_path / "root") == ["file.bin.part"]
    assert message.startswith(f"cannot write {tmp_path}/root/file ({reason}); free disk space")


def test_a_folder_that_may_not_be_written_is_named(publisher, unprivileged):
    (unprivileged / "root").mkdir(mode=0o500)
    message = failure(publisher.remote(), unprivileged / "root")
    assert message.startswith("cannot write ")
    assert "(Permission denied)" in message
    assert "--data-dir" in message


def test_an_archive_that_may_not_be_read_is_named(publisher, unprivileged):
    publisher.content = packed(FILES)
    (unprivileged / "file.bin").write_bytes(publisher.content)
    (unprivileged / "file.bin").chmod(0)
    message = failure(publisher.remote("file"), unprivileged)
    assert f"cannot read {unprivileged / 'file.bin'} (Permission denied)" in message


def test_a_file_where_a_folder_should_be_is_named(publisher, tmp_path):
    (tmp_path / "set").write_text("")
    message = failure(publisher.remote(), tmp_path)
    assert message.startswith(f"cannot write {tmp_path / 'set/file.bin'} (")


def test_an_interrupted_download_can_go_on(publisher, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(publisher.remote(), tmp_path, on_progress=interrupt)
    assert names(tmp_path) == ["set", "set/file.bin.part"]
    assert fetch(publisher.remote(), tmp_path).read_bytes() == CONTENT
    assert publisher.asked[1].startswith("bytes=")


def test_threads_that_fetch_the_same_at_once_download_it_once(publisher, tmp_path, archive):
    results = []

    def get():
        results.append(fetch(archive, tmp_path, retries=HASTE))

    publisher.answers = [break_off_after(20)]
    threads = [threading.Thread(target=get) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "file"] * 6
    assert publisher.asked == [None, "bytes=20-"]
    assert names(tmp_path) == ["file", "file/a.txt", "file/below", "file/below/b.txt"]


OTHER = """
import sys
from pathlib import Path
from lastax.data import Remote
from lastax.data._fetch import fetch

url, size, sha256, root = sys.argv[1:]
fetch(Remote(url=url, size=int(size), sha256=sha256, unpacks_to="file"), Path(root),
      on_progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_a_killed_download_is_continued_by_the_next_process(publisher, tmp_path):
    publisher.content = packed({"file/a.bin": CONTENT})
    remote = publisher.remote("file")
    publisher.answers = [stall_after(2**20)]
    arguments = [remote.url, str(remote.size), remote.sha256, str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, *arguments], stdout=subprocess.PIPE, text=True
    ) as other:
        with contextlib.closing(other.stdout):
            while int(other.stdout.readline()) < 2**20:
                pass
        waiting = threading.Thread(target=fetch, args=(remote, tmp_path))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        other.send_signal(signal.SIGKILL)
        waiting.join(20)
    assert (tmp_path / "file/a.bin").read_bytes() == CONTENT
    assert publisher.asked[0] is None
    assert int(publisher.asked[1].removeprefix("bytes=").removesuffix("-")) > 2**19
    assert names(tmp_path) == ["file", "file/a.bin"]
