"""The `pathfinder` and `pathx` data sets: whether two disks lie on the same dashed line.

Reads the published folders of the Long Range Arena, or files from `lastax data make pathfinder`.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from lastax.data._data_set import Data, DataSet
from lastax.data._errors import DataError
from lastax.data._folders import find, list_folder, need, read_file
from lastax.data._pictures import decode_png, standardize
from lastax.data._prepared import ABOUT, fingerprint, load_about, prepared
from lastax.data._sequence_files import create_sequences, open_sequences, save_splits
from lastax.data._skipping import HINT, Skipping
from lastax.data._splits import random_split

CLASSES = ("different lines", "same line")
Level = Literal["easy", "intermediate", "hard"]
LEVELS = MappingProxyType(
    {
        "easy": "curv_baseline",
        "intermediate": "curv_contour_length_9",
        "hard": "curv_contour_length_14",
    }
)
# The release has one empty file, which published results leave out.
EMPTY = "pathfinder32/curv_baseline/imgs/0/sample_172.png"
VERSION = 1  # of the prepared files; increment it when the code that makes them changes


def open_pathfinder(root: Path, *, level: str = "hard", skip_bad: bool = False) -> Data:
    """Pathfinder with 32 x 32 pixels: `x` (1024, 1) in -1..1, in row-major order.

    A tenth of the images is for validation and another tenth for test, drawn like torch's
    `random_split` with seed 42 from all rows of the metadata in order (Gu et al., S4, ICLR 2022).

    Args:
        root: folder that holds all data sets.
        level: difficulty "easy", "intermediate" or "hard": length of the lines.
        skip_bad: skip damaged images and invalid rows.

    Raises:
        DataError: if the folder is missing or an item is bad; with `skip_bad`, only if a split is
            empty.
        ValueError: if `level` is unknown.
    """
    return _open(root, 32, level, skip_bad)


def open_pathx(root: Path, *, level: str = "hard", skip_bad: bool = False) -> Data:
    """Path-X: like `open_pathfinder`, with 128 x 128 pixels, `x` (16384, 1)."""
    return _open(root, 128, level, skip_bad)


def make_pictures(
    side: int,
    root: Path,
    *,
    level: Level = "hard",
    count: int = 200_000,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Generate Pathfinder images in the published layout.

    Args:
        side: 32 or 128 pixels.
        root: folder that holds all data sets.
        level: difficulty: length of the lines.
        count: number of images.
        seed: random seed.
        workers: number of processes.
        on_progress: called with the number of existing images and the total.

    Raises:
        DataError: if the folder holds other images or cannot be written.
    """
    # Imported here, because opening a data set does not need the generator.
    from lastax.data.pathfinder_generator import generate

    generate(
        root,
        resolution=side,
        level=level,
        count=count,
        seed=seed,
        workers=workers,
        on_progress=on_progress,
    )


def _open(root: Path, side: int, level: str, skip_bad: bool) -> Data:
    if level not in LEVELS:
        raise ValueError(f"level must be one of {tuple(LEVELS)}; got {level!r}")
    task = {32: "pathfinder", 128: "pathx"}[side]
    hint = (
        f"run `lastax data make {task}`, or copy this folder from lra_release.gz (root: "
        "--data-dir, LASTAX_DATA)"
    )
    present = [name for name, part in LEVELS.items() if find(root, f"pathfinder{side}/{part}")]
    if present and level not in present:
        hint = f"pass --level {' or '.join(present)}, or {hint}"
    folder = need(root, f"pathfinder{side}/{LEVELS[level]}", hint=hint)
    if not _is_complete(folder):
        about = load_about(folder)
        raise DataError(
            f"{folder} is not complete: its generation was interrupted or still runs; to resume, "
            f"run `lastax data make {task} --level {level} --seed {about.get('seed')} --count "
            f"{about.get('count')}`"
        )
    tables = _tables(folder)
    # 200,000 images: only their folders are checked, which change when files are added or removed.
    pictures = [path for path in list_folder(folder / "imgs") if path.is_dir()]
    identity = {
        "version": VERSION,
        "files": fingerprint([*tables, *pictures], skip_bad=skip_bad),
        "skip_bad": skip_bad,
    }
    build = functools.partial(_build, tables=tables, side=side, skip=skip_bad)
    middle = np.full(1, 0.5, np.float32)
    decode = functools.partial(standardize, mean=middle, std=middle)
    return open_sequences(prepared(f"{task}-{level}", identity, build), decode, CLASSES)


def _is_complete(folder: Path) -> bool:
    """Whether all images exist. Published folders have no record of their generation."""
    return not (folder / ABOUT).exists() or load_about(folder).get("complete", True)


