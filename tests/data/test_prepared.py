"""Prepared files: whole or absent, made once, whatever disks, processes and signals do."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lastax.data import DataError
from lastax.data._prepared import (
    ArrayWriter,
    StoredArray,
    fingerprint,
    load_about,
    prepared,
    save_about,
    write_array,
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where prepared folders appear."""
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/prepared"


def build(folder, count=5):
    write_array(folder, "numbers", (count,), np.int32)[:] = np.arange(count)
    save_about(folder, {"count": count})


def never(folder):
    pytest.fail("built again")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def kinds(folder):
    """What stands behind the last dot of each name."""
    return sorted(name.rpartition(".")[2] for name in names(folder))


# Made once


def test_a_folder_is_built_once_and_found_again(place):
    folder = prepared("set", {"version": 1}, build)
    assert folder.parent == place
    assert folder.name.startswith("set-")
    assert prepared("set", {"version": 1}, never) == folder
    assert load_about(folder) == {"count": 5}
    assert StoredArray(folder / "numbers.npy")[:].tolist() == [0, 1, 2, 3, 4]
    assert names(place) == [folder.name]  # no lock, nothing unfinished


def test_the_folder_depends_on_every_setting():
    identities = [("a", {"version": 1}), ("a", {"version": 2}), ("a", {"version": 1, "level": 3})]
    identities.append(("b", {"version": 1}))
    assert len({prepared(name, identity, build) for name, identity in identities}) == 4


