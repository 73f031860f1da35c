"""Archives made to do harm, and damaged ones: refused in one line, nothing outside the folder."""

import contextlib
import gzip
import io
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data import DataError
from lastax.data._unpack import Limits, unpack

CONTENT = {
    "set/a.txt": b"a",
    "set/empty": b"",
    "set/deep/er/b.bin": np.random.default_rng(0).bytes(70_000),
    "set/zeros": bytes(30_000),
}


def tar(members, mode="w"):
    """`members` (name -> bytes, or -> a TarInfo without content) as a tar file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            body = b"" if info is content else content
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return made.getvalue()


def tar_gz(members):
    return tar(members, "w:gz")


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def stored(members):
    return zipped(members, zipfile.ZIP_STORED)


FORMATS = [tar, tar_gz, zipped, stored]


@pytest.fixture
def place(tmp_path):
    """A function that unpacks bytes, called `set`, into a folder inside a folder of its own."""

    def put(content, name="set", **options):
        archive = tmp_path / "archive"
        archive.write_bytes(content)
        (tmp_path / "outside/folder").mkdir(parents=True, exist_ok=True)
        return unpack(archive, tmp_path / "outside/folder", name, **options)

    return put


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def failure(place, tmp_path, content, **options):
    with pytest.raises(DataError) as caught:
        place(content, **options)
    message = str(caught.value)
    archive = tmp_path / "archive"
    assert message.startswith((f"{archive} ", f"refused to unpack {archive}: "))
    assert "\n" not in message
    inside = tmp_path / "outside/folder"
    assert list(inside.parent.iterdir()) == [inside]
    assert not any(path.is_symlink() for path in inside.rglob("*"))
    return message


# Sound archives


@pytest.mark.parametrize("make", FORMATS)
def test_an_archive_of_one_folder_unpacks_to_that_folder(place, make):
    folder = place(make(CONTENT))
    assert folder.name == "set"
    assert {f"set/{name}": content for name, content in contents(folder).items()} == CONTENT


@pytest.mark.parametrize("make", FORMATS)
def test_an_archive_of_several_entries_unpacks_to_a_new_folder(place, make):
    members = {f"./{name}": content for name, content in CONTENT.items()} | {"LICENSE": b"free"}
    folder = place(make(members))
    assert folder.name == "folder"
    assert contents(folder) == CONTENT | {"LICENSE": b"free"}


def test_a_compressed_file_gets_the_name(place):
    path = place(gzip.compress(b"content" * 1000), name="numbers.idx")
    assert path.name == "numbers.idx"
    assert path.read_bytes() == b"content" * 1000


@pytest.mark.parametrize(
    "kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=str
)
def test_long_and_non_ascii_names_are_kept(place, kind):
    names = [
        "set/" + "/".join(["long" * 10] * 4),
        "set/na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve",
    ]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    folder = place(made.getvalue())
    assert {f"set/{name}" for name in contents(folder)} == set(names)


def test_folders_count_even_if_they_are_empty(place):
    folder = tarfile.TarInfo("set/empty")
    folder.type = tarfile.DIRTYPE
    made = place(tar({"set/empty": folder}))
    assert [path.name for path in made.iterdir()] == ["empty"]
    assert (made / "empty").is_dir()


def test_no_rights_are_taken_from_an_archive(place):
    info = tarfile.TarInfo("set/program")
    info.mode = 0o6777
    folder = place(tar({"set/program": info}))
    mode = (folder / "program").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH)


@pytest.mark.parametrize("make", FORMATS)
def test_progress_counts_bytes_of_the_archive(place, tmp_path, make):
    seen = []
    place(make(CONTENT), on_progress=lambda done, total: seen.append((done, total)))
    size = (tmp_path / "archive").stat().st_size
    assert {total for _, total in seen} == {size}
    assert all(0 < done <= size for done, _ in seen)
    assert max(seen)[0] > size / 2


@settings(max_examples=60, deadline=None)
@given(
    members=st.dictionaries(
        st.text("abc", min_size=1, max_size=3), st.binary(max_size=2000), min_size=1, max_size=5
    ),
    make=st.sampled_from(FORMATS),
)
def test_every_packed_file_is_unpacked(members, make):
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "archive"
        archive.write_bytes(make(members))
        (Path(name) / "folder").mkdir()
        made = unpack(archive, Path(name) / "folder", "none of these")
        assert contents(made) == members


# Harm


OUTSIDE = ["../escaped", "set/../../escaped", "/tmp/escaped", "..", "set/..", "//escaped", "./../x"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("make", FORMATS)
def test_names_outside_the_target_folder_are_rejected(place, tmp_path, make, name):
    message = failure(place, tmp_path, make({"set/good": b"good", name: b"bad"}))
    assert f": {name!r} leads out of the folder; " in message


def entry(kind, name="set/entry", target="good"):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device or a pipe"),
        (tarfile.BLKTYPE, "a device or a pipe"),
        (tarfile.FIFOTYPE, "a device or a pipe"),
        (b"D", "of unknown type"),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_and_devices_in_a_tar_are_refused(place, tmp_path, mode, kind, called):
    message = failure(place, tmp_path, tar({"set/good": b"good", "x": entry(kind)}, mode))
    assert f"'set/entry' is {called}" in message


@pytest.mark.parametrize("target", ["/etc", "..", "good"])
def test_nothing_is_written_through_a_link(place, tmp_path, target):
    archive = tar({"set/x": entry(tarfile.SYMTYPE, "set/way", target), "set/way/file": b"bad"})
    assert "'set/way' is a link" in failure(place, tmp_path, archive)


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (stat.S_IFLNK, "a link"),
        (stat.S_IFCHR, "a device or a pipe"),
        (stat.S_IFIFO, "a device or a pipe"),
    ],
)
def test_links_and_devices_in_a_zip_are_refused(place, tmp_path, kind, called):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = zipfile.ZipInfo("set/entry")
        info.create_system = 3
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert f"'set/entry' is {called}" in failure(place, tmp_path, made.getvalue())


@pytest.mark.parametrize("make", FORMATS)
def test_too_many_bytes_are_refused(place, tmp_path, make):
    total = sum(map(len, CONTENT.values()))
    message = failure(place, tmp_path, make(CONTENT), limits=Limits(size=total - 1))
    assert f"its files exceed {total - 1:,} bytes" in message
    assert sum(map(len, contents(tmp_path / "outside/folder").values())) < total


@pytest.mark.parametrize("make", FORMATS)
def test_exactly_the_limit_is_allowed(place, make):
    total = sum(map(len, CONTENT.values()))
    assert place(make(CONTENT), limits=Limits(size=total, members=len(CONTENT))).name == "set"


def test_too_many_bytes_of_a_single_file_are_refused(place, tmp_path):
    bomb = gzip.compress(bytes(10**7))
    assert len(bomb) < 10**5
    assert "its files exceed 100,000 bytes" in failure(
        place, tmp_path, bomb, limits=Limits(size=10**5)
    )
    [path] = (tmp_path / "outside/folder").iterdir()
    assert path.stat().st_size <= 10**5


def test_a_size_that_is_a_lie_is_not_believed(place, tmp_path):
    """A zip that announces one byte and holds ten million."""
    honest = zipped({"set/bomb": bytes(10**7)})
    lie = honest.replace(struct.pack("<L", 10**7), struct.pack("<L", 1))
    assert lie != honest
    message = failure(place, tmp_path, lie, limits=Limits(size=10**5))
    assert "is damaged" in message  # its checksum is that of other bytes
    assert sum(map(len, contents(tmp_path / "outside/folder").values())) <= 10**5


@pytest.mark.parametrize("make", FORMATS)
def test_too_many_members_are_refused(place, tmp_path, make):
    message = failure(place, tmp_path, make(CONTENT), limits=Limits(members=3))
    assert "it has more than 3 entries" in message
    assert len(contents(tmp_path / "outside/folder")) <= 3


def test_a_name_without_end_is_refused_before_it_is_read(place, tmp_path):
    info = tarfile.TarInfo("set/" + "x" * 2**21)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(info)
    assert "an extended header of more than a mebibyte" in failure(place, tmp_path, made.getvalue())


def test_a_file_cannot_be_a_folder_too(place):
    with pytest.raises(OSError, match=r"Not a directory|File exists|Is a directory"):
        place(tar({"set/a": b"file", "set/a/b": b"below"}))


# Damage


def sizes(whole):
    """Where to cut: everywhere near the ends, and at many places between."""
    step = max(1, len(whole) // 60)
    return sorted({*range(0, min(600, len(whole)), 37), *range(0, len(whole) - 1, step)})


@pytest.mark.parametrize("make", [tar_gz, zipped, stored])
def test_a_truncated_archive_is_reported(place, tmp_path, make):
    whole = make(CONTENT)
    for size in [*sizes(whole), len(whole) - 1]:
        message = failure(place, tmp_path, whole[:size])
        assert re.search("is damaged|is not a tar, zip or gz", message), size


def test_a_truncated_tar_is_reported(place, tmp_path):
    whole = tar(CONTENT)
    end = len(whole.rstrip(b"\0"))
    # A tar ends with zeros, of which one block is as good as twenty.
    final = (sum(512 + -(-len(content) // 512) * 512 for content in CONTENT.values())) + 512
    assert end < final < len(whole)
    for size in [*(size for size in sizes(whole) if size < final), final - 512, final - 1]:
        message = failure(place, tmp_path, whole[:size])
        assert re.search("is damaged|is not a tar, zip or gz", message), size
    place(whole[:final])


def test_a_truncated_single_file_is_reported(place, tmp_path):
    whole = gzip.compress(CONTENT["set/deep/er/b.bin"])
    for size in [*sizes(whole), len(whole) - 1]:
        message = failure(place, tmp_path, whole[:size])
        assert re.search("is damaged|is not a tar, zip or gz", message), size


@pytest.mark.parametrize("make", [tar_gz, zipped, stored])
def test_a_flipped_byte_of_content_is_reported(place, tmp_path, make):
    whole = make(CONTENT)
    unharmed = 0
    for number in range(40):
        place_of_damage = len(whole) * (2 * number + 1) // 80
        damaged = bytearray(whole)
        damaged[place_of_damage] ^= 0x55
        with contextlib.suppress(DataError):
            folder = place(bytes(damaged))
            # Nobody needs that byte, which may be part of a date.
            assert {f"set/{n}": c for n, c in contents(folder).items()} == CONTENT
            unharmed += 1
        for path in sorted((tmp_path / "outside/folder").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert unharmed < 4


def test_the_checksum_after_the_end_is_looked_at(place, tmp_path):
    whole = bytearray(tar_gz(CONTENT))
    whole[-5] ^= 1  # CRC32, then the length, at the very end
    assert "is damaged" in failure(place, tmp_path, bytes(whole))


def test_a_damaged_header_is_not_taken_for_the_end(place, tmp_path):
    whole = bytearray(tar(CONTENT))
    second = 1024  # a header and a block of content before it
    assert whole[second : second + 9] == b"set/empty"
    whole[second + 3] ^= 1
    assert "is damaged (bad checksum)" in failure(place, tmp_path, bytes(whole))


@pytest.mark.parametrize(
    "content", [b"", b"<html>not here</html>", bytes(2000), b"PK", b"\x1f\x8b"]
)
def test_a_file_that_is_not_an_archive_is_reported(place, tmp_path, content):
    message = failure(place, tmp_path, content)
    assert re.search("is damaged|is not a tar, zip or gz", message)


@pytest.mark.parametrize("make", [tar, zipped])
def test_an_archive_without_files_is_reported(place, tmp_path, make):
    message = failure(place, tmp_path, make({}))
    assert re.search("is empty|is not a tar, zip or gz|is damaged", message)


def test_an_encrypted_zip_is_reported(place, tmp_path):
    whole = bytearray(stored({"set/a": b"secret"}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + flags] |= 1
    assert "is encrypted" in failure(place, tmp_path, bytes(whole))


def test_an_unknown_compression_is_reported(place, tmp_path):
    whole = bytearray(stored({"set/a": b"content"}))
    for signature, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        whole[whole.index(signature) + method] = 77
    assert "compression" in failure(place, tmp_path, bytes(whole))
