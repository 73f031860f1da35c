"""The `smnist` and `psmnist` data sets: MNIST pixel by pixel, in order or permuted."""

import dataclasses
import functools
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64, UInt8

from lastax.data._data_set import Data, DataSet, Remote
from lastax.data._errors import DataError
from lastax.data._folders import need, read_file
from lastax.data._pictures import standardize
from lastax.data._prepared import fingerprint, prepared
from lastax.data._sequence_files import create_sequences, held_out, open_sequences, save_splits
from lastax.data._skipping import HINT, Skipping, good_labels
from lastax.data._splits import random_split

CLASSES = tuple("0123456789")
PARTS = ("train", "t10k")
PICTURES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
SIDE = 28
MOST = 2**30  # limit on the bytes of an unpacked file; the largest has 47,040,016
VERSION = 1  # of the prepared files; increment it when the code that makes them changes
MISSING = "run `lastax data fetch smnist`, or copy this file there (root: --data-dir, LASTAX_DATA)"
DAMAGED = "remove it and run `lastax data fetch smnist`"


def open_smnist(root: Path, *, skip_bad: bool = False) -> Data:
    """MNIST: digits of 784 pixels in row-major order, `x` (784, 1) in 0..1.

    A tenth of the official training images is held out for validation, drawn like torch's
    `random_split` with seed 42.

    Args:
        root: folder that holds all data sets.
        skip_bad: skip damaged images.

    Raises:
        DataError: if a file is missing or damaged; with `skip_bad`, only if a split is empty.
    """
    return _open(root, None, skip_bad)


def open_psmnist(root: Path, *, skip_bad: bool = False) -> Data:
    """Like `open_smnist`, with the pixels in the order `bit_reversal(784)`."""
    return _open(root, bit_reversal(SIDE * SIDE), skip_bad)


def bit_reversal(n: int) -> Int64[np.ndarray, " n"]:
    """The bit-reversal permutation of 0..n-1; for n = 784 it begins 0, 512, 256, 768, 128.

    Reverses the bits of all numbers below the next power of two and drops results of n or more.
    Gu et al. (S4) use this permutation for psMNIST.
    """
    bits = (n - 1).bit_length()
    numbers = np.arange(2**bits)
    reversed_numbers = np.zeros_like(numbers)
    for bit in range(bits):
        reversed_numbers |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    return reversed_numbers[reversed_numbers < n]


def _open(root: Path, order: Int64[np.ndarray, " L"] | None, skip_bad: bool) -> Data:
    paths = [_find(root, f"{part}-{content}") for part in PARTS for content in (PICTURES, LABELS)]
    identity = {"version": VERSION, "files": fingerprint(paths), "skip_bad": skip_bad}
    build = functools.partial(_build, paths=paths, skip=skip_bad)
    decode = functools.partial(
        standardize, mean=np.zeros(1, np.float32), std=np.ones(1, np.float32), order=order
    )
    return open_sequences(prepared("mnist", identity, build), decode, CLASSES)


def _find(root: Path, name: str) -> Path:
    dotted = name.replace("-idx", ".idx")  # as some copies are named
    names = [
        f"{folder}/{written}{end}"
        for written in (name, dotted)
        for end in (".gz", "")
        for folder in ("mnist", "MNIST/raw")
    ]
    return need(root, *names, hint=MISSING, is_file=True)


def _build(folder: Path, *, paths: list[Path], skip: bool) -> None:
    skipping = Skipping(skip)
    files = [_read(path, dimensions) for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)]
    training, test = files[0].count, files[2].count
    good, labels = np.zeros(training + test, bool), np.zeros(training + test, np.int32)
    x = create_sequences(folder, (training + test, SIDE * SIDE, 1), np.uint8)
    for start, pair in ((0, files[:2]), (training, files[2:])):
        pictures, numbers = pair
        _check_pair(pictures, numbers)
        whole = min(len(pictures.rows), len(numbers.rows))
        with skipping.item(pictures.count - whole):
            for file in pair:
                if len(file.rows) < file.count:
                    ends = f"ends inside row {len(file.rows) + 1:,} of {file.count:,}"
                    raise DataError(f"{file.path} {ends}; {HINT}")
        here = slice(start, start + whole)
        x[here] = pictures.rows[:whole].reshape(whole, -1, 1)
        labels[here] = numbers.rows[:whole]
        good[here] = good_labels(str(numbers.path), labels[here], len(CLASSES), skipping)
    x.flush()
    train, validation = random_split(training, held_out(training))
    splits = {"train": train, "validation": validation, "test": np.arange(training, len(labels))}
    save_splits(folder, labels, splits, good, where=paths[0].parent, skipped=skipping.count)


