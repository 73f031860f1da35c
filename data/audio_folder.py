"""The `audio-folder` data set: anyone's sounds, one folder a class, as samples or as frames."""

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
from lastax.data._folders import list_folder, read_file
from lastax.data._prepared import ArrayWriter, fingerprint, load_about, prepared
from lastax.data._ragged import open_ragged, save_lengths
from lastax.data._sequence_files import mean_and_deviation, save_splits
from lastax.data._skipping import CURE, Skipping
from lastax.data._sound_files import decode_sound
from lastax.data._sound_steps import FEATURES, SoundSteps
from lastax.data.speech import augment

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SLOWEST, FASTEST = 4_000, 192_000  # Hz; below, a frame of 25 ms cannot tell 40 bands apart
VERSION = 1  # of the prepared files: count it up when the code that makes them changes


def open_audio_folder(
    root: Path | None = None,
    *,
    data: str | Path,
    features: str = "log-mel",
    rate: int = 16_000,
    skip_bad: bool = False,
) -> Data:
    """Sounds below a folder of folders, each of which is a class by its name.

    Files that end in .wav, .flac, .ogg or .mp3 are clips, whatever their rate and number of
    channels. Folders that begin with `_` or `.` and those without clips are no classes. Values are
    kept as 16-bit integers and standardized: mean 0 and standard deviation 1 over all steps of the
    training clips, each band for itself.

    If all clips have the same number of steps, so have the records. Else they have that of the
    longest clip, rounded up to a tenth of a second, filled up with zeros, and say by "length" how
    many steps are sound.

    The lists validation_list.txt and testing_list.txt, lines of `<class>/<file>`, name the clips
    of their splits, and the rest is for training. Without one of them a tenth of all clips takes
    its place: speakers (the part before `_nohash_` in a file's name; where there is none, each
    clip is its own) go in the order of the SHA-256 of their names, first into test and then into
    validation, each until it has its tenth. So no speaker is in two splits, and a split depends on
    names alone.

    Args:
        root: of other data sets: plays no part.
        data: the folder.
        features: "raw", one sample a step; "log-mel", 40 bands, or "mfcc", 20 coefficients of a
            frame, 100 frames a second.
        rate: samples a second, 4,000 to 192,000, that every clip is brought to.
        skip_bad: leave out clips that cannot be decoded or are listed and missing.

    Raises:
        DataError: if there are not two classes, or a clip is bad, or nothing is left of a split.
    """
    del root
    if features not in FEATURES:
        raise ValueError(
            f"open_audio_folder: features is {features!r}, must be one of {tuple(FEATURES)}"
        )
    if not SLOWEST <= rate <= FASTEST:
        raise DataError(f"rate is {rate} Hz, must be in {SLOWEST}..{FASTEST}: give another --rate")
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
    # Masking frames and moving them in time is for sounds that all end at the same step.
    varied = augment if about["uniform"] and features != "raw" else None
    return dataclasses.replace(opened, augment=varied)


def _standardize(
    values: Int16[np.ndarray, " values"],
    *,
    mean: Float32[np.ndarray, " d"],
    std: Float32[np.ndarray, " d"],
) -> Float32[np.ndarray, "L d"]:
    return (values.reshape(-1, len(mean)).astype(np.float32) - mean) / std


def _clips(folder: Path) -> list[str]:
    """The names of all clips, `<class>/<file>`, sorted."""
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {folder}: give another --data")
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
            raise DataError(f"{folder}: the name {name!r} is no text; rename it")
    if len({name.split("/")[0] for name in names}) < 2:
        raise DataError(
            f"{folder} must hold two or more folders, one a class, with files that end in "
            f"{', '.join(SUFFIXES)}: give another --data"
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
    tenth = steps.in_tenth(rate)
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
        raise DataError(f"{path} {error}; {CURE}") from None


def _check_classes(source: Path, classes: list[str], labels: Int32[np.ndarray, " n"]) -> None:
    """See to it that there is a training clip of each class."""
    for label, name in enumerate(classes):
        if label not in labels:
            raise DataError(
                f"{source / name} has no good clip for training: add clips, or list others for "
                "validation and test"
            )


def _is_present(root: Path) -> bool:
    """Only the user knows where it is."""
    del root
    return False


DATA_SET = DataSet(
    name="audio-folder",
    open=open_audio_folder,
    kind="audio",
    needs="--data DIR: a folder of folders, one a class, of .wav, .flac, .ogg or .mp3 files",
    present=_is_present,
    options=("data", "features", "rate"),
    license="your own",
    citation="your own",
)
