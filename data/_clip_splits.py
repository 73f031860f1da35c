"""Splits of audio clips, by published lists of names or by speaker.

Clips are named `<class>/<file>`, or `<class>/<folder>/<file>`.
"""

import codecs
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from lastax.data._errors import DataError
from lastax.data._folders import read_file
from lastax.data._skipping import HINT, Skipping

# Clips in neither list belong to the training split.
LISTS: Mapping[str, str] = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_SPEAKER_ENDS = "_nohash_"
_QUOTES = "\"'"


class Listed(NamedTuple):
    """Content of the lists.

    Attributes:
        split_of: split of each listed clip.
        notes: one line per list, with the numbers of its lines and of the clips found.
    """

    split_of: dict[str, str]
    notes: tuple[str, ...]


def read_lists(
    lists: Mapping[str, Path],
    names: Collection[str],
    skipping: Skipping,
    *,
    absent: Collection[str] = (),
) -> Listed:
    """The split of each listed clip.

    A line names a clip as `<class>/<file>`. The following differences do not matter: a byte-order
    mark, backslashes, `./` in front, the Unicode normalization, and the case of the suffix.

    Args:
        lists: the file of each split.
        names: names of all clips.
        skipping: whether lines that name missing clips are skipped.
        absent: classes that may have no clips; their lines are ignored.

    Raises:
        DataError: if a list cannot be read, or a line names a missing clip. A line that resembles
            the name of a clip is never skipped, because this clip would land in the training
            split.
    """
    clips = _Clips(names)
    split_of: dict[str, str] = {}
    notes, twice = [], 0
    for split, path in lists.items():
        lines = found = 0
        for row, line in enumerate(_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            lines += 1
            name = clips.find(line)
            if name is not None:
                found += 1
                twice += split_of.setdefault(name, split) != split
            elif _key(line).split("/")[0] not in absent:
                _report(f"{path}, row {row}", line.strip(), clips, skipping)
        notes.append(f"{path.name}: {lines:,} clips listed, {found:,} found")
    if twice:
        notes.append(f"clips in both lists: {twice:,}; they belong to {next(iter(lists))}")
    return Listed(split_of, tuple(notes))


def hold_out(
    names: Sequence[str], listed: Mapping[str, str], wanted: Iterable[str]
) -> dict[str, str]:
    """The split of each clip: the listed one, otherwise one of `wanted` or "train".

    Each split of `wanted` takes speakers until it holds a tenth of all clips. It takes them from
    the class whose clips it needs most, in the order of the SHA-256 of their names. As long as
    there is a choice, a class keeps clips for training.
    """
    clips_of = defaultdict(list)
    for name in names:
        if name not in listed:
            clips_of[speaker(name)].append(name)
    order = sorted(clips_of, key=lambda name: hashlib.sha256(name.encode()).digest())
    remaining = _Speakers({who: Counter(map(_class, clips_of[who])) for who in order})
    sizes = Counter(map(_class, names))
    split_of = dict(listed)
    held: Counter[str] = Counter()
    for number, split in enumerate(wanted, start=1):
        taken = 0
        while 10 * taken < len(names):
            needs = {name: number * size - 10 * held[name] for name, size in sizes.items()}
            who = remaining.take(sorted(needs, key=lambda name: (-needs[name], name)))
            if who is None:
                break
            taken += len(clips_of[who])
            held.update(map(_class, clips_of[who]))
            split_of.update(dict.fromkeys(clips_of[who], split))
    return {name: split_of.get(name, "train") for name in names}


def check_classes(source: Path, classes: Sequence[str], labels: Int32[np.ndarray, " n"]) -> None:
    """Raise DataError if no label of a training clip belongs to a class."""
    for label, name in enumerate(classes):
        if label not in labels:
            raise DataError(
                f"{source / name} has no usable clip for training; add clips, or list fewer for "
                "validation and test"
            )


def speaker(name: str) -> str:
    """The speaker of `<class>/<speaker>_nohash_<k>.wav`; for other names, the name itself."""
    before, mark, _ = PurePosixPath(name).name.partition(_SPEAKER_ENDS)
    return before if mark else name


class _Clips:
    """Finds clips by the lines of a list."""

    def __init__(self, names: Collection[str]):
        self._names = frozenset(names)
        self._by_key: dict[str, str | None] = {}
        for name in names:
            key = _key(name)
            self._by_key[key] = None if key in self._by_key else name  # None: ambiguous
        self._by_look = {look: name for name in names for look in _looks(name)}

    def find(self, line: str) -> str | None:
        """The clip that `line` names."""
        stripped = line.strip()
        return stripped if stripped in self._names else self._by_key.get(_key(stripped))

    def resembling(self, line: str) -> str | None:
        """A clip that `line` may mean: other case, suffix or folder, quotes, further columns."""
        for text in (line, *re.split(r"[,;|\t]", line), *line.split()):
            look, _ = _looks(text.strip().strip(_QUOTES))
            parts = look.split("/")
            for start in range(max(len(parts) - 1, 1)):
                name = self._by_look.get("/".join(parts[start:]))
                if name is not None:
                    return name
        return None


class _Speakers:
    """Speakers that are not yet held out, in order, with their numbers of clips per class."""

    def __init__(self, clips: Mapping[str, Counter[str]]):
        self._clips = dict(clips)
        self._left = sum(clips.values(), Counter())
        self._queues: dict[str, list[str]] = defaultdict(list)
        for who in reversed(list(clips)):
            for name in clips[who]:
                self._queues[name].append(who)

    def take(self, classes: Iterable[str]) -> str | None:
        """Remove and return a speaker of the first class that can spare one."""
        spared = (who for name in classes for who in self._queue(name) if self._spares(who))
        who = next(spared, next(iter(self._clips), None))
        if who is not None:
            self._left -= self._clips.pop(who)
        return who

    def _queue(self, name: str) -> Iterable[str]:
        queue = self._queues[name]
        while queue and queue[-1] not in self._clips:
            queue.pop()
        return (who for who in reversed(queue) if who in self._clips)

    def _spares(self, who: str) -> bool:
        return all(count < self._left[name] for name, count in self._clips[who].items())


def _class(name: str) -> str:
    return name.split("/")[0]


def _key(name: str) -> str:
    """A key that all accepted spellings of `name` share."""
    parts = unicodedata.normalize("NFC", name.strip().replace("\\", "/")).split("/")
    path = PurePosixPath("/".join(part for part in parts if part not in ("", ".")))
    return str(path.with_suffix(path.suffix.lower())) if path.name else ""


def _looks(name: str) -> tuple[str, str]:
    """`name` in lower case without its suffix, with and without its folders."""
    look = PurePosixPath(_key(name).casefold())
    return str(look.with_suffix("")) if look.name else "", look.stem


def _report(where: str, line: str, clips: _Clips, skipping: Skipping) -> None:
    """Raise DataError about a line that names no clip, or skip it."""
    similar = clips.resembling(line)
    if similar is not None:
        raise DataError(
            f"{where}: {_shown(line)} is not a clip, but resembles {_shown(similar)}; write one "
            "<class>/<file> per line"
        )
    with skipping.item():
        raise DataError(f"{where}: clip {_shown(line)} is missing; {HINT}")


def _shown(name: str) -> str:
    return name[:80] if name.isprintable() else ascii(name)[:80]


def _text(path: Path) -> str:
    packed = read_file(path)
    wide = packed.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return packed.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if wide else "UTF-8"
        raise DataError(f"{path} is not {kind} text (byte {error.start:,}); restore it") from None
