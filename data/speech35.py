"""The `speech35` data set: the 35 words of Speech Commands v0.02 as raw audio at 16 kHz."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int16, Int64

from lastax.data._clip_splits import LISTS, check_classes, read_lists
from lastax.data._data_set import Data, DataSet, Remote
from lastax.data._errors import DataError
from lastax.data._files import one_second
from lastax.data._folders import find, need, read_file
from lastax.data._pipeline import Example
from lastax.data._prepared import StoredArray, fingerprint, load_about, prepared
from lastax.data._sequence_files import (
    create_sequences,
    mean_and_deviation,
    open_sequences,
    save_array,
    save_splits,
)
from lastax.data._skipping import HINT, Skipping
from lastax.data._sound_files import read_pcm16
from lastax.data._sound_folders import find_clips
from lastax.data._sound_steps import raw
from lastax.data._stream_features import StreamFeatures, Windows

FOLDER = "speech_commands_v0.02"
# In the order of the published code, which defines the labels.
WORDS = (
    *("bed", "cat", "down", "five", "forward", "go", "house", "left", "marvin", "no", "on"),
    *("right", "sheila", "tree", "up", "visual", "yes", "backward", "bird", "dog", "eight"),
    *("follow", "four", "happy", "learn", "nine", "off", "one", "seven", "six", "stop", "three"),
    *("two", "wow", "zero"),
)
RATE = 16_000
LENGTH = RATE  # one second
VERSION = 2  # of the prepared files; increment it when the code that makes them changes
MISSING = (
    "run `lastax data fetch speech35`, or unpack speech_commands_v0.02.tar.gz into that "
    "folder (root: --data-dir, LASTAX_DATA)"
)
NORMALIZATIONS = ("standard", "published")


def open_speech35(root: Path, *, normalization: str = "standard", skip_bad: bool = False) -> Data:
    """Spoken words as 16,000 samples: `x` (16000, 1). Short clips are padded with silence.

    The splits are the official lists; clips in neither list are for training. If the folder has
    only some of the 35 words, these are the classes, in the order of the published code. Clips
    are sorted by word and name.

    Args:
        root: folder that holds all data sets.
        normalization: "standard" gives mean 0 and standard deviation 1 over all samples of all
            training clips. "published" is what the code of S5 does: samples in -1..1 are divided
            by 2^15 once more, then each of the 16,000 time steps is standardized with its own
            mean and its standard deviation + 1e-5, which results in a standard deviation of
            about 0.2. Both use statistics of the training clips.
        skip_bad: skip damaged clips, and listed clips that are missing.

    Raises:
        DataError: if the folder or a list is missing or a clip is bad; with `skip_bad`, only if a
            split is empty.
        ValueError: if `normalization` is unknown.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"open_speech35: normalization must be one of {NORMALIZATIONS}; got {normalization!r}"
        )
    folder = need(root, FOLDER, hint=MISSING)
    present = [word for word in WORDS if (folder / word).is_dir()]
    found = find_clips((folder / word for word in sorted(present)), suffixes=(".wav",))
    filled = {name.split("/")[0] for name in found.clips}
    words = tuple(word for word in present if word in filled)
    if not words:
        raise DataError(f"{folder} has no folder of clips ({', '.join(WORDS[:3])}, ...); {MISSING}")
    lists = {split: need(folder, name, hint=MISSING) for split, name in LISTS.items()}
    identity = {
        "version": VERSION,
        "files": fingerprint(
            [*(folder / name for name in found.clips), *lists.values()], skip_bad=skip_bad
        ),
        "skip_bad": skip_bad,
    }
    build = functools.partial(
        _build,
        source=folder,
        names=found.clips,
        words=words,
        absent=frozenset(WORDS) - set(present),
        lists=lists,
        skip=skip_bad,
    )
    ready = prepared("speech35", identity, build)
    decode = functools.partial(_normalize, **_statistics(ready, normalization))
    read = functools.partial(_read_one, decode=decode)
    stream = functools.partial(_stream_features, decode, normalization)
    opened = open_sequences(ready, decode, words)
    return dataclasses.replace(
        opened,
        read_file=read,
        stream_features=stream,
        skipped=opened.skipped + sum(found.left_out.values()),
        left_out=found.left_out,
        notes=(*found.notes, *opened.notes),
    )


def _read_one(
    path: Path, *, decode: Callable[[Int16[np.ndarray, " L"]], Float32[np.ndarray, "L 1"]]
) -> list[Example]:
    """The record of a sound file."""
    return [{"x": decode(raw(one_second(path, rate=RATE), RATE)[:, 0])}]


