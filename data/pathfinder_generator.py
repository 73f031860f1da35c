"""A generator for Pathfinder images: two disks on the same dashed line, or on two lines.

    lastax.data.pathfinder_generator.generate(Path("data"), resolution=32, count=20_000)

The images follow the published rules (Linsley et al., NeurIPS 2018; sizes of the Long Range
Arena). The generator is a few hundred times faster than the published one. There are two
differences: probabilities are rounded to multiples of 1/65,536, and the number of short snakes in
the easier levels, which is not published, is derived from the hard level.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8, UInt64

from lastax.data._atomic import file_lock, publish, staging_folder, unwritable
from lastax.data._errors import DataError
from lastax.data._folders import list_folder
from lastax.data._pathfinder_pictures import draw
from lastax.data._pathfinder_pictures import sample_sheet as sample_sheet
from lastax.data._pathfinder_scenes import place_contours, place_distractors
from lastax.data._pathfinder_settings import LEVELS, SETTINGS, Level, Settings
from lastax.data._pathfinder_snakes import Kit, make_kit
from lastax.data._prepared import ABOUT, load_about, save_about
from lastax.data._processes import ordered_map
from lastax.data._random_tree import below, children, root_key

BATCH = 1000  # images per folder
VERSION = 1  # of the images; increment it when they change for the same seed
# Children of the key of an image, far from those that place its snakes.
_LABEL, _MARGIN, _SNAKE = (2**41 + number for number in range(3))


class Parameters(NamedTuple):
    """Content of images. Points are (row, column); a paddle is given by its two ends.

    Attributes:
        margins: half the gap between paddles.
        tries: number of tries for the two long snakes.
        contours: the two long snakes, from tail to head.
        distractors: the short snakes; NaN for snakes without a place.
        marked: the long snake with a marker at its tail, and the one with a marker at its head.
    """

    margins: Int64[np.ndarray, " n"]
    tries: Int64[np.ndarray, " n"]
    contours: Float64[np.ndarray, "n 2 length 2 2"]
    distractors: Float64[np.ndarray, "n snakes short 2 2"]
    marked: Int64[np.ndarray, "n 2"]


class Pictures(NamedTuple):
    """Images, labels (1: both markers on one snake, 0: on two) and content."""

    images: UInt8[np.ndarray, "n side side"]
    labels: Int64[np.ndarray, " n"]
    parameters: Parameters


def draw_images(resolution: int, level: str, seed: int, first: int, count: int) -> Pictures:
    """Images `first` to `first + count - 1` of the endless set that the other arguments define.

    Args:
        resolution: side of an image in pixels: 32, 64, 128 or 256.
        level: "easy", "intermediate" or "hard": long snakes have 6, 9 or 14 paddles.
        seed: random seed, not negative.
        first: number of the first image, not negative.
        count: number of images, at least 1.

    Raises:
        ValueError: if an argument is out of range.
    """
    settings, difficulty = _set(resolution, level)
    for name, value, least in (("seed", seed, 0), ("first", first, 0), ("count", count, 1)):
        if value < least:
            raise ValueError(f"draw_images: {name} must be at least {least}; got {value}")
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
    """Write images in the published layout: `pathfinder32/curv_.../imgs/0/...`.

    Image k depends only on `resolution`, `level` and `seed`. A folder of 1,000 images is complete
    when its metadata file exists. The same call resumes an interrupted one, and a later call can
    add images. The data set cannot be opened until the call has ended.

    Args:
        root: folder that holds all data sets.
        resolution: side of an image in pixels: 32, 64, 128 or 256.
        level: "easy", "intermediate" or "hard": long snakes have 6, 9 or 14 paddles.
        count: number of images.
        seed: random seed, not negative.
        workers: number of processes.
        on_progress: called with the number of existing images and the total.

    Raises:
        ValueError: if the resolution or level is unknown.
        DataError: if the folder holds other images or cannot be written, or `seed` or `count` is
            out of range.
    """
    _, difficulty = _set(resolution, level)
    if seed < 0 or count < 1:
        raise DataError(
            f"Pathfinder: seed and count must be at least 0 and 1; got {seed} and {count}"
        )
    folder = root / f"pathfinder{resolution}" / difficulty.folder
    about = {"generator": "pathfinder", "version": VERSION, "seed": seed}
    sizes = {batch: min(BATCH, count - batch * BATCH) for batch in range(-(-count // BATCH))}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder.with_name(f".{folder.name}.lock")):
            _claim(folder, about)
            missing = [item for item in sizes.items() if not _is_made(folder, *item)]
            done = count - sum(size for _, size in missing)
            if missing:
                _save_about(folder, {**about, "complete": False, "count": count})
            make = functools.partial(_make_batch, folder, resolution, level, seed)
            with contextlib.closing(ordered_map(make, missing, workers=workers)) as made:
                for size in made:
                    done += size
                    if on_progress is not None:
                        on_progress(done, count)
            _save_about(folder, {**about, "complete": True})
    except OSError as error:
        raise unwritable(folder, error) from error


def _set(resolution: int, level: str) -> tuple[Settings, Level]:
    if resolution not in SETTINGS:
        raise ValueError(f"resolution must be one of {tuple(SETTINGS)}; got {resolution}")
    if level not in LEVELS:
        raise ValueError(f"level must be one of {tuple(LEVELS)}; got {level!r}")
    return SETTINGS[resolution], LEVELS[level]


def _draw(
    kit: Kit, level: Level, keys: UInt64[np.ndarray, " n"], margins: Int64[np.ndarray, " n"]
) -> Pictures:
    """The images of `keys`, which all have the same margin."""
    contours = place_contours(kit, level.contour_length, keys)
    distractors = place_distractors(kit, level, contours.paddles, keys)
    labels, tail = below(2, keys, _LABEL), below(2, keys, _SNAKE)
    marked = np.stack([tail, np.where(labels == 1, tail, 1 - tail)])
    # Paddles alternate between the two snakes: the first two hold tails, the last two heads.
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
    """Both ends of each paddle, the one nearer to the tail first."""
    raster, row, column, direction = np.moveaxis(snakes, 2, 0)
    angle = kit.paddles.angles[direction]
    drawn_from = np.stack([row, column]).astype(np.float64)
    drawn_to = drawn_from + kit.settings.paddle_length * np.stack([np.sin(angle), np.cos(angle)])
    # First paddles are drawn from tail to head, all others from head to tail.
    ends = np.stack([drawn_from, drawn_to])
    ends = np.where(direction < 360, ends, ends[::-1])
    ends = np.where(raster < 0, np.nan, ends)
    return np.moveaxis(ends, (4, 2, 3, 0, 1), (0, 1, 2, 3, 4))


def _claim(folder: Path, about: Mapping[str, object]) -> None:
    """Raise DataError if `folder` holds anything but what `about` describes."""
    if (folder / ABOUT).exists():
        there = load_about(folder)
        if any(there.get(name) != value for name, value in about.items()):
            raise DataError(
                f"{folder} has images of seed {there.get('seed')} and version "
                f"{there.get('version')}; remove it, or choose another folder with --data-dir"
            )
    elif list_folder(folder):
        raise DataError(
            f"{folder} has images from another source; remove it, or choose another folder with "
            "--data-dir"
        )


def _save_about(folder: Path, about: Mapping[str, object]) -> None:
    """Replace the facts about `folder` atomically."""
    with staging_folder(folder / ABOUT) as staging:
        save_about(staging, about)
        publish(staging / ABOUT, folder / ABOUT)


def _metadata(folder: Path, batch: int) -> Path:
    return folder / "metadata" / f"{batch}.npy"


def _is_made(folder: Path, batch: int, size: int) -> bool:
    """Whether `batch` exists with at least `size` images."""
    path = _metadata(folder, batch)
    return path.exists() and path.read_bytes().count(b"\n") >= size


def _make_batch(
    folder: Path, resolution: int, level: str, seed: int, numbered: tuple[int, int]
) -> int:
    """Write the images of a batch, then its metadata. Returns the number of images."""
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
    publish(unfinished, metadata)
    return size


def _rows(resolution: int, level: str, folder: str, names: list[str], drawn: Pictures) -> list[str]:
    """Lines of metadata: folder, name, number, label and parameters of each image."""
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
            1,  # number of contrasts
        )
        rows.append(" ".join(map(str, columns)) + "\n")
    return rows
