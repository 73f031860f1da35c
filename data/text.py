"""The `text` data set: sentiment of IMDB movie reviews, character by character.

Reads the unpacked official archive aclImdb_v1.tar.gz, which has one file per review.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lastax.data._data_set import Data, DataSet, Remote
from lastax.data._errors import DataError
from lastax.data._folders import find, list_folder, need, read_file
from lastax.data._prepared import StoredArray, fingerprint, load_about, prepared, save_about
from lastax.data._sequence_files import held_out, save_array
from lastax.data._skipping import Skipping
from lastax.data._splits import random_split
from lastax.data._tokens import (
    TokenWriter,
    character_ids,
    character_vocabulary,
    count_characters,
    encode_characters,
    in_groups,
    open_texts,
)

FOLDER = "aclImdb"
CLASSES = ("neg", "pos")
LENGTH = 4096
MINIMUM = 15  # occurrences that a character needs to be in the vocabulary
VERSION = 1  # of the prepared files; increment it when the code that makes them changes
HINT = (
    "run `lastax data fetch text`, or unpack aclImdb_v1.tar.gz there (root: --data-dir, "
    "LASTAX_DATA)"
)
REPAIR = "restore it, or skip bad files with --skip-bad"
VALIDATIONS = ("held-out", "published")
HELD_OUT = ("held_out_train", "held_out_validation")  # rows of the official training set


class Review(NamedTuple):
    """Path of a review, and its label, which is given by the folder."""

    path: Path
    label: int


def open_text(root: Path, *, validation: str = "held-out", skip_bad: bool = False) -> Data:
    """IMDB reviews of up to 4,096 Unicode characters, with "length". Texts end with <eos>.

    The vocabulary holds the characters that occur at least 15 times in the official training set.
    Reviews are sorted by label and file name. A. Maas et al., ACL 2011.

    Args:
        root: folder that holds all data sets.
        validation: the validation split, since there is no official one. "held-out": a tenth of
            train, drawn like torch's `random_split` with seed 42. "published": the test split, on
            which published results chose the best epoch.
        skip_bad: skip files that are not text.

    Raises:
        DataError: if a folder is missing or a file is bad; with `skip_bad`, only if no file is
            good.
        ValueError: if `validation` is unknown.
    """
    if validation not in VALIDATIONS:
        raise ValueError(f"open_text: validation must be one of {VALIDATIONS}; got {validation!r}")
    folder = need(root, FOLDER, hint=HINT)
    reviews = {split: _reviews(folder / split) for split in ("train", "test")}
    identity = {
        "version": VERSION,
        "files": fingerprint(
            (review.path for part in reviews.values() for review in part), skip_bad=skip_bad
        ),
        "skip_bad": skip_bad,
    }
    build = functools.partial(_prepare, reviews=reviews, skip_bad=skip_bad)
    ready = prepared("text", identity, build)
    about = load_about(ready)
    vocabulary = tuple(about["vocabulary"])
    part = functools.partial(open_texts, ready, vocabulary_size=len(vocabulary), length=LENGTH)
    test = part("test")
    if validation == "published":
        sources = {"train": part("train"), "validation": test, "test": test}
    else:
        kept, other = (StoredArray(ready / f"{name}.npy") for name in HELD_OUT)
        sources = {
            "train": part("train", rows=kept),
            "validation": part("train", rows=other),
            "test": test,
        }
    return Data(
        sources=sources,
        classes=CLASSES,
        input_size=len(vocabulary),
        length=LENGTH,
        vocabulary=vocabulary,
        skipped=about["skipped"],
    )


def _reviews(folder: Path) -> list[Review]:
    return [
        Review(path, label)
        for label, name in enumerate(CLASSES)
        for path in list_folder(need(folder, name, hint=HINT), ".txt")
    ]


def _texts(reviews: Iterable[Review], skipping: Skipping) -> Iterator[tuple[str, int]]:
    for review in reviews:
        text = ""
        with skipping.item():
            text = _read(review.path)
        if text:
            yield text, review.label


def _read(path: Path) -> str:
    content = read_file(path)
    if not content:
        raise DataError(f"{path} is empty; {REPAIR}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}; {REPAIR}") from None


def _prepare(folder: Path, *, reviews: Mapping[str, Sequence[Review]], skip_bad: bool) -> None:
    training = (text for text, _ in _texts(reviews["train"], Skipping(skip_bad)))
    vocabulary = character_vocabulary(count_characters(training, length=LENGTH), minimum=MINIMUM)
    ids = character_ids(vocabulary)
    skipping = Skipping(skip_bad)
    records = {}
    for split, part in reviews.items():
        with TokenWriter(folder, split, vocabulary_size=len(vocabulary)) as writer:
            for group in in_groups(_texts(part, skipping)):
                texts, labels = zip(*group, strict=True)
                writer.add(*encode_characters(texts, ids, length=LENGTH), labels)
            records[split] = len(writer)
        if not records[split]:
            raise DataError(f"{split} in {FOLDER} has no valid review; {HINT}")
    parts = random_split(records["train"], held_out(records["train"]))
    for name, rows in zip(HELD_OUT, parts, strict=True):
        save_array(folder, name, rows)
    save_about(folder, {"vocabulary": vocabulary, "skipped": skipping.count})


def _is_present(root: Path) -> bool:
    return all(
        find(root, f"{FOLDER}/{split}/{label}") is not None
        for split in ("train", "test")
        for label in CLASSES
    )


DATA_SET = DataSet(
    name="text",
    open=open_text,
    kind="text",
    needs=f"{FOLDER}/{{train,test}}/{{neg,pos}}/*.txt: `lastax data fetch text`",
    present=_is_present,
    options=("validation",),
    remotes=(
        Remote(
            url="http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
            size=84_125_825,
            sha256="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
            unpacks_to=FOLDER,
        ),
    ),
    expected=MappingProxyType({"train": 22_500, "validation": 2_500, "test": 25_000}),
    size="84 MB",
    license="none stated; the authors ask to be cited",
    citation=(
        "A. Maas, R. Daly, P. Pham, D. Huang, A. Ng and C. Potts, Learning Word Vectors for "
        "Sentiment Analysis, ACL 2011"
    ),
)
