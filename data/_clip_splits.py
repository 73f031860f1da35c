"""Splits of audio clips, by published lists of names or by speaker.

Clips are named `<class>/<file>`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from lastax.data._errors import DataError
from lastax.data._folders import read_file
from lastax.data._skipping import HINT, Skipping

# Clips in neither list belong to the training split.
LISTS: Mapping[str, str] = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_SPEAKER_ENDS = "_nohash_"


def read_lists(
    lists: Mapping[str, Path], names: Iterable[str], skipping: Skipping
) -> dict[str, str]:
    """The split of each listed clip. Lines of classes without clips are ignored.

    Raises:
        DataError: if a list cannot be read, or a line names a missing clip.
    """
    known = set(names)
    classes = {name.split("/")[0] for name in known}
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        for row, line in enumerate(_text(path).splitlines(), start=1):
            name = line.strip()
            if name in known:
                split_of.setdefault(name, split)
            elif name.split("/")[0] in classes:
                with skipping.item():
                    raise DataError(f"{path}, row {row}: clip {name[:80]} is missing; {HINT}")
    return split_of


def hold_out(
    names: Sequence[str], listed: Mapping[str, str], wanted: Iterable[str]
) -> dict[str, str]:
    """The split of each clip: the listed one, otherwise one of `wanted` or "train".

    Speakers are taken in the order of the SHA-256 of their names. They fill the first split of
    `wanted`, then the next one, each until it holds a tenth of all clips.
    """
    clips_of = defaultdict(list)
    for name in names:
        if name not in listed:
            clips_of[speaker(name)].append(name)
    order = iter(sorted(clips_of, key=lambda name: hashlib.sha256(name.encode()).digest()))
    split_of = dict(listed)
    for split in wanted:
        taken = 0
        while 10 * taken < len(names) and (group := next(order, None)) is not None:
            taken += len(clips_of[group])
            split_of.update(dict.fromkeys(clips_of[group], split))
    return {name: split_of.get(name, "train") for name in names}


def speaker(name: str) -> str:
    """The speaker of `<class>/<speaker>_nohash_<k>.wav`; for other names, the name itself."""
    before, mark, _ = PurePosixPath(name).name.partition(_SPEAKER_ENDS)
    return before if mark else name


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start:,}); restore it") from None
