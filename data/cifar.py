"""The `image` and `scifar` data sets: CIFAR-10 pixel by pixel, in grayscale or in color.

Both read the official files, in the binary or in the Python version.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64, UInt8

from lastax.data._data_set import Data, DataSet, Remote
from lastax.data._errors import DataError
from lastax.data._folders import find, need, read_file
from lastax.data._pickles import read_pickle
from lastax.data._pictures import gray, standardize
from lastax.data._prepared import fingerprint, prepared
from lastax.data._sequence_files import (
    Decode,
    create_sequences,
    held_out,
    open_sequences,
    save_splits,
)
from lastax.data._skipping import HINT, Skipping, good_labels
from lastax.data._splits import random_split

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
PIXELS = 32 * 32
GRAY = {"mean": np.array([122.6 / 255], np.float32), "std": np.array([61 / 255], np.float32)}
COLOR = {
    "mean": np.array([0.4914, 0.4822, 0.4465], np.float32),
    "std": np.array([0.247, 0.243, 0.261], np.float32),
}
# Means over images of the deviations within each image.
PER_IMAGE = {**COLOR, "std": np.array([0.2023, 0.1994, 0.2010], np.float32)}
NORMALIZATIONS = MappingProxyType({"standard": COLOR, "per-image": PER_IMAGE})
VERSION = 1  # of the prepared files; increment it when the code that makes them changes
MISSING = (
    "run `lastax data fetch image`, or unpack cifar-10-binary.tar.gz or "
    "cifar-10-python.tar.gz there (root: --data-dir, LASTAX_DATA)"
)


def open_image(root: Path, *, skip_bad: bool = False) -> Data:
    """Grayscale CIFAR-10: records of 1,024 pixels in row-major order, `x` (1024, 1).

    x = (luminance / 255 - 122.6 / 255) / (61 / 255), as in Gu et al. (S4, ICLR 2022). A tenth of
    the official training images is held out for validation, drawn like torch's `random_split`
    with seed 42.

    Args:
        root: folder that holds all data sets.
        skip_bad: skip damaged images.

    Raises:
        DataError: if a file is missing or damaged; with `skip_bad`, only if a split is empty.
    """
    return _open(root, _gray, functools.partial(standardize, **GRAY), skip_bad)


def open_scifar(root: Path, *, normalization: str = "standard", skip_bad: bool = False) -> Data:
    """Color CIFAR-10: like `open_image`, with `x` (1024, 3), standardized red, green and blue.

    Args:
        root: folder that holds all data sets.
        normalization: "standard" divides by the standard deviation over all pixels, "per-image" by
            the mean of those within each image, as `example.py` of state-spaces/s4 does.
        skip_bad: skip damaged images.

    Raises:
        DataError: if a file is missing or damaged; with `skip_bad`, only if a split is empty.
        ValueError: if `normalization` is unknown.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"open_scifar: normalization must be one of {', '.join(NORMALIZATIONS)}; "
            f"got {normalization!r}"
        )
    decode = functools.partial(standardize, **NORMALIZATIONS[normalization])
    return _open(root, _colors, decode, skip_bad)


Planes = UInt8[np.ndarray, "n 3 1024"]
Convert = Callable[[Planes], UInt8[np.ndarray, "n 1024 d"]]


@dataclass(frozen=True)
class _Batch:
    """The images of one file as red, green and blue planes, and what is wrong with the file."""

    planes: Planes
    labels: Int64[np.ndarray, " n"]
    problem: str = ""


def _open(root: Path, convert: Convert, decode: Decode, skip_bad: bool) -> Data:
    folder = need(root, *_FORMATS, hint=MISSING)
    suffix, parse = _FORMATS[folder.name]
    paths = [folder / f"{name}{suffix}" for name in BATCHES]
    identity = {
        "version": VERSION,
        "files": fingerprint(paths),
        "pixels": convert.__name__,
        "skip_bad": skip_bad,
    }
    build = functools.partial(_build, paths=paths, parse=parse, convert=convert, skip=skip_bad)
    return open_sequences(prepared("cifar", identity, build), decode, CLASSES)


