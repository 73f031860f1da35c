"""The `audio-folder` data set: your own audio files, with one folder per class."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from lastax._cache_folder import with_home
from lastax.data._clip_splits import LISTS, check_classes, hold_out, read_lists
from lastax.data._data_set import Data, DataSet
from lastax.data._errors import DataError
from lastax.data._folders import list_folder, read_file
from lastax.data._prepared import ArrayWriter, fingerprint, load_about, prepared
from lastax.data._ragged import open_ragged, save_lengths
from lastax.data._sequence_files import mean_and_deviation, save_splits
from lastax.data._skipping import HINT, Skipping
from lastax.data._sound_encoding import SoundEncoding
from lastax.data._sound_files import Sound, Waveform, read_sound, resample
from lastax.data._sound_folders import READABLE, SoundFolder, find_clips
from lastax.data._sound_scale import SoundScale, fitting_scale
from lastax.data._sound_steps import FEATURES, SoundSteps
from lastax.data.speech import augment

SLOWEST, FASTEST = 4_000, 192_000  # Hz; below, a window of 25 ms cannot resolve 40 bands
VERSION = 4  # of the prepared files; increment it when the code that makes them changes


def open_audio_folder(
    root: Path | None = None,
    *,
    data: str | Path,
    features: str = "log-mel",
    rate: int = 16_000,
    skip_bad: bool = False,
) -> Data:
    """Audio files in a folder with one subfolder per class.

    Clips are sound files that libsndfile reads (WAV, FLAC, Ogg, Opus, MP3, AIFF, AU, CAF, ...),
    with any rate and number of channels, also in folders below the folder of a class. Other files
    are left out and counted. Folders whose names begin with `_` or `.` and folders without sounds
    are ignored. Values are stored as 16-bit integers and standardized: mean 0 and standard
    deviation 1 over all steps of the training clips, for each band.

    Samples of a floating-point file may exceed -1..1. If those of one clip do, all floating-point
    clips of the data set are divided by the same number: the smallest power of two that brings all
    of them into -1..1. However, if a clip exceeds 4 and most others stay in -1..1, this clip is
    bad. Other files are clipped to -1..1, as compressed sound exceeds it slightly.

    If all clips have the same number of steps, records have that length. Otherwise records have
    the length of the longest clip, rounded up to a tenth of a second. They are padded with zeros,
    and "length" is the number of steps without padding.

    The files validation_list.txt and testing_list.txt, with lines `<class>/<file>`, list the
    clips of these splits. The other clips are for training. If a list is missing, a tenth of all
    clips is held out by speaker: the part of the file name before `_nohash_`, or the clip itself
    if there is none. Each split takes speakers from the class whose clips it needs most, in the
    order of the SHA-256 of their names. Therefore no speaker is in two splits, splits have a tenth
    of each class where speakers allow it, and they depend on names alone.

    Args:
        root: folder of the other data sets; not used.
        data: the folder.
        features: "raw", one sample per step; "log-mel", 100 frames per second of 40 bands; or
            "mfcc", 100 frames per second of 20 coefficients.
        rate: samples per second, 4,000 to 192,000. All clips are resampled to this rate.
        skip_bad: skip clips that cannot be decoded, and listed clips that are missing.

    Raises:
        DataError: if there are fewer than two classes, a clip is bad, a line of a list is not
            understood, or a class or a split has no clips.
        ValueError: if `features` is unknown.
    """
    del root
    if features not in FEATURES:
        raise ValueError(
            f"open_audio_folder: features must be one of {tuple(FEATURES)}; got {features!r}"
        )
    if not SLOWEST <= rate <= FASTEST:
        raise DataError(f"open_audio_folder: rate must be in {SLOWEST}..{FASTEST} Hz; got {rate}")
    folder = with_home(data)
    found = _clips(folder)
    ready = _prepared(folder, found.clips, features=features, rate=rate, skip_bad=skip_bad)
    about = load_about(ready)
    encoding = SoundEncoding(
        FEATURES[features],
        rate,
        SoundScale(**about["scale"]),
        *(np.array(about[name], np.float32) for name in ("mean", "std")),
    )
    opened = open_ragged(
        ready,
        encoding.standardize,
        classes=tuple(about["classes"]),
        input_size=len(encoding.mean),
    )
    # Masking and shifting frames requires clips of equal length.
    varied = augment if about["uniform"] and features != "raw" else None
    read = functools.partial(
        encoding.read_record, length=opened.length, with_length=not about["uniform"]
    )
    return dataclasses.replace(
        opened,
        augment=varied,
        read_file=read,
        stream_features=encoding.stream_features,
        skipped=opened.skipped + sum(found.left_out.values()),
        left_out=found.left_out,
        notes=(*found.notes, *opened.notes),
    )


def _prepared(folder: Path, names: list[str], *, features: str, rate: int, skip_bad: bool) -> Path:
    """Where the steps of all clips are, which are computed once."""
    lists = _lists(folder)
    identity = {
        "version": VERSION,
        "files": fingerprint(
            [*(folder / name for name in names), *lists.values()], skip_bad=skip_bad
        ),
        "features": features,
        "rate": rate,
        "skip_bad": skip_bad,
    }
    build = functools.partial(
        _build,
        source=folder,
        names=names,
        lists=lists,
        steps=FEATURES[features],
        rate=rate,
        skip=skip_bad,
    )
    return prepared("audio-folder", identity, build)


def _clips(folder: Path) -> SoundFolder:
    if not os.path.isdir(folder):
        raise DataError(f"folder not found: {folder}; pass another --data")
    folders = [path for path in list_folder(folder) if os.path.isdir(path)]
    found = find_clips(path for path in folders if not path.name.startswith("_"))
    for name in found.clips:
        if not name.isprintable():
            raise DataError(f"{folder}: the name {name!r} is not printable; rename it")
    if len({name.split("/")[0] for name in found.clips}) < 2:
        raise DataError(
            f"{folder} must hold at least two folders, one per class, with sound files "
            f"({READABLE}); pass another --data"
        )
    return found


def _lists(folder: Path) -> dict[str, Path]:
    """The lists of splits that exist.

    Raises:
        DataError: if a list has another name. Its clips would land in the training split.
    """
    for path in list_folder(folder):
        name = path.name.lower()
        is_list = name.endswith(("_list.txt", "_list.txt.txt", "_list")) and name[:5] != "train"
        if is_list and path.name not in LISTS.values():
            raise DataError(
                f"{path} is not read: lists are called {' and '.join(LISTS.values())}; rename it"
            )
    # A broken link must not count as a missing list.
    return {split: folder / name for split, name in LISTS.items() if os.path.lexists(folder / name)}


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
    listed = read_lists(lists, names, skipping)
    split_of = hold_out(
        names,
        listed.split_of,
        [split for split in ("test", "validation") if split not in lists],
    )
    splits = np.array([split_of[name] for name in names])
    encode = functools.partial(
        _encode, folder, [source / name for name in names], splits == "train", steps, rate
    )
    clips = encode(SoundScale(), Skipping(skip))
    scale = fitting_scale(clips.peaks)
    if clips.peaks.max() > 1:
        clips = encode(scale, Skipping(skip))
    lengths, moments, good = clips.lengths, clips.moments, clips.lengths > 0
    classes = sorted({name.split("/")[0] for name in names})
    labels = np.array([classes.index(name.split("/")[0]) for name in names], np.int32)
    check_classes(source, classes, labels[good & (splits == "train")])
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
        skipped=skipping.count + int(np.count_nonzero(~good)),
        notes=[*listed.notes, *scale.notes(names, clips.peaks)],
        classes=classes,
        length=longest if uniform else -(-longest // tenth) * tenth,
        uniform=uniform,
        scale=dataclasses.asdict(scale),
        mean=mean.tolist(),
        std=std.tolist(),
    )


class _Clips(NamedTuple):
    """What `_encode` found. Bad clips have length 0; `peaks` are 0 for files of integers."""

    lengths: Int64[np.ndarray, " n"]
    moments: Int64[np.ndarray, "2 d"]
    peaks: Float64[np.ndarray, " n"]


def _encode(
    folder: Path,
    paths: list[Path],
    training: Bool[np.ndarray, " n"],
    steps: SoundSteps,
    rate: int,
    scale: SoundScale,
    skipping: Skipping,
) -> _Clips:
    """Write the steps of all clips."""
    clips = _Clips(
        np.zeros(len(paths), np.int64),
        np.zeros((2, steps.size), np.int64),
        np.zeros(len(paths), np.float64),
    )
    with ArrayWriter(folder, "values", np.int16) as values:
        for number, path in enumerate(paths):
            with skipping.item():
                sound = _read(path, scale)
                waveform = _resampled(path, sound, rate)
                if sound.floating:
                    clips.peaks[number] = np.abs(sound.waveform).max()
                    waveform = waveform * np.float32(scale.factor)
                clip = steps.compute(waveform, rate)
                values.append(clip.reshape(-1))
                clips.lengths[number] = len(clip)
                if training[number]:
                    wide = clip.astype(np.int64)
                    clips.moments[...] += wide.sum(axis=0), (wide**2).sum(axis=0)
    return clips


def _read(path: Path, scale: SoundScale) -> Sound:
    packed = read_file(path)
    try:
        sound = read_sound(packed)
        if sound.floating:
            scale.check(float(np.abs(sound.waveform).max()))
    except DataError as error:
        raise DataError(f"{path} {error}; {HINT}") from None
    return sound


def _resampled(path: Path, sound: Sound, rate: int) -> Waveform:
    try:
        return resample(sound.waveform, sound.rate, rate)
    except DataError as error:
        raise DataError(f"{path} {error}; {HINT}") from None


def _is_present(root: Path) -> bool:
    """False: only the user knows the location."""
    del root
    return False


DATA_SET = DataSet(
    name="audio-folder",
    open=open_audio_folder,
    kind="audio",
    needs="--data DIR: one folder per class with .wav, .flac, .ogg, .mp3 or other sound files",
    present=_is_present,
    options=("data", "features", "rate"),
    license="yours",
    citation="yours",
)