@pytest.mark.parametrize("error", [ValueError("bad"), DataError("worse"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_nothing(place, error):
    def failing(folder):
        build(folder)
        raise error

    with pytest.raises(type(error)):
        prepared("set", {}, failing)
    assert names(place) == []
    prepared("set", {}, build)


# Full disks, forbidden folders


def mapped(folder):
    write_array(folder, "large", (2**22,), np.uint8)


def appended(folder):
    with ArrayWriter(folder, "large", np.uint8) as writer:
        for _ in range(64):
            writer.append(np.zeros(2**16, np.uint8))


@pytest.mark.parametrize("large", [mapped, appended])
def test_a_full_disk_is_one_line_and_leaves_nothing(place, full_disk, large):
    limit, reason = full_disk
    with limit(place, 2**20):
        with pytest.raises(DataError) as caught:
            prepared("set", {}, large)
        assert names(place) == []
        prepared("other", {}, build)  # what fits still does
    message = str(caught.value)
    assert message.startswith(f"cannot prepare set in {place} ({reason}")
    assert "LASTAX_CACHE" in message
    assert "\n" not in message


def test_a_folder_that_may_not_be_written_is_named(unprivileged, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(unprivileged / "cache"))
    (unprivileged / "cache").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"Permission denied: .*cache/prepared.*LASTAX_CACHE"):
        prepared("set", {}, build)


def test_a_file_where_the_folder_should_be_is_named(place):
    place.parent.write_text("")
    with pytest.raises(DataError, match="cannot prepare set"):
        prepared("set", {}, build)


# Several processes


def test_threads_that_ask_at_once_build_once(place):
    builds, results = [], []

    def slow(folder):
        builds.append(folder)
        time.sleep(0.1)
        build(folder)

    def ask():
        results.append(prepared("set", {}, slow))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert len(results) == 8
    assert len(set(results)) == 1
    assert names(place) == [results[0].name]


OTHER = """
import sys, time
import numpy as np
from lastax.data._prepared import prepared, save_about, write_array

def build(folder):
    numbers = write_array(folder, "numbers", (5,), np.int32)
    print("building", flush=True)
    sys.stdin.readline()
    numbers[:] = np.arange(5)
    save_about(folder, {"count": 5})

prepared("set", {}, build)
"""


@pytest.fixture
def other():
    """Another process, which has begun to build; a line on its input lets it finish."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "building\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_second_process_waits_for_the_first(place, other):
    assert kinds(place) == ["lock", "part"]
    with pytest.raises(DataError, match="another set, whose start removes no other's work"):
        prepared("unlike", {}, refuse)
    assert kinds(place) == ["lock", "part"]
    found = []
    waiting = threading.Thread(target=lambda: found.append(prepared("set", {}, never)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    other.stdin.write("\n")
    other.stdin.flush()
    waiting.join(10)
    assert other.wait(10) == 0
    assert names(place) == [found[0].name]
    assert StoredArray(found[0] / "numbers.npy")[:].tolist() == [0, 1, 2, 3, 4]


def refuse(folder):
    raise DataError("another set, whose start removes no other's work")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set", "unlike"])
def test_leftovers_of_a_killed_process_are_removed(place, other, name):
    other.send_signal(signal.SIGKILL)
    other.wait(10)
    assert len(names(place)) == 2
    folder = prepared(name, {}, build)
    assert names(place) == [folder.name]


# Files


@settings(max_examples=30, deadline=None)
@given(
    pieces=st.lists(hnp.arrays(np.uint8, st.integers(0, 300)), max_size=5),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int64]),
)
def test_pieces_one_after_the_other_are_the_array(pieces, dtype):
    with tempfile.TemporaryDirectory() as name:
        with ArrayWriter(Path(name), "x", dtype) as writer:
            for piece in pieces:
                writer.append(piece)
            assert len(writer) == sum(map(len, pieces))
        stored = StoredArray(Path(name) / "x.npy")
        assert stored.dtype == dtype
        expected = np.concatenate([np.zeros(0, np.uint8), *pieces])
        assert stored.shape == (len(stored),) == expected.shape
        np.testing.assert_array_equal(stored[:], expected)


def test_a_written_array_has_room_on_the_disk_and_zeros(tmp_path):
    array = write_array(tmp_path, "x", (3, 1000), np.float32)
    assert (tmp_path / "x.npy").stat().st_blocks * 512 >= 12_000
    assert not array.any()
    array[1] = 2
    array.flush()
    assert np.load(tmp_path / "x.npy").sum() == 2000


def test_an_array_is_mapped_and_pickled_as_a_path(tmp_path):
    write_array(tmp_path, "x", (10**6,), np.int64)[7] = 3
    stored = StoredArray(tmp_path / "x.npy")
    assert isinstance(stored[:], np.memmap)
    assert not stored[:].flags.writeable
    packed = pickle.dumps(stored)  # after it was used
    assert len(packed) < 500
    assert pickle.loads(packed)[7] == 3


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
def test_a_damaged_array_is_named(tmp_path, damage):
    path = tmp_path / "x.npy"
    write_array(tmp_path, "x", (100,), np.int64)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-1], "other": b"something else"}[damage])
    with pytest.raises(
        DataError, match=f"{path} is damaged .*; remove {tmp_path} to prepare it"
    ) as e:
        len(StoredArray(path))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [None, "", "{", "\x80"])
def test_a_damaged_description_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "about.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"about\.json is damaged"):
        load_about(tmp_path)


# Fingerprints


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "one/a.txt", tmp_path / "one/sub/b.txt"]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
        os.utime(path, ns=(0, 10**9 * number))
    return paths


def test_files_that_were_moved_have_the_same_fingerprint(tmp_path, files):
    before = fingerprint(files)
    assert fingerprint(reversed(files)) == before
    (tmp_path / "one").rename(tmp_path / "other")
    moved = [tmp_path / "other/a.txt", tmp_path / "other/sub/b.txt"]
    assert fingerprint(moved) == before


def test_files_that_changed_have_another_fingerprint(files):
    seen = [fingerprint(files), fingerprint(files[:1])]
    os.utime(files[0], ns=(0, 1))
    seen.append(fingerprint(files))
    files[0].write_text("contents")
    os.utime(files[0], ns=(0, 1))
    seen.append(fingerprint(files))
    renamed = files[0].rename(files[0].with_name("c.txt"))
    seen.append(fingerprint([renamed, files[1]]))
    assert len(set(seen)) == 5


def test_a_missing_file_has_no_fingerprint(files):
    files[1].unlink()
    with pytest.raises(DataError, match=f"cannot read {files[1]}"):
        fingerprint(files)
