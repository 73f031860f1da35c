"""The `retrieval` data set: whether one paper of the ACL Anthology Network cites another.

Reads the published files of the Long Range Arena, character by character.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lastax.data._data_set import Data, DataSet
from lastax.data._errors import DataError
from lastax.data._folders import find, need
from lastax.data._prepared import fingerprint, load_about, prepared, save_about
from lastax.data._skipping import Skipping
from lastax.data._tables import Row, read_rows
from lastax.data._tokens import (
    TEXTS_AT_ONCE,
    TokenWriter,
    character_ids,
    character_vocabulary,
    count_characters,
    encode_characters,
    in_groups,
    open_pairs,
)

FILES = MappingProxyType(
    {
        "train": "new_aan_pairs.train.tsv",
        "validation": "new_aan_pairs.eval.tsv",
        "test": "new_aan_pairs.test.tsv",
    }
)
FOLDER = "tsv_data"
CLASSES = ("unrelated", "related")
LENGTH = 4000
MINIMUM = 1  # occurrences that a character needs to be in the vocabulary
VERSION = 1  # of the prepared files; increment it when the code that makes them changes
HINT = (
    "copy this folder from lra_release.gz (storage.googleapis.com/long-range-arena); root: "
    "--data-dir, LASTAX_DATA"
)


class Pair(NamedTuple):
    """A row: two texts, and whether one cites the other."""

    one: str
    other: str
    label: int


def open_retrieval(root: Path, *, skip_bad: bool = False) -> Data:
    """Pairs of papers with up to 4,000 Unicode characters each, with "length".

    The vocabulary holds all characters of the training pairs. Texts end with <eos>. The files
    have five columns: label, two names and two texts. Quotation marks have no meaning. D. Radev
    et al., The ACL Anthology Network corpus, 2013; Tay et al., Long Range Arena, ICLR 2021.

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
    ready = prepared("retrieval", identity, build)
    about = load_about(ready)
    vocabulary = tuple(about["vocabulary"])
    return Data(
        sources={
            split: open_pairs(ready, split, vocabulary_size=len(vocabulary), length=LENGTH)
            for split in FILES
        },
        classes=CLASSES,
        input_size=len(vocabulary),
        length=LENGTH,
        vocabulary=vocabulary,
        skipped=about["skipped"],
        pairs=True,
    )


def _parse(row: Row) -> Pair:
    try:
        one, other = (text.decode() for text in row.columns[3:])
    except UnicodeDecodeError as error:
        raise row.error(f"not UTF-8 ({error.reason})") from None
    return Pair(one, other, row.label(0, classes=len(CLASSES)))


def _pairs(path: Path, skipping: Skipping) -> Iterator[Pair]:
    return read_rows(path, _parse, columns=5, skipping=skipping)


def _prepare(folder: Path, *, paths: Mapping[str, Path], skip_bad: bool) -> None:
    pairs = _pairs(paths["train"], Skipping(skip_bad))
    training = (text for pair in pairs for text in (pair.one, pair.other))
    vocabulary = character_vocabulary(count_characters(training, length=LENGTH), minimum=MINIMUM)
    ids = character_ids(vocabulary)
    skipping = Skipping(skip_bad)
    for split, path in paths.items():
        with TokenWriter(folder, split, vocabulary_size=len(vocabulary)) as writer:
            for group in in_groups(_pairs(path, skipping), TEXTS_AT_ONCE // 2):
                texts = [text for pair in group for text in (pair.one, pair.other)]
                labels = [pair.label for pair in group]
                writer.add(*encode_characters(texts, ids, length=LENGTH), labels)
            if not len(writer):
                raise DataError(f"{path} has no valid row; restore it")
    save_about(folder, {"vocabulary": vocabulary, "skipped": skipping.count})


def _is_present(root: Path) -> bool:
    return all(find(root, f"{FOLDER}/{name}") is not None for name in FILES.values())


DATA_SET = DataSet(
    name="retrieval",
    open=open_retrieval,
    kind="text",
    needs=f"{FOLDER}/new_aan_pairs.{{train,eval,test}}.tsv (lra_release.gz), copied manually",
    present=_is_present,
    expected=MappingProxyType({"train": 147_086, "validation": 18_090, "test": 17_437}),
    size="7.7 GB for the complete Long Range Arena",
    license="none stated",
    citation=(
        "D. Radev, P. Muthukrishnan, V. Qazvinian and A. Abu-Jbara, The ACL Anthology Network "
        "Corpus, Language Resources and Evaluation 47, 2013; Y. Tay et al., Long Range Arena, "
        "ICLR 2021"
    ),
)
