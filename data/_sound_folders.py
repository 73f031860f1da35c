"""Sound files below a folder with one subfolder per class."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from lastax.data._errors import DataError
from lastax.data._folders import unreadable

# What libsndfile reads and recognizes by the content.
SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au"),
    *(".snd", ".caf", ".rf64", ".w64", ".nist", ".sph", ".voc", ".avr", ".paf", ".pvf", ".sf"),
)
READABLE = "WAV, FLAC, Ogg, Opus, MP3, AIFF, AU, CAF, ..."
# Sounds, too, but libsndfile cannot read them.
_UNREADABLE = (
    *(".3gp", ".aac", ".ac3", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mov", ".mp2", ".mp4"),
    *(".ra", ".tta", ".webm", ".wma", ".wv"),
)


class SoundFolder(NamedTuple):
    """The files of all classes.

    Attributes:
        clips: names of the sound files, `<class>/<file>` or `<class>/<folder>/<file>`, sorted by
            class and name.
        left_out: number of other files of each kind, by suffix.
    """

    clips: list[str]
    left_out: Mapping[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """One line about the other files, if there are any."""
        if not self.left_out:
            return ()
        return (f"left out, because they are not read: {_counted(self.left_out)}",)


def find_clips(classes: Iterable[Path], *, suffixes: tuple[str, ...] = SUFFIXES) -> SoundFolder:
    """The sound files in the folders of all classes, and in their subfolders.

    Names of files and folders that begin with a dot are ignored. A folder without any sound is no
    class.

    Raises:
        DataError: if a folder has sounds, but none that can be read.
    """
    clips: list[str] = []
    left_out: Counter[str] = Counter()
    for folder in classes:
        names = [f"{folder.name}/{name}" for name in _files(folder)]
        found = [name for name in names if _suffix(name) in suffixes]
        others = Counter(_suffix(name) for name in names if _suffix(name) not in suffixes)
        if found:
            left_out += others
        elif any(kind in (*SUFFIXES, *_UNREADABLE) for kind in others):
            raise DataError(
                f"{folder} has no file that ends in {_listed(suffixes)}, but {_counted(others)}; "
                "convert them, or move the folder elsewhere"
            )
        clips += found
    return SoundFolder(clips, left_out)


def _files(folder: Path) -> Iterator[str]:
    """Paths of all files below `folder`, relative to it and sorted."""
    return iter(sorted(_walk(folder, "", frozenset())))


def _walk(folder: Path, within: str, above: frozenset[str]) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder that contains it
        return
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise unreadable(folder, error) from None
    for name, is_folder in found:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(folder / name, f"{within}{name}/", above | {here})
        else:
            yield within + name


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()


def _listed(suffixes: tuple[str, ...]) -> str:
    return suffixes[0] if len(suffixes) == 1 else f"{', '.join(suffixes[:4])}, ..."


def _counted(kinds: Mapping[str, int]) -> str:
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind or 'without suffix'}" for kind, count in ordered)
