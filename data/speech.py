"""The `speech` data set: ten spoken words, one second each, as log-mel or MFCC frames.

The clips are bundled with the package. README.txt inside the archive documents their source and
the changes.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float32, Int32

from lastax.data._archive import Archive, open_archive
from lastax.data._audio import (
    BANDS,
    COEFFICIENTS,
    FLOOR,
    WINDOW,
    decode_clip,
    log_mel,
    log_mel_of_windows,
    mfcc,
)
from lastax.data._cache import Arrays, cached
from lastax.data._data_set import Data, DataSet
from lastax.data._errors import DataError
from lastax.data._files import one_second
from lastax.data._pipeline import Example
from lastax.data._stream_features import StreamFeatures, Windows

SPLITS = ("train", "validation", "test")
LISTS = {
    "validation": "validation_list.txt",
    "test": "testing_list.txt",
}  # all other clips are for training
CLASSES = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ARCHIVE = Path(__file__).with_name("speech_commands_10.zip")
RATE = 8000
HOP = 80  # 10 ms
LENGTH = RATE // HOP + 1
VERSION = 1  # of the features; increment it when the code that computes them changes
HINT = "restore it with git, or run data/make_speech_sample.py"
Frames = Float32[np.ndarray, "... L d"]
FEATURES: Mapping[str, Callable[[Frames], Frames]] = MappingProxyType(
    {"log-mel": lambda frames: frames, "mfcc": mfcc}
)


def open_speech(
    root: Path | None = None,
    *,
    features: str = "log-mel",
    skip_bad: bool = False,
    archive: str | Path = ARCHIVE,
) -> Data:
    """The ten words from the bundled archive.

    Args:
        root: folder of the other data sets; not used.
        features: "log-mel", 40 bands, or "mfcc", 20 coefficients.
        skip_bad: skip clips that cannot be decoded.
        archive: another archive with the same layout.

    Raises:
        DataError: if the archive is missing or damaged.
    """
    del root
    sources = {
        split: Speech(split, archive, features=features, skip_bad=skip_bad) for split in SPLITS
    }
    return Data(
        sources=sources,
        classes=CLASSES,
        input_size={"log-mel": BANDS, "mfcc": COEFFICIENTS}[features],
        length=LENGTH,
        augment=augment,
        read_file=functools.partial(_read_one, features=features, source=sources["train"]),
        stream_features=functools.partial(_stream_features, features, sources["train"]),
        skipped=sum(source.skipped for source in sources.values()),
    )


def _read_one(path: Path, *, features: str, source: "Speech") -> list[Example]:
    """The record of a sound file, with the statistics of a split."""
    frames = log_mel(one_second(path, rate=RATE)[None], rate=RATE, hop=HOP)
    return [{"x": (FEATURES[features](frames)[0] - source.mean) / source.std}]


def _stream_features(features: str, source: "Speech") -> StreamFeatures:
    def compute(windows: Windows) -> Frames:
        frames = FEATURES[features](log_mel_of_windows(windows, rate=RATE))
        return (frames - source.mean) / source.std

    return StreamFeatures(compute, rate=RATE, window=WINDOW, hop=HOP, shortest=RATE)


class Speech:
    """A split of the ten words, held in memory: a random-access source for Grain.

    A record is `{"x": float32 (101, d), "label": int32 ()}`, with d = 40 mel bands or 20 cepstral
    coefficients. Features are standardized over the training clips: x = (features - mean) / std.
    No speaker is in two splits.
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(
        self,
        split: str,
        archive: str | Path = ARCHIVE,
        *,
        features: str = "log-mel",
        skip_bad: bool = False,
    ):
        """Open a split.

        The first call computes the features of all clips in a few seconds and caches them in
        LASTAX_CACHE (default ~/.cache/lastax).

        Args:
            split: "train", "validation" or "test".
            archive: the archive of clips.
            features: "log-mel" or "mfcc".
            skip_bad: skip clips that cannot be decoded.

        Raises:
            DataError: if the archive is missing or damaged.
            ValueError: if `split` or `features` is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"Speech: split must be one of {SPLITS}; got {split!r}")
        if features not in FEATURES:
            raise ValueError(f"Speech: features must be one of {tuple(FEATURES)}; got {features!r}")
        opened = open_archive(Path(archive), hint=HINT)
        clips = clips_of_splits(opened)
        arrays = _features(opened, features, skip_bad)
        names = [name for part in SPLITS for name in clips[part]]
        kept = arrays["kept"] if skip_bad else np.ones(len(names), bool)
        start = sum(len(clips[before]) for before in SPLITS[: SPLITS.index(split)])
        here = np.zeros(len(names), bool)
        here[start : start + len(clips[split])] = True
        names = [name for name, use in zip(names, kept & here, strict=True) if use]
        labels = [CLASSES.index(_word(name)) for name in names]
        first = np.count_nonzero(kept[:start])
        self.split = split
        self.speakers = tuple(speaker(name) for name in names)
        self.skipped = len(clips[split]) - len(names)
        self.mean: Float32[np.ndarray, " d"] = arrays["mean"]
        self.std: Float32[np.ndarray, " d"] = arrays["std"]
        self._x: Float32[np.ndarray, "N L d"] = arrays["x"][first : first + len(names)]
        self._labels: Int32[np.ndarray, " N"] = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: SupportsIndex) -> Example:
        return {"x": self._x[index], "label": self._labels[index]}

    def __repr__(self) -> str:
        return f"Speech({self.split!r}, clips={len(self)})"


def augment(
    example: Example,
    rng: np.random.Generator,
    *,
    shift: int = 10,
    band_width: int = 6,
    frame_width: int = 12,
) -> Example:
    """Shift `example` in time and mask random bands and frames (SpecAugment).

    Up to `band_width` adjacent bands, up to `frame_width` adjacent frames, and the frames that
    the shift leaves empty are set to 0, the mean of the training data. Park et al., SpecAugment,
    Interspeech 2019.

    Args:
        example: the record.
        rng: source of random numbers.
        shift: maximal shift in frames.
        band_width: maximal number of masked bands.
        frame_width: maximal number of masked frames.
    """
    original = np.asarray(example["x"])
    frames, bands = original.shape
    offset = int(rng.integers(-min(shift, frames), min(shift, frames) + 1))
    x = np.zeros_like(original)
    kept = original[max(-offset, 0) : frames - max(offset, 0)]
    x[max(offset, 0) : frames + min(offset, 0)] = kept
    x[:, _stripe(rng, bands, band_width)] = 0
    x[_stripe(rng, frames, frame_width)] = 0
    return {**example, "x": x}


def _stripe(rng: np.random.Generator, size: int, widest: int) -> slice:
    """A random range inside 0..size, of width 0 to `widest`."""
    width = int(rng.integers(min(widest, size) + 1))
    start = int(rng.integers(size - width + 1))
    return slice(start, start + width)


@functools.lru_cache(maxsize=1)  # the three splits share these names
def clips_of_splits(archive: Archive) -> dict[str, tuple[str, ...]]:
    """Sorted names of the clips in each split."""
    clips = [name for name in archive.names() if name.endswith(".flac") and _word(name) in CLASSES]
    lists = (set(content.decode().split()) for content in archive.read(*LISTS.values()))
    listed = dict(zip(LISTS, lists, strict=True))
    listed["train"] = set(clips).difference(*listed.values())
    splits = {split: tuple(name for name in clips if name in listed[split]) for split in SPLITS}
    for split, names in splits.items():
        if not names:
            raise DataError(f"{archive.path} has no {split} clips; {archive.hint}")
    return splits


def speaker(name: str) -> str:
    """The speaker of the clip `<word>/<speaker>_nohash_<k>.flac`."""
    return PurePosixPath(name).name.split("_nohash_")[0]


def _word(name: str) -> str:
    return PurePosixPath(name).parent.name


@functools.lru_cache(maxsize=1)  # the three splits share these arrays
def _features(archive: Archive, features: str, skip_bad: bool) -> Arrays:
    """Standardized `x` (N, L, d) of all clips, split by split; `mean` and `std` (d,).

    With `skip_bad`, also `kept`: whether each clip was used.
    """
    settings = "-".join(map(str, (VERSION, RATE, HOP, WINDOW, BANDS, FLOOR)))
    if features != "log-mel":
        settings += f"-{features}{COEFFICIENTS}"
    if skip_bad:
        settings += "-kept"
    key = f"speech-{settings}-{archive.digest[:16]}"
    return cached(key, functools.partial(_compute_features, archive, FEATURES[features], skip_bad))


def _compute_features(
    archive: Archive, features: Callable[[Frames], Frames], skip_bad: bool
) -> Arrays:
    clips = clips_of_splits(archive)
    names = [name for split in SPLITS for name in clips[split]]
    decoded = [
        _decode(archive, *item, skip_bad)
        for item in zip(names, archive.attempt(*names), strict=True)
    ]
    kept = np.array([clip is not None for clip in decoded])
    training = np.count_nonzero(kept[: len(clips["train"])])
    if not training:
        raise DataError(f"{archive.path} has no usable train clip; {archive.hint}")
    x = features(
        log_mel(np.stack([clip for clip in decoded if clip is not None]), rate=RATE, hop=HOP)
    )
    train = x[:training].reshape(-1, x.shape[-1])
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = train.std(axis=0, dtype=np.float64).astype(np.float32)
    # Constant bands (silence) must not cause a division by zero.
    std = np.maximum(std, 1e-3)
    arrays = {"x": (x - mean) / std, "mean": mean, "std": std}
    return {**arrays, "kept": kept} if skip_bad else arrays


def _decode(
    archive: Archive, name: str, packed: bytes | DataError, skip_bad: bool
) -> Float32[np.ndarray, " samples"] | None:
    """A clip, or None if it is bad and `skip_bad` is true."""
    try:
        if isinstance(packed, DataError):
            raise packed
        try:
            return decode_clip(packed, rate=RATE, samples=RATE)
        except DataError as error:
            raise DataError(f"{archive.member(name)} is {error}; {archive.hint}") from None
    except DataError:
        if skip_bad:
            return None
        raise


def _is_bundled(root: Path) -> bool:
    del root
    return ARCHIVE.is_file()


DATA_SET = DataSet(
    name="speech",
    open=open_speech,
    kind="audio",
    needs="nothing: the clips are bundled",
    present=_is_bundled,
    options=("features",),
    expected=MappingProxyType({"train": 2839, "validation": 394, "test": 841}),
    size="15 MB",
    license="CC BY 4.0",
    citation=(
        "P. Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, "
        "arXiv:1804.03209, 2018"
    ),
)