def _stream_features(
    decode: Callable[[Int16[np.ndarray, " L"]], Float32[np.ndarray, "L 1"]], normalization: str
) -> StreamFeatures:
    if normalization == "published":
        raise DataError(
            "speech35: normalization published standardizes each of the 16,000 time steps of a "
            "record with its own mean and deviation, so it cannot stream; train with "
            "--normalization standard"
        )

    def compute(windows: Windows) -> Float32[np.ndarray, "L 1"]:
        return decode(raw(windows[:, 0], RATE)[:, 0])

    return StreamFeatures(compute, rate=RATE, shortest=LENGTH)


def _normalize(
    samples: Int16[np.ndarray, " L"],
    *,
    mean: Float32[np.ndarray, " L_or_1"],
    std: Float32[np.ndarray, " L_or_1"],
) -> Float32[np.ndarray, "L 1"]:
    return ((samples.astype(np.float32) - mean) / std)[:, None]


def _statistics(folder: Path, normalization: str) -> dict[str, Float32[np.ndarray, " L_or_1"]]:
    """Mean and standard deviation for `_normalize`, in units of 16-bit samples."""
    mean, std = (np.array(StoredArray(folder / f"{name}.npy")) for name in ("mean", "std"))
    if normalization == "published":
        return {"mean": mean, "std": std + np.float32(1e-5 * 2**30)}
    about = load_about(folder)
    return {name: np.array(about[name], np.float32) for name in ("mean", "std")}


def _build(
    folder: Path,
    *,
    source: Path,
    names: list[str],
    words: tuple[str, ...],
    absent: frozenset[str],
    lists: Mapping[str, Path],
    skip: bool,
) -> None:
    skipping = Skipping(skip)
    listed = read_lists(lists, names, skipping, absent=absent)
    x = create_sequences(folder, (len(names), LENGTH), np.int16)
    good = np.zeros(len(names), bool)
    rows: dict[str, list[int]] = {split: [] for split in ("train", *LISTS)}
    moments = np.zeros((2, LENGTH), np.int64)  # exact sums and sums of squares
    for number, name in enumerate(names):
        split = listed.split_of.get(name, "train")
        rows[split].append(number)
        with skipping.item():
            x[number] = _samples(source / name)
            good[number] = True
            if split == "train":
                wide = x[number].astype(np.int64)
                moments += wide, wide**2
    x.flush()
    labels = np.array([words.index(name.split("/")[0]) for name in names], np.int32)
    check_classes(source, words, labels[good & np.isin(np.arange(len(names)), rows["train"])])
    splits = {split: np.array(numbers, np.int64) for split, numbers in rows.items()}
    training = int(np.count_nonzero(good[splits["train"]]))
    _save_places(folder, moments, training)
    mean, std = mean_and_deviation(moments.sum(axis=1, keepdims=True), training * LENGTH)
    save_splits(
        folder,
        labels,
        splits,
        good,
        where=source,
        skipped=skipping.count,
        notes=listed.notes,
        mean=mean.tolist(),
        std=std.tolist(),
    )


def _save_places(folder: Path, moments: Int64[np.ndarray, "2 L"], clips: int) -> None:
    """Save mean and unbiased standard deviation of each time step over `clips` clips."""
    mean, squares = moments / max(clips, 1)
    variance = (squares - mean**2) * clips / max(clips - 1, 1)
    save_array(folder, "mean", mean.astype(np.float32))
    save_array(folder, "std", np.sqrt(np.maximum(variance, 0)).astype(np.float32))


def _samples(clip: Path) -> Int16[np.ndarray, " L"]:
    packed = read_file(clip)
    try:
        samples = read_pcm16(packed, rate=RATE)
        if len(samples) > LENGTH:
            raise DataError(f"has {len(samples):,} samples, more than one second")
    except DataError as error:
        raise DataError(f"{clip} {error}; {HINT}") from None
    return np.pad(samples, (0, LENGTH - len(samples)))


def _is_present(root: Path) -> bool:
    folder = find(root, FOLDER)
    return folder is not None and all((folder / name).exists() for name in LISTS.values())


DATA_SET = DataSet(
    name="speech35",
    open=open_speech35,
    kind="audio",
    needs=f"{FOLDER}/ with one folder per word and both lists: `lastax data fetch speech35`",
    present=_is_present,
    options=("normalization",),
    remotes=(
        Remote(
            url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            size=2_428_923_189,
            sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            unpacks_to=FOLDER,
        ),
    ),
    expected=MappingProxyType({"train": 84_843, "validation": 9_981, "test": 11_005}),
    size="2.4 GB packed, 3.3 GB unpacked",
    license="CC BY 4.0",
    citation=(
        "P. Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, "
        "arXiv:1804.03209, 2018"
    ),
)
