"""The `arrays` data set: your own numeric sequences in one `.npz` file."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, Int64, Integer, Shaped

from lastax._cache_folder import with_home
from lastax.data._data_set import Data, DataSet
from lastax.data._files import padded_record, read_numbers
from lastax.data._npz import Npz
from lastax.data._pipeline import Example
from lastax.data._prepared import ArrayWriter, StoredArray, fingerprint, load_about, prepared
from lastax.data._ragged import open_ragged, save_lengths
from lastax.data._sequence_files import save_splits
from lastax.data._skipping import HINT, Skipping
from lastax.data._sources import TokenSequences
from lastax.data._splits import random_split

SPLITS = ("train", "validation", "test")
NAMES = (*(f"{kind}_{split}" for split in SPLITS for kind in ("x", "y", "lengths")), "classes")
COMPACT = {
    np.dtype(kind) for kind in (np.uint8, np.int8, np.int16)
}  # stored unchanged; all other dtypes become float32
MOST_TOKENS = 2**20  # a larger vocabulary is a mistake
VERSION = 2  # of the prepared files; increment it when the code that makes them changes


def open_arrays(root: Path | None = None, *, data: str | Path, skip_bad: bool = False) -> Data:
    """Sequences from `numpy.savez(file, x_train=..., y_train=..., ...)`.

    - `x_train` (n, L, d): numbers of any dtype, used in float32 without scaling. Standardize them.
    - `x_train` (n, L): one number per step if they are floating-point numbers or booleans, but
      tokens 0, 1, ... if they are integers. Save integers that are no tokens as (n, L, 1).
    - `y_train` (n,): labels 0..k-1. Each label must occur.
    - `x_validation`, `y_validation`, `x_test`, `y_test`: the same, with the same L and d. If one
      of these splits is missing, it gets a tenth of the training rows, drawn like torch's
      `random_split` with seed 42 in the order train, validation, test.
    - `lengths_train`, ... (n,), optional: number of steps of each sequence without padding. The
      values of padding are ignored, and records have "length".
    - `classes` (k,), optional: names of the labels.

    Args:
        root: folder of the other data sets; not used.
        data: the file.
        skip_bad: skip rows whose label or length is out of range, or whose values are not finite.

    Raises:
        DataError: if the file is damaged, an array is missing, has a wrong shape or is not
            numeric, or a row is bad; with `skip_bad`, only if no row of a split is good.
    """
    del root
    file = Npz(with_home(data))
    identity = {"version": VERSION, "file": fingerprint([file.path]), "skip_bad": skip_bad}
    ready = prepared("arrays", identity, functools.partial(_build, file=file, skip=skip_bad))
    about = load_about(ready)
    size = about["input_size"]
    classes = tuple(about["classes"])
    if about["tokens"]:
        return _open_tokens(ready, classes)
    decode = functools.partial(_steps, size=size)
    opened = open_ragged(ready, decode, classes=classes, input_size=size)
    read = functools.partial(
        _read_rows, size=size, length=opened.length, with_length=not about["uniform"]
    )
    return dataclasses.replace(opened, read_file=read)


def _open_tokens(folder: Path, classes: tuple[str, ...]) -> Data:
    about = load_about(folder)
    size, length = about["input_size"], about["length"]
    tokens, offsets, labels = (
        StoredArray(folder / f"{name}.npy") for name in ("values", "offsets", "labels")
    )
    return Data(
        sources={
            split: TokenSequences(
                tokens,
                offsets,
                labels,
                rows=StoredArray(folder / f"{split}.npy"),
                length=length,
                vocabulary_size=size,
            )
            for split in about["splits"]
        },
        classes=classes,
        input_size=size,
        length=length,
        vocabulary=tuple(map(str, range(size))),
        skipped=about["skipped"],
        notes=(
            f"x_train holds integers of shape (n, L): steps are tokens 0..{size - 1}; if they are "
            "numbers, save them with shape (n, L, 1)",
        ),
    )


def _read_rows(path: Path, *, size: int, length: int, with_length: bool) -> list[Example]:
    """The records of a file of sequences."""
    return [
        padded_record(steps, length=length, with_length=with_length, path=path)
        for steps in read_numbers(path, size=size)
    ]


def _steps(values: Shaped[np.ndarray, " values"], *, size: int) -> Float32[np.ndarray, "L d"]:
    return values.reshape(-1, size).astype(np.float32)


def _build(folder: Path, *, file: Npz, skip: bool) -> None:
    skipping = Skipping(skip)
    splits = _given_splits(file)
    length, size = _check_shapes(file, splits)
    labels = {split: _labels(file, split) for split in splits}
    classes = _classes(file, labels["train"])
    lengths = {
        split: _lengths(file, split, length, labels[split], len(classes), skipping)
        for split in splits
    }
    kinds = {file.headers[f"x_{split}"].dtype for split in splits}
    tokens, vocabulary_size = _are_tokens(file, splits), 0
    dtype = np.dtype(np.int32 if tokens else np.float32)
    if len(kinds) == 1 and kinds <= COMPACT:
        (dtype,) = kinds
    with ArrayWriter(folder, "values", dtype) as values:
        for split in splits:
            for piece in _kept(file, split, lengths[split], dtype, skipping):
                if tokens:
                    vocabulary_size = max(vocabulary_size, 1 + _largest_token(file, split, piece))
                values.append(piece.astype(dtype))
    stored = np.concatenate([lengths[split] for split in splits])
    save_lengths(folder, stored, size)
    save_splits(
        folder,
        np.concatenate([labels[split] for split in splits]).astype(np.int32),
        _rows({split: len(labels[split]) for split in splits}, file),
        stored > 0,
        where=file.path,
        skipped=skipping.count,
        classes=classes,
        length=length,
        input_size=vocabulary_size if tokens else size,
        tokens=tokens,
        uniform=not any(f"lengths_{split}" in file.headers for split in splits),
    )


def _given_splits(file: Npz) -> list[str]:
    """The splits whose arrays are given."""
    for name in file.headers:
        if name not in NAMES:
            raise file.error(name, f"is not a known name; the names are {', '.join(NAMES)}")
    given = [split for split in SPLITS if {f"x_{split}", f"y_{split}"} & set(file.headers)]
    for split in dict.fromkeys(["train", *given]):
        for kind in ("x", "y"):
            if f"{kind}_{split}" not in file.headers:
                raise file.error(f"{kind}_{split}", "is missing; add it to the file")
    return given


def _check_shapes(file: Npz, splits: Iterable[str]) -> tuple[int, int]:
    """Steps per record and values per step."""
    wanted = file.headers["x_train"].shape[1:]
    for split in splits:
        name = f"x_{split}"
        header = file.headers[name]
        _check_kind(file, name, "biuf", "numbers")
        if len(header.shape) not in (2, 3) or 0 in header.shape:
            raise file.error(name, f"has shape {header.shape}, expected (n, L) or (n, L, d)")
        if header.shape[1:] != wanted:
            raise file.error(
                name,
                f"has rows of shape {header.shape[1:]}, but those of x_train have shape {wanted}",
            )
        for other in (f"y_{split}", f"lengths_{split}"):
            if other in file.headers and file.headers[other].shape != header.shape[:1]:
                shape = file.headers[other].shape
                raise file.error(
                    other, f"has shape {shape}, expected {header.shape[:1]} like {name}"
                )
    length, *size = wanted
    return length, size[0] if size else 1


def _are_tokens(file: Npz, splits: Iterable[str]) -> bool:
    """Whether steps are tokens.

    Raises:
        DataError: if they are tokens in some splits only.
    """
    headers = {split: file.headers[f"x_{split}"] for split in splits}
    found = {
        split: len(header.shape) == 2 and header.dtype.kind in "iu"
        for split, header in headers.items()
    }
    for split, tokens in found.items():
        if tokens != found["train"]:
            kinds = f"dtype {headers[split].dtype}, but x_train has {headers['train'].dtype}"
            raise file.error(
                f"x_{split}",
                f"has {kinds}; integers of shape (n, L) are tokens: save all splits as integers, "
                "or numbers with shape (n, L, 1)",
            )
    return found["train"]


def _largest_token(file: Npz, split: str, tokens: Integer[np.ndarray, " tokens"]) -> int:
    """The largest of some tokens; 0 if there are none."""
    least, largest = int(tokens.min(initial=0)), int(tokens.max(initial=0))
    if least < 0 or largest >= MOST_TOKENS:
        odd = least if least < 0 else largest
        raise file.error(
            f"x_{split}",
            f"has token {odd}, not in 0..{MOST_TOKENS - 1}; if they are numbers, save them with "
            "shape (n, L, 1)",
        )
    return largest


def _check_kind(file: Npz, name: str, kinds: str, what: str) -> None:
    dtype = file.headers[name].dtype
    if dtype.kind == "O":
        raise file.error(name, f"has Python objects, expected {what} in one regular array")
    if dtype.kind not in kinds:
        raise file.error(name, f"has dtype {dtype}, expected {what}")


def _labels(file: Npz, split: str) -> Int64[np.ndarray, " n"]:
    """The labels, with -1 for values that are not 32-bit integers."""
    return _whole_numbers(file, f"y_{split}", "labels 0..k-1")


def _whole_numbers(file: Npz, name: str, what: str) -> Int64[np.ndarray, " n"]:
    _check_kind(file, name, "biuf", what)
    values = file.read(name)
    wide = values.astype(np.float64)
    usable = np.abs(wide) < 2**31
    numbers = np.where(usable, wide, -1).astype(np.int64)
    if (numbers != values)[usable].any():
        raise file.error(name, f"has fractions, expected {what}")
    return numbers


def _classes(file: Npz, labels: Int64[np.ndarray, " n"]) -> list[str]:
    """Names of the labels: as given, or their numbers."""
    used = set(np.unique(labels[labels >= 0]).tolist())
    names = [str(number) for number in sorted(used)]
    if "classes" in file.headers:
        _check_kind(file, "classes", "U", "strings")
        if len(file.headers["classes"].shape) != 1:
            raise file.error("classes", "must have one axis")
        names = file.read("classes").tolist()
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise file.error("classes", f"has {repeated!r} more than once; names must differ")
    bad = np.flatnonzero(labels < 0)
    also = f"; y_train[{bad[0]}] is {file.read('y_train')[bad[0]]}" if len(bad) else ""
    unused = [number for number in range(len(names)) if number not in used]
    if unused:
        raise file.error(
            "y_train", f"has no label {unused[0]}; each of the labels 0..k-1 must occur{also}"
        )
    if len(names) < 2:
        raise file.error("y_train", f"must have at least two classes{also}")
    return names


def _lengths(
    file: Npz,
    split: str,
    longest: int,
    labels: Int64[np.ndarray, " n"],
    classes: int,
    skipping: Skipping,
) -> Int64[np.ndarray, " n"]:
    """Number of steps of each row; 0 for bad rows."""
    name = f"lengths_{split}"
    lengths = np.full(len(labels), longest, np.int64)
    if name in file.headers:
        lengths = _whole_numbers(file, name, f"numbers of steps, 1..{longest}")
    wrong_label = (labels < 0) | (labels >= classes)
    wrong_length = (lengths < 1) | (lengths > longest)
    wrong = np.flatnonzero(wrong_label | wrong_length).tolist()
    # As they are in the file, to be shown.
    given = {
        kind: file.read(kind) for kind in (f"y_{split}", name) if wrong and kind in file.headers
    }
    for row in wrong:
        kind, allowed = name, f"1..{longest}"
        if wrong_label[row]:
            kind, allowed = f"y_{split}", f"0..{classes - 1}"
        with skipping.item():
            raise file.error(f"{kind}[{row}]", f"is {given[kind][row]}, not in {allowed}; {HINT}")
    return np.where(wrong_label | wrong_length, 0, lengths)


def _kept(
    file: Npz,
    split: str,
    lengths: Int64[np.ndarray, " n"],
    dtype: np.dtype,
    skipping: Skipping,
) -> Iterator[Shaped[np.ndarray, " values"]]:
    """The steps of good rows. Sets the length of rows with non-finite values to 0."""
    name, start = f"x_{split}", 0
    for piece in file.pieces(name):
        with np.errstate(over="ignore"):  # overflow to infinity is detected below
            steps = piece if dtype.kind in "iu" else piece.astype(dtype)
        steps = steps.reshape(len(piece), piece.shape[1], -1)
        here = slice(start, start + len(piece))
        counted = np.arange(steps.shape[1]) < lengths[here, None]
        finite = (np.isfinite(steps).all(axis=2) | ~counted).all(axis=1)
        for row in np.flatnonzero(~finite):
            with skipping.item():
                raise file.error(
                    f"{name}[{start + row}]", f"has values that are not finite in float32; {HINT}"
                )
        counted &= finite[:, None]
        lengths[here] *= finite
        start += len(piece)
        yield steps[counted].reshape(-1)


def _rows(counts: Mapping[str, int], file: Npz) -> dict[str, Int[np.ndarray, " m"]]:
    """Rows of each split, numbered over all splits. Missing splits are held out of train."""
    ends = dict(zip(counts, np.cumsum(list(counts.values())).tolist(), strict=True))
    rows = {split: np.arange(end - counts[split], end) for split, end in ends.items()}
    missing = [split for split in SPLITS if split not in counts]
    tenth = int(0.1 * counts["train"])
    if missing and not tenth:
        raise file.error("x_train", f"has too few rows to hold out a tenth; add x_{missing[0]}")
    lengths = [counts["train"] - len(missing) * tenth, *[tenth] * len(missing)]
    dealt = random_split(counts["train"], lengths) if missing else [rows["train"]]
    return {**rows, **dict(zip(["train", *missing], dealt, strict=True))}


def _is_present(root: Path) -> bool:
    """False: only the user knows the location."""
    del root
    return False


DATA_SET = DataSet(
    name="arrays",
    open=open_arrays,
    kind="features",
    needs="--data FILE: an .npz file of x_train (n, L[, d]) and y_train (n,)",
    present=_is_present,
    options=("data",),
    license="yours",
    citation="yours",
)