@dataclass(frozen=True)
class _File:
    """The complete rows of a file whose header declares `count` rows."""

    path: Path
    count: int
    rows: UInt8[np.ndarray, "n ..."]


def _check_pair(pictures: _File, labels: _File) -> None:
    if pictures.rows.shape[1:] != (SIDE, SIDE):
        height, width = pictures.rows.shape[1:]
        raise DataError(
            f"{pictures.path} has images of {height} x {width} instead of 28 x 28; {DAMAGED}"
        )
    if pictures.count != labels.count:
        raise DataError(
            f"{labels.path} has {labels.count:,} labels for the {pictures.count:,} images in "
            f"{pictures.path}; {DAMAGED}"
        )


def _read(path: Path, dimensions: int) -> _File:
    packed = read_file(path)
    try:
        if path.suffix == ".gz":
            packed = _unpack(packed)
        return _File(path, *parse_idx(packed, dimensions))
    except DataError as error:
        raise DataError(f"{path} {error}; {DAMAGED}") from None


def _unpack(packed: bytes) -> bytes:
    """Content of a gzip file; if it is truncated, the available part."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = unpacker.decompress(packed, MOST)
    except zlib.error as error:
        raise DataError(f"is damaged or not a gzip file ({error})") from None
    if unpacker.unconsumed_tail:
        raise DataError(f"unpacks to more than {MOST:,} bytes")
    return content


def parse_idx(packed: bytes, dimensions: int) -> tuple[int, UInt8[np.ndarray, "n ..."]]:
    """Parse an IDX file of unsigned bytes.

    Returns:
        The number of rows that the header declares, and the rows that are complete.

    Raises:
        DataError: if the header is wrong. The message is the reason alone; callers prepend the
            file name.
    """
    magic = bytes((0, 0, 8, dimensions))
    header = 4 + 4 * dimensions
    if not packed:
        raise DataError("is empty")
    if packed[:4] != magic:
        raise DataError(f"begins with {packed[:4].hex()} instead of {magic.hex()} (IDX)")
    if len(packed) < header:
        raise DataError("ends inside its header")
    count, *shape = np.frombuffer(packed, ">u4", dimensions, 4).tolist()
    size = math.prod(shape)
    content = np.frombuffer(packed, np.uint8, offset=header)
    if not 0 < size <= MOST or len(content) > count * size:
        raise DataError(
            f"declares {count:,} rows of {size:,} bytes, but has {len(content):,} bytes"
        )
    whole = len(content) // size
    return count, content[: whole * size].reshape(whole, *shape)


def _is_present(root: Path) -> bool:
    try:
        return all(_find(root, f"{part}-{PICTURES}") for part in PARTS)
    except DataError:
        return False


SMNIST = DataSet(
    name="smnist",
    open=open_smnist,
    kind="image",
    needs="mnist/, the four files as published: `lastax data fetch smnist`",
    present=_is_present,
    remotes=tuple(
        Remote(
            url=f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz",
            size=size,
            sha256=sha256,
            unpacks_to=f"mnist/{name}.gz",
        )
        for name, size, sha256 in (
            (
                f"train-{PICTURES}",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            (
                f"train-{LABELS}",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            (
                f"t10k-{PICTURES}",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            (
                f"t10k-{LABELS}",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        )
    ),
    expected=MappingProxyType({"train": 54_000, "validation": 6_000, "test": 10_000}),
    size="12 MB",
    license="none stated",
    citation=(
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to Document "
        "Recognition, Proceedings of the IEEE 86(11), 1998"
    ),
)
PSMNIST = dataclasses.replace(SMNIST, name="psmnist", open=open_psmnist)
