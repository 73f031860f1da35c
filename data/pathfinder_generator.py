"""Pathfinder pictures made anew: two disks on one dashed line, or on two.

    lastax.data.pathfinder_generator.generate(Path("data"), resolution=32, count=20_000)

Drawn by the rules of the published ones (Linsley et al., NeurIPS 2018; sizes of the Long Range
Arena), a few hundred times as fast. Two things are our own: chances are rounded to parts in
65,536, and the number of short snakes in the easier levels, which is not published, follows from
the hard one's.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8, UInt64

from lastax.data._atomic import alone, finish, unwritable
from lastax.data._errors import DataError
from lastax.data._pathfinder_pictures import draw
from lastax.data._pathfinder_pictures import sample_sheet as sample_sheet
from lastax.data._pathfinder_scenes import place_contours, place_distractors
from lastax.data._pathfinder_settings import LEVELS, SETTINGS, Level, Settings
from lastax.data._pathfinder_snakes import Kit, make_kit
from lastax.data._prepared import ABOUT, load_about, save_about
from lastax.data._processes import in_order
from lastax.data._random_tree import below, children, root_key

BATCH = 1000  # pictures in a folder
VERSION = 1  # of the pictures: count it up when they change for the same seed
# Children of a picture's key, far from those that place its snakes.
_LABEL, _MARGIN, _SNAKE = (2**41 + number for number in range(3))


class Parameters(NamedTuple):
    """What pictures show. Points are (row, column); a paddle is its two ends.

    Attributes:
        margins: half the gap between paddles.
        tries: at the two long snakes, until one succeeded.
        contours: the two long snakes, from tail to head.
        distractors: the short ones; NaN where one found no room.
        marked: which of the long snakes has a marker at its tail, and which at its head.
    """

    margins: Int64[np.ndarray, " n"]
    tries: Int64[np.ndarray, " n"]
    contours: Float64[np.ndarray, "n 2 length 2 2"]
    distractors: Float64[np.ndarray, "n snakes short 2 2"]
    marked: Int64[np.ndarray, "n 2"]


class Pictures(NamedTuple):
    """Pictures, whether their markers lie on one snake (1) or on two (0), and what they show."""

    images: UInt8[np.ndarray, "n side side"]
    labels: Int64[np.ndarray, " n"]
    parameters: Parameters


def draw_images(resolution: int, level: str, seed: int, first: int, count: int) -> Pictures:
    """Pictures `first` to `first + count - 1` of the endless set that the other arguments name.

    Args:
        resolution: pixels a side, 32, 64, 128 or 256.
        level: "easy", "intermediate" or "hard": long snakes have 6, 9 or 14 paddles.
        seed: not negative.
        first: number of the first picture, not negative.
        count: how many, one or more.

    Raises:
        ValueError: if there is no such set or picture.
    """
    settings, difficulty = _set(resolution, level)
    if seed < 0 or first < 0 or count < 1:
        raise ValueError(
            f"draw_images: seed is {seed}, first {first} and count {count}; must be at least 0, "
            "0 and 1"
        )
    root = root_key(seed, resolution, difficulty.contour_length)
    keys = children(np.repeat(root, count), first + np.arange(count))
    margins = np.array(settings.margins)[below(len(settings.margins), keys, _MARGIN)]
    parts, order = [], []
    for margin in settings.margins:
        alike = np.flatnonzero(margins == margin)
        for start in range(0, len(alike), BATCH):
            some = alike[start : start + BATCH]
            parts.append(_draw(make_kit(settings, margin), difficulty, keys[some], margins[some]))
            order.append(some)
    back = np.argsort(np.concatenate(order))
    images, labels, parameters = zip(*parts, strict=True)
    return Pictures(
        np.concatenate(images)[back],
        np.concatenate(labels)[back],
        Parameters(*(np.concatenate(field)[back] for field in zip(*parameters, strict=True))),
    )


def generate(
    root: Path,
    *,
    resolution: int,
    level: str = "hard",
    count: int = 200_000,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write pictures below `root` in the published layout: `pathfinder32/curv_.../imgs/0/...`.

    Picture k depends on `resolution`, `level` and `seed` only. A folder of 1,000 counts from when
    its file of metadata is there: what was broken off goes on where it stopped, and more pictures
    of a set may be asked for later.

    Args:
        root: of all data sets.
        resolution: pixels a side, 32, 64, 128 or 256.
        level: "easy", "intermediate" or "hard": long snakes have 6, 9 or 14 paddles.
        count: how many pictures.
        seed: not negative.
        workers: processes.
        on_progress: called with pictures that are there and pictures in all.

    Raises:
        ValueError: if there is no such resolution or level.
        DataError: if other pictures are there already, or the folder cannot be written.
    """
    _, difficulty = _set(resolution, level)
    if seed < 0 or count < 1:
        raise DataError(f"Pathfinder: seed is {seed}, count is {count}; make them 0 and 1 or more")
    folder = root / f"pathfinder{resolution}" / difficulty.folder
    about = {"generator": "pathfinder", "version": VERSION, "seed": seed}
    sizes = {batch: min(BATCH, count - batch * BATCH) for batch in range(-(-count // BATCH))}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder.with_name(f".{folder.name}.lock")):
            _claim(folder, about)
            missing = [item for item in sizes.items() if not _is_made(folder, *item)]
            done = count - sum(size for _, size in missing)
            make = functools.partial(_make_batch, folder, resolution, level, seed)
            with contextlib.closing(in_order(make, missing, workers=workers)) as made:
                for size in made:
                    done += size
                    if on_progress is not None:
                        on_progress(done, count)
    except OSError as error:
        raise unwritable(folder, error) from error


def _set(resolution: int, level: str) -> tuple[Settings, Level]:
    if resolution not in SETTINGS:
        raise ValueError(f"resolution is {resolution}, must be one of {tuple(SETTINGS)}")
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, must be one of {tuple(LEVELS)}")
    return SETTINGS[resolution], LEVELS[level]


def _draw(
    kit: Kit, level: Level, keys: UInt64[np.ndarray, " n"], margins: Int64[np.ndarray, " n"]
) -> Pictures:
    """The pictures of `keys`, all of the same margin."""
    contours = place_contours(kit, level.contour_length, keys)
    distractors = place_distractors(kit, level, contours.paddles, keys)
    labels, tail = below(2, keys, _LABEL), below(2, keys, _SNAKE)
    marked = np.stack([tail, np.where(labels == 1, tail, 1 - tail)])
    # Of paddles that lie by turns in the two snakes, the first two hold tails, the last two heads.
    chosen = marked + np.array([[0], [2 * level.contour_length - 2]])
    points = contours.paddles[chosen, 1:3, np.arange(len(keys))]
    images = draw(kit, contours.paddles, distractors.reshape(-1, 4, len(keys)), points)
    by_snake = contours.paddles.reshape(-1, 2, 4, len(keys)).swapaxes(0, 1)
    return Pictures(
        images,
        labels,
        Parameters(
            margins, contours.tries, _ends(kit, by_snake), _ends(kit, distractors), marked.T
        ),
    )


def _ends(
    kit: Kit, snakes: Int32[np.ndarray, "snakes length 4 n"]
) -> Float64[np.ndarray, "n snakes length 2 2"]:
    """Both ends of each paddle, first the one nearer to the tail."""
    raster, row, column, direction = np.moveaxis(snakes, 2, 0)
    angle = kit.paddles.angles[direction]
    drawn_from = np.stack([row, column]).astype(np.float64)
    drawn_to = drawn_from + kit.settings.paddle_length * np.stack([np.sin(angle), np.cos(angle)])
    # First paddles are drawn from the tail on, all others from the head back.
    ends = np.stack([drawn_from, drawn_to])
    ends = np.where(direction < 360, ends, ends[::-1])
    ends = np.where(raster < 0, np.nan, ends)
    return np.moveaxis(ends, (4, 2, 3, 0, 1), (0, 1, 2, 3, 4))


def _claim(folder: Path, about: Mapping[str, object]) -> None:
    """Make sure that `folder` holds nothing but what `about` describes."""
    if (folder / ABOUT).exists():
        there = load_about(folder)
        if there != about:
            raise DataError(
                f"{folder} holds pictures made from seed {there.get('seed')} by version "
                f"{there.get('version')}; remove it or name another folder by --data-dir"
            )
    elif any(folder.iterdir()):
        raise DataError(
            f"{folder} holds pictures from elsewhere; remove it or name another folder by "
            "--data-dir"
        )
    else:
        save_about(folder, about)


def _metadata(folder: Path, batch: int) -> Path:
    return folder / "metadata" / f"{batch}.npy"


def _is_made(folder: Path, batch: int, size: int) -> bool:
    """Whether `batch` is there with `size` pictures or more."""
    path = _metadata(folder, batch)
    return path.exists() and path.read_bytes().count(b"\n") >= size


def _make_batch(
    folder: Path, resolution: int, level: str, seed: int, numbered: tuple[int, int]
) -> int:
    """Write the pictures of a batch, then its metadata; how many they are."""
    from PIL import Image

    batch, size = numbered
    drawn = draw_images(resolution, level, seed, batch * BATCH, size)
    pictures = folder / "imgs" / str(batch)
    pictures.mkdir(parents=True, exist_ok=True)
    names = [f"sample_{number}.png" for number in range(size)]
    for name, image in zip(names, drawn.images, strict=True):
        Image.fromarray(image).save(pictures / name)
    metadata = _metadata(folder, batch)
    metadata.parent.mkdir(exist_ok=True)
    unfinished = metadata.with_name(f".{metadata.name}.part")
    rows = _rows(resolution, level, f"imgs/{batch}", names, drawn)
    unfinished.write_text("".join(rows), encoding="ascii")
    finish(unfinished, metadata)
    return size


def _rows(resolution: int, level: str, folder: str, names: list[str], drawn: Pictures) -> list[str]:
    """Lines of metadata: folder, name, number, label and parameters of each picture."""
    settings, difficulty = _set(resolution, level)
    rows = []
    for number, name in enumerate(names):
        columns = (
            folder,
            name,
            number,
            drawn.labels[number],
            settings.continuity,
            difficulty.contour_length,
            difficulty.distractor_length,
            settings.paddle_length,
            settings.paddle_thickness,
            drawn.parameters.margins[number],
            1,  # kinds of contrast
        )
        rows.append(" ".join(map(str, columns)) + "\n")
    return rows