def _tables(folder: Path) -> list[Path]:
    """Metadata files, sorted by number."""
    tables = list_folder(folder / "metadata", ".npy")
    for table in tables:
        if not table.stem.isdecimal():
            raise DataError(f"{table}: its name is not a number; move it elsewhere")
    if not tables:
        raise DataError(f"{folder / 'metadata'} has no .npy file; restore it")
    return sorted(tables, key=lambda table: int(table.stem))


def _build(folder: Path, *, tables: list[Path], side: int, skip: bool) -> None:
    skipping = Skipping(skip)
    items = list(_items(tables))
    good, labels = np.zeros(len(items), bool), np.zeros(len(items), np.int32)
    x = create_sequences(folder, (len(items), side * side, 1), np.uint8)
    for number, item in enumerate(items):
        with skipping.item():
            labels[number] = item.label()
            x[number, :, 0] = item.picture(side).reshape(-1)
            good[number] = True
    x.flush()
    tenth = int(0.1 * len(items))
    lengths = (len(items) - 2 * tenth, tenth, tenth)
    splits = zip(("train", "validation", "test"), random_split(len(items), lengths), strict=True)
    save_splits(
        folder, labels, dict(splits), good, where=tables[0].parents[1], skipped=skipping.count
    )


class _Item(NamedTuple):
    """A row of metadata. `columns` are folder, name, number and label of an image."""

    folder: Path
    table: Path
    row: int
    columns: list[str]

    def label(self) -> int:
        if len(self.columns) < 4:
            raise self._error(f"{len(self.columns)} columns instead of 4 or more")
        if self.columns[3] not in ("0", "1"):
            raise self._error(f"label {self.columns[3][:40]!r} is not in 0..1")
        return int(self.columns[3])

    def path(self) -> Path:
        """Path of the image, which must be inside the folder of the level."""
        relative = PurePosixPath(*self.columns[:2])
        if relative.is_absolute() or ".." in relative.parts or "\0" in str(relative):
            raise self._error(f"{str(relative)[:80]!r} leads out of {self.folder}")
        return self.folder / relative

    def picture(self, side: int) -> UInt8[np.ndarray, "side side"]:
        path = self.path()
        packed = read_file(path)
        try:
            return decode_png(packed, size=side)
        except DataError as error:
            raise DataError(f"{path} {error} ({self._place()}); {HINT}") from None

    def _place(self) -> str:
        return f"{self.table}, row {self.row}"

    def _error(self, what: str) -> DataError:
        return DataError(f"{self._place()}: {what}; {HINT}")


def _items(tables: Iterable[Path]) -> Iterator[_Item]:
    """All rows in published order, without the image that was published empty."""
    for table in tables:
        folder = table.parent.parent
        empty = folder.parents[1] / EMPTY
        for number, columns in enumerate(_rows(table), start=1):
            item = _Item(folder, table, number, columns[:4])
            if folder / "/".join(columns[:2]) == empty and not read_file(empty):
                continue
            yield item


def _rows(table: Path) -> list[list[str]]:
    """The columns of each row. Published tables are text; the original generator wrote arrays."""
    packed = read_file(table)
    try:
        if packed.startswith(b"\x93NUMPY"):
            rows = np.load(io.BytesIO(packed), allow_pickle=False)
            if rows.ndim != 2 or rows.dtype.kind != "U":
                raise ValueError(f"an array of shape {rows.shape} and type {rows.dtype}")
            return rows.tolist()
        rows = [line.split() for line in packed.decode().splitlines()]
    except (ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{table} is not a table of text ({reason}); restore it") from None
    return [row for row in rows if row]


def _is_present(folder: str, root: Path) -> bool:
    found = (find(root, f"{folder}/{level}") for level in LEVELS.values())
    return any(path is not None and _is_complete(path) for path in found)


PATHFINDER = DataSet(
    name="pathfinder",
    open=open_pathfinder,
    kind="image",
    needs="pathfinder32/ (lra_release.gz) or `lastax data make pathfinder`",
    present=functools.partial(_is_present, "pathfinder32"),
    options=("level",),
    generate=functools.partial(make_pictures, 32),
    expected=MappingProxyType({"train": 160_000, "validation": 20_000, "test": 20_000}),
    size="0.8 GB per level",
    license="MIT (generator)",
    citation=(
        "D. Linsley et al., Learning Long-Range Spatial Dependencies with Horizontal Gated "
        "Recurrent Units, NeurIPS 2018; Y. Tay et al., Long Range Arena, ICLR 2021"
    ),
)
PATHX = dataclasses.replace(
    PATHFINDER,
    name="pathx",
    open=open_pathx,
    generate=functools.partial(make_pictures, 128),
    needs="pathfinder128/ (lra_release.gz) or `lastax data make pathx`",
    present=functools.partial(_is_present, "pathfinder128"),
    size="2 GB per level",
)