def _build(
    folder: Path,
    *,
    paths: list[Path],
    parse: Callable[[bytes], _Batch],
    convert: Convert,
    skip: bool,
) -> None:
    skipping = Skipping(skip)
    batches = [_read(path, parse) for path in paths]
    # The number of an image, and with it the published split, must not depend on missing images.
    size = max(len(batch.labels) for batch in batches)
    good, labels = np.zeros(len(paths) * size, bool), np.zeros(len(paths) * size, np.int32)
    shape = convert(batches[0].planes[:0]).shape[1:]
    x = create_sequences(folder, (len(labels), *shape), np.uint8)
    for number, (path, batch) in enumerate(zip(paths, batches, strict=True)):
        count = len(batch.labels)
        problem = batch.problem or f"has {count:,} images, but the largest batch has {size:,}"
        if batch.problem or count != size:
            with skipping.item(max(size - count, 1)):
                raise DataError(f"{path} {problem}; {HINT}")
        here = slice(number * size, number * size + count)
        x[here] = convert(batch.planes)
        labels[here] = batch.labels
        good[here] = good_labels(str(path), batch.labels, len(CLASSES), skipping)
    x.flush()
    training = size * (len(BATCHES) - 1)
    train, validation = random_split(training, held_out(training))
    splits = {"train": train, "validation": validation, "test": np.arange(training, len(labels))}
    save_splits(folder, labels, splits, good, where=paths[0].parent, skipped=skipping.count)


def _read(path: Path, parse: Callable[[bytes], _Batch]) -> _Batch:
    packed = read_file(path)
    try:
        return parse(packed)
    except DataError as error:
        return _Batch(np.zeros((0, 3, PIXELS), np.uint8), np.zeros(0, np.int64), str(error))


def _parse_binary(packed: bytes) -> _Batch:
    """Parse records of one label byte and three color planes."""
    count, rest = divmod(len(packed), 1 + 3 * PIXELS)
    problem = f"ends inside image {count + 1:,}" if rest else "" if count else "is empty"
    records = np.frombuffer(packed[: len(packed) - rest], np.uint8).reshape(count, 1 + 3 * PIXELS)
    return _Batch(records[:, 1:].reshape(count, 3, PIXELS), records[:, 0].astype(np.int64), problem)


def _parse_pickle(packed: bytes) -> _Batch:
    content = read_pickle(packed)
    try:
        pixels, labels = content["data"], np.array(content["labels"], np.int64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError('has no "data" and "labels"') from None
    if labels.ndim != 1 or getattr(pixels, "shape", None) != (len(labels), 3 * PIXELS):
        raise DataError(f'"data" does not match the {len(labels):,} "labels"')
    return _Batch(pixels.reshape(-1, 3, PIXELS), labels)


def _gray(planes: Planes) -> UInt8[np.ndarray, "n 1024 1"]:
    return gray(np.moveaxis(planes, 1, 2))[..., None]


def _colors(planes: Planes) -> UInt8[np.ndarray, "n 1024 3"]:
    return np.moveaxis(planes, 1, 2)


_FORMATS: Mapping[str, tuple[str, Callable[[bytes], _Batch]]] = MappingProxyType(
    {"cifar-10-batches-bin": (".bin", _parse_binary), "cifar-10-batches-py": ("", _parse_pickle)}
)


def _is_present(root: Path) -> bool:
    return find(root, *_FORMATS) is not None


IMAGE = DataSet(
    name="image",
    open=open_image,
    kind="image",
    needs="cifar-10-batches-bin/ or cifar-10-batches-py/: `lastax data fetch image`",
    present=_is_present,
    remotes=(
        Remote(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            unpacks_to="cifar-10-batches-bin",
        ),
    ),
    expected=MappingProxyType({"train": 45_000, "validation": 5_000, "test": 10_000}),
    size="170 MB",
    license="none stated",
    citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
SCIFAR = dataclasses.replace(IMAGE, name="scifar", open=open_scifar, options=("normalization",))
