"""The `audio-folder` data set: your own audio files, with one folder per class."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16, Int32

from lastax.data._clip_splits import LISTS, hold_out, read_lists
from lastax.data._data_set import Data, DataSet
from lastax.data._errors import DataError
from lastax.data._files import padded_record, read_waveform
from lastax.data._folders import list_folder, read_file
from lastax.data._pipeline import Example
from lastax.data._prepared import ArrayWriter, fingerprint, load_about, prepared
from lastax.data._ragged import open_ragged, save_lengths
from lastax.data._sequence_files import mean_and_deviation, save_splits
from lastax.data._skipping import HINT, Skipping
from lastax.data._sound_files import decode_sound
from lastax.data._sound_steps import FEATURES, SoundSteps
from lastax.data.speech import augment

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SLOWEST, FASTEST = 4_000, 192_000  # Hz; below, a window of 25 ms cannot resolve 40 bands
VERSION = 1  # of the prepared files; increment it when the code that makes them changes


def open_audio_folder(
    root: Path | None = None,
    *,
    data: str | Path,
    features: str = "log-mel",
    rate: int = 16_000,
    skip_bad: bool = False,
) -> Data:
    """Audio files in a folder with one subfolder per class.

    Clips are files that end in .wav, .flac, .ogg or .mp3, with any rate and number of channels.
    Folders whose names begin with `_` or `.` and folders without clips are ignored. Values are
    stored as 16-bit integers and standardized: mean 0 and standard deviation 1 over all steps of
    the training clips, for each band.

    If all clips have the same number of steps, records have that length. Otherwise records have
    the length of the longest clip, rounded up to a tenth of a second. They are padded with zeros,
    and "length" is the number of steps without padding.

    The files validation_list.txt and testing_list.txt, with lines `<class>/<file>`, list the
    clips of these splits. The other clips are for training. If a list is missing, a tenth of all
    clips is held out by speaker: the part of the file name before `_nohash_`, or the clip itself
    if there is none. Speakers are sorted by the SHA-256 of their names. They fill test, then
    validation, until each has a tenth. Therefore no speaker is in two splits, and splits depend
    on names alone.

    Args:
        root: folder of the other data sets; not used.
        data: the folder.
        features: "raw", one sample per step; "log-mel", 100 frames per second of 40 bands; or
            "mfcc", 100 frames per second of 20 coefficients.
        rate: samples per second, 4,000 to 192,000. All clips are resampled to this rate.
        skip_bad: skip clips that cannot be decoded, and listed clips that are missing.

    Raises:
        DataError: if there are fewer than two classes, a clip is bad, or a split is empty.
        ValueError: if `features` is unknown.
    """
    del root
    if features not in FEATURES:
        raise ValueError(
            f"open_audio_folder: features must be one of {tuple(FEATURES)}; got {features!r}"
        )
    if not SLOWEST <= rate <= FASTEST:
        raise DataError(f"open_audio_folder: rate must be in {SLOWEST}..{FASTEST} Hz; got {rate}")
    folder = Path(data).expanduser()
    clips = _clips(folder)
    lists = {split: folder / name for split, name in LISTS.items() if (folder / name).exists()}
    identity = {
        "version": VERSION,
        "files": fingerprint([*(folder / name for name in clips), *lists.values()]),
        "features": features,
        "rate": rate,
        "skip_bad": skip_bad,
    }
    build = functools.partial(
        _build,
        source=folder,
        names=clips,
        lists=lists,
        steps=FEATURES[features],
        rate=rate,
        skip=skip_bad,
    )
    ready = prepared("audio-folder", identity, build)
    about = load_about(ready)
    mean, std = (np.array(about[name], np.float32) for name in ("mean", "std"))
    opened = open_ragged(
        ready,
        functools.partial(_standardize, mean=mean, std=std),
        classes=tuple(about["classes"]),
        input_size=len(mean),
    )
    # Masking and shifting frames requires clips of equal length.
    varied = augment if about["uniform"] and features != "raw" else None
    read = functools.partial(
        _read_one,
        steps=FEATURES[features],
        rate=rate,
        mean=mean,
        std=std,
        length=opened.length,
        with_length=not about["uniform"],
    )
    return dataclasses.replace(opened, augment=varied, read_file=read)


def _read_one(
    path: Path,
    *,
    steps: SoundSteps,
    rate: int,
    mean: Float32[np.ndarray, " d"],
    std: Float32[np.ndarray, " d"],
    length: int,
    with_length: bool,
) -> list[Example]:
    """The record of a sound file."""
    values = steps.compute(read_waveform(path, rate=rate), rate)
    standardized = (values.astype(np.float32) - mean) / std
    return [padded_record(standardized, length=length, with_length=with_length, path=path)]


def _standardize(
    values: Int16[np.ndarray, " values"],
    *,
    mean: Float32[np.ndarray, " d"],
    std: Float32[np.ndarray, " d"],
) -> Float32[np.ndarray, "L d"]:
    return (values.reshape(-1, len(mean)).astype(np.float32) - mean) / std


def _clips(folder: Path) -> list[str]:
    """Sorted names of all clips, `<class>/<file>`."""
    if not os.path.isdir(folder):
        raise DataError(f"folder not found: {folder}; pass another --data")
    names = []
    for path in list_folder(folder):
        if path.name.startswith(("_", ".")) or not os.path.isdir(path):
            continue
        names += [
            f"{path.name}/{clip.name}"
            for clip in list_folder(path)
            if clip.suffix.lower() in SUFFIXES and not clip.name.startswith(".")
        ]
    for name in names:
        if not name.isprintable():
            raise DataError(f"{folder}: the name {name!r} is not printable; rename it")
    if len({name.split("/")[0] for name in names}) < 2:
        raise DataError(
            f"{folder} must hold at least two folders, one per class, with files that end in "
            f"{', '.join(SUFFIXES)}; pass another --data"
        )
    return names


def _build(
    folder: Path,
    *,
    source: Path,
    names: list[str],
    lists: Mapping[str, Path],
    steps: SoundSteps,
    rate: int,
    skip: bool,
) -> None:
    skipping = Skipping(skip)
    split_of = hold_out(
        names,
        read_lists(lists, names, skipping),
        [split for split in ("test", "validation") if split not in lists],
    )
    splits = np.array([split_of[name] for name in names])
    lengths, moments = np.zeros(len(names), np.int64), np.zeros((2, steps.size), np.int64)
    with ArrayWriter(folder, "values", np.int16) as values:
        for number, name in enumerate(names):
            with skipping.item():
                clip = _read(source / name, steps, rate)
                values.append(clip.reshape(-1))
                lengths[number] = len(clip)
                if splits[number] == "train":
                    wide = clip.astype(np.int64)
                    moments += wide.sum(axis=0), (wide**2).sum(axis=0)
    good = lengths > 0
    classes = sorted({name.split("/")[0] for name in names})
    labels = np.array([classes.index(name.split("/")[0]) for name in names], np.int32)
    _check_classes(source, classes, labels[good & (splits == "train")])
    save_lengths(folder, lengths, steps.size)
    longest = int(lengths.max())
    uniform = bool((lengths[good] == longest).all())
    tenth = steps.per_tenth(rate)
    mean, std = mean_and_deviation(moments, int(lengths[splits == "train"].sum()))
    save_splits(
        folder,
        labels,
        {split: np.flatnonzero(splits == split) for split in ("train", *LISTS)},
        good,
        where=source,
        skipped=skipping.count,
        classes=classes,
        length=longest if uniform else -(-longest // tenth) * tenth,
        uniform=uniform,
        mean=mean.tolist(),
        std=std.tolist(),
    )


def _read(path: Path, steps: SoundSteps, rate: int) -> Int16[np.ndarray, "L d"]:
    packed = read_file(path)
    try:
        return steps.compute(decode_sound(packed, rate=rate), rate)
    except DataError as error:
        raise DataError(f"{path} {error}; {HINT}") from None


def _check_classes(source: Path, classes: list[str], labels: Int32[np.ndarray, " n"]) -> None:
    """Raise DataError if a class has no training clip."""
    for label, name in enumerate(classes):
        if label not in labels:
            raise DataError(
                f"{source / name} has no usable clip for training; add clips, or list fewer for "
                "validation and test"
            )


def _is_present(root: Path) -> bool:
    """False: only the user knows the location."""
    del root
    return False


DATA_SET = DataSet(
    name="audio-folder",
    open=open_audio_folder,
    kind="audio",
    needs="--data DIR: one folder per class with .wav, .flac, .ogg or .mp3 files",
    present=_is_present,
    options=("data", "features", "rate"),
    license="yours",
    citation="yours",
)
