"""Make the small picture data sets below `fixtures/`, each in the layout of the official files.

    python tests/data/image_fixtures.py [FOLDER]

`cifar-10-batches-bin/` and `cifar-10-batches-py/` (the same two pictures a batch; pickles as
Python 2 wrote them), `mnist/` (IDX, packed), `pathfinder32/` and `pathfinder128/` (PNG pictures
and tables, of text and of numpy's binary kind).
"""

import gzip
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).with_name("fixtures")
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
A_BATCH = 2
DIGITS = {"train": 20, "t10k": 4}
LEVELS = ("curv_baseline", "curv_contour_length_9", "curv_contour_length_14")


def pixels(number: int, *shape: int) -> np.ndarray:
    """Some gray levels, other ones for each number; all of 0..255 in a large picture."""
    count = np.arange(np.prod(shape), dtype=np.int64)
    return (
        ((count * (2 * number + 1) + count // 7 * 31 + 13 * number) % 256)
        .astype(np.uint8)
        .reshape(shape)
    )


def label(number: int, classes: int = 10) -> int:
    """The label of picture `number`."""
    return (7 * number + 3) % classes


def write(path: Path, content: bytes) -> None:
    """Write a file below folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# CIFAR-10. Picture `number` has three planes of color, `pixels(number, 3, 1024)`.


def cifar_numbers(batch: str) -> range:
    """The numbers of a batch's pictures."""
    start = BATCHES.index(batch) * A_BATCH
    return range(start, start + A_BATCH)


def binary_batch(numbers: range) -> bytes:
    """Records of a label and three planes."""
    return b"".join(
        bytes([label(number)]) + pixels(number, 3, 1024).tobytes() for number in numbers
    )


def pickled_batch(batch: str, numbers: range) -> bytes:
    """What Python 2 pickled (protocol 2) with the numpy of 2009, operation by operation."""

    def text(value: str) -> bytes:  # SHORT_BINSTRING, a text of bytes
        return b"U" + bytes([len(value)]) + value.encode()

    def small(value: int) -> bytes:
        return b"K" + bytes([value])

    data = b"".join(pixels(number, 3, 1024).tobytes() for number in numbers)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        + b"cnumpy\nndarray\n"
        + small(0)
        + b"\x85"  # the shape (0,)
        + text("b")
        + b"\x87R"  # call
        + b"("
        + small(1)  # version
        + small(len(numbers))
        + b"M"
        + struct.pack("<H", 3072)
        + b"\x86"  # the shape (n, 3072)
        + b"cnumpy\ndtype\n"
        + text("u1")
        + small(0)
        + small(1)
        + b"\x87R"
        + b"("
        + small(3)
        + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        + small(0)
        + b"tb"
        + b"\x89"  # not by columns
        + b"T"
        + struct.pack("<I", len(data))
        + data
        + b"tb"
    )
    labels = b"](" + b"".join(small(label(number)) for number in numbers) + b"e"
    names = b"](" + b"".join(text(f"picture_s_{number:06}.png") for number in numbers) + b"e"
    items = (
        text("batch_label")
        + text(batch.replace("_", " "))
        + text("labels")
        + labels
        + text("data")
        + array
        + text("filenames")
        + names
    )
    return b"\x80\x02}(" + items + b"u."


def write_cifar(root: Path) -> None:
    """Both kinds of CIFAR-10's files."""
    for batch in BATCHES:
        numbers = cifar_numbers(batch)
        write(root / f"cifar-10-batches-bin/{batch}.bin", binary_batch(numbers))
        write(root / f"cifar-10-batches-py/{batch}", pickled_batch(batch, numbers))


# MNIST. Digit `number` is `pixels(number, 28, 28)`, test digits counted from 1000.


def digit_numbers(part: str) -> range:
    """The numbers of a part's digits."""
    start = {"train": 0, "t10k": 1000}[part]
    return range(start, start + DIGITS[part])


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path) -> None:
    """The four files of MNIST."""
    for part in DIGITS:
        numbers = digit_numbers(part)
        pictures = np.stack([pixels(number, 28, 28) for number in numbers])
        labels = np.array([label(number) for number in numbers], np.uint8)
        for name, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            write(root / f"mnist/{part}-{name}-ubyte.gz", gzip.compress(idx(array), mtime=0))


# Pathfinder. Sample `k` of table `t` of a level shows `picture(100 t + k, side)`.


def png(gray: np.ndarray) -> bytes:
    """A gray picture of 8 bits as a PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width = gray.shape
    lines = b"".join(b"\0" + line.tobytes() for line in gray)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )


def picture(number: int, side: int) -> np.ndarray:
    """A few bright bars."""
    gray = np.zeros((side, side), np.uint8)
    for bar in range(4):
        row, column = (number * 5 + bar * 7) % side, (number * 3 + bar * 11) % (side - 4)
        gray[row, column : column + 4] = 255 - 20 * bar - number % 20
    return gray


def row(table: int, sample: int) -> list[str]:
    """A row of metadata: where the picture is, its number, label, and settings."""
    values = (sample, label(100 * table + sample, 2), 1.8, 14, 4, 2, 0.5, 1, 1)
    return [f"imgs/{table}", f"sample_{sample}.png", *map(str, values)]


def write_level(folder: Path, side: int, tables: dict[int, range]) -> None:
    """One level: tables below 10 as text, as published, others as the first generator's arrays."""
    for table, samples in tables.items():
        rows = [row(table, sample) for sample in samples]
        for sample in samples:
            content = png(picture(100 * table + sample, side))
            write(folder / f"imgs/{table}/sample_{sample}.png", content)
        path = folder / f"metadata/{table}.npy"
        write(path, "".join(" ".join(columns) + "\n" for columns in rows).encode())
        if table >= 10:
            np.save(path, np.array(rows, "<U32"))


def write_pathfinder(root: Path) -> None:
    """Two tables of the hard level at 32 pixels, one at 128, one of the easy level at 32."""
    write_level(root / "pathfinder32/curv_contour_length_14", 32, {2: range(12), 10: range(9)})
    write_level(root / "pathfinder128/curv_contour_length_14", 128, {0: range(10)})
    easy = root / "pathfinder32/curv_baseline"
    write_level(easy, 32, {0: range(165, 176)})
    write(easy / "imgs/0/sample_172.png", b"")  # as published


def main(folder: Path = FIXTURES) -> None:
    """Write all of them."""
    write_cifar(folder)
    write_mnist(folder)
    write_pathfinder(folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
