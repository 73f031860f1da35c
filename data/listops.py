"""The `listops` data set: values of nested lists of digits with MIN, MAX, MED and SM.

Reads the published files of the Long Range Arena, or files from `lastax data make listops`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from lastax.data._data_set import Data, DataSet
from lastax.data._errors import DataError
from lastax.data._folders import find, need
from lastax.data._prepared import fingerprint, load_about, prepared, save_about
from lastax.data._skipping import Skipping
from lastax.data._tables import Row, read_rows
from lastax.data._tokens import END, SPECIALS, TokenWriter, in_groups, open_texts
from lastax.data.listops_generator import FILES, FOLDER, HEADER, OPERATORS, generate

SYMBOLS = tuple(f"[{name}" for name in OPERATORS)
VOCABULARY = (*SPECIALS, *"0123456789", "]", *SYMBOLS)
CLASSES = tuple("0123456789")
LENGTH = 2048
VERSION = 1  # of the prepared files; increment it when the code that makes them changes
HINT = (
    "run `lastax data make listops`, or copy this folder from lra_release.gz (root: "
    "--data-dir, LASTAX_DATA)"
)

# First map each operator to a byte that no table contains, then each token to its id.
_MARKS = {name.encode(): bytes([mark]) for mark, name in enumerate(SYMBOLS, start=1)}
_ALPHABET = b"()]0123456789" + b"".join(_MARKS.values())
_IDS = bytes.maketrans(
    _ALPHABET[2:], bytes(VOCABULARY.index(name) for name in ("]", *"0123456789", *SYMBOLS))
)


def open_listops(root: Path, *, skip_bad: bool = False) -> Data:
    """ListOps: records of up to 2,048 tokens from a vocabulary of 18, with "length".

    Parentheses are redundant and are removed, as published (Tay et al., Long Range Arena, ICLR
    2021). Each record ends with `<eos>`.

    Args:
        root: folder that holds all data sets.
        skip_bad: skip bad rows.

    Raises:
        DataError: if a file is missing or a row is bad; with `skip_bad`, only if no row is good.
    """
    folder = need(root, FOLDER, hint=HINT)
    paths = {split: need(folder, name, hint=HINT) for split, name in FILES.items()}
    identity = {
        "version": VERSION,
        "files": fingerprint(paths.values()),
        "skip_bad": skip_bad,
    }
    build = functools.partial(_prepare, paths=paths, skip_bad=skip_bad)
    ready = prepared("listops", identity, build)
    vocabulary_size = len(VOCABULARY)
    return Data(
        sources={
            split: open_texts(ready, split, vocabulary_size=vocabulary_size, length=LENGTH)
            for split in FILES
        },
        classes=CLASSES,
        input_size=vocabulary_size,
        length=LENGTH,
        vocabulary=VOCABULARY,
        skipped=load_about(ready)["skipped"],
    )


def encode(source: bytes) -> UInt8[np.ndarray, " tokens"]:
    """The tokens of an expression whose symbols are separated by single spaces.

    Raises:
        ValueError: if a symbol is unknown.
    """
    marked = source
    for name, mark in _MARKS.items():
        marked = marked.replace(name, mark)
    symbols, spaces = marked[::2], marked[1::2]
    strange = symbols.translate(None, _ALPHABET) or spaces.strip(b" ")
    # The marks are ordinary bytes, so the text itself must not contain them.
    if strange or not source.isascii() or not source.decode().isprintable() or not source:
        odd = next((word for word in source.split(b" ") if not _is_symbol(word)), b"")
        raise ValueError(f"{odd[:20].decode('utf-8', 'backslashreplace')!r} is not a symbol")
    return np.frombuffer(symbols.translate(_IDS, b"()"), np.uint8)


def _is_symbol(word: bytes) -> bool:
    return word in _MARKS or (len(word) == 1 and word in b"()]0123456789")


def _parse(row: Row) -> tuple[UInt8[np.ndarray, " tokens"], int]:
    try:
        tokens = encode(row.columns[0])
    except ValueError as error:
        raise row.error(str(error)) from None
    return np.append(tokens[: LENGTH - 1], np.uint8(END)), row.label(1, classes=len(CLASSES))


def _prepare(folder: Path, *, paths: Mapping[str, Path], skip_bad: bool) -> None:
    skipping = Skipping(skip_bad)
    for split, path in paths.items():
        rows = read_rows(path, _parse, columns=2, skipping=skipping, header=HEADER.strip())
        with TokenWriter(folder, split, vocabulary_size=len(VOCABULARY)) as writer:
            for group in in_groups(rows):
                texts, labels = zip(*group, strict=True)
                lengths = np.array([len(text) for text in texts])
                writer.add(np.concatenate(texts), lengths, labels)
            if not len(writer):
                raise DataError(f"{path} has no valid row; restore it")
    save_about(folder, {"vocabulary": VOCABULARY, "skipped": skipping.count})


def _is_present(root: Path) -> bool:
    return all(find(root, f"{FOLDER}/{name}") is not None for name in FILES.values())


DATA_SET = DataSet(
    name="listops",
    open=open_listops,
    kind="text",
    needs=f"{FOLDER}/basic_{{train,val,test}}.tsv (lra_release.gz) or `lastax data make listops`",
    present=_is_present,
    expected=MappingProxyType({"train": 96_000, "validation": 2_000, "test": 2_000}),
    generate=generate,
    size="660 MB",
    license="Apache-2.0",
    citation=(
        "N. Nangia and S. Bowman, ListOps: A Diagnostic Dataset for Latent Tree Learning, NAACL "
        "Student Research Workshop, 2018; Y. Tay et al., Long Range Arena, ICLR 2021"
    ),
)
