"""The `speech` data set: ten spoken words, one second each, as log-mel frames.

The clips come with the code, so this data set needs no download. README.txt inside the archive
says where they come from and what was changed.
"""

import functools
from pathlib import Path, PurePosixPath
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float32, Int32
from lastax.data._archive import Archive, open_archive
from lastax.data._audio import BANDS, FLOOR, WINDOW, decode_clip, log_mel
from lastax.data._cache import Arrays, cached
from lastax.data._errors import DataError
from lastax.data._pipeline import Example

SPLITS = ("train", "validation", "test")
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}  # the rest is training
CLASSES = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ARCHIVE = Path(__file__).with_name("speech_commands_10.zip")
RATE = 8000
HOP = 80  # 10 ms
LENGTH = RATE // HOP + 1
VERSION = 1  # of the features: count it up when the code that computes them changes
CURE = "restore it with git, or make it with data/make_speech_sample.py"


class Speech:
    """One part of the ten words, held in memory: a random-access source for Grain.

    A record is `{"x": float32 (101, 40), "label": int32 ()}`. Each mel band has mean 0 and
    standard deviation 1 over the training clips: x = (log_mel - mean) / std. No speaker is in two
    parts.
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(self, split: str, archive: str | Path = ARCHIVE):
        """Open the part `split` of `archive`.

        The first call computes the features of all clips, some seconds; they are kept under
        LASTAX_CACHE (default ~/.cache/lastax), so that later ones take a fraction of a second.
        Raises DataError if the archive is missing or damaged.
        """
        if split not in SPLITS:
            raise ValueError(f"Speech: split is {split!r}, must be one of {SPLITS}")
        opened = open_archive(Path(archive), cure=CURE)
        clips = clips_of_splits(opened)
        arrays = _features(opened)
        start = sum(len(clips[before]) for before in SPLITS[: SPLITS.index(split)])
        names = clips[split]
        labels = [CLASSES.index(_word(name)) for name in names]
        self.split = split
        self.speakers = tuple(speaker(name) for name in names)
        self.mean: Float32[np.ndarray, " d"] = arrays["mean"]
        self.std: Float32[np.ndarray, " d"] = arrays["std"]
        self._x: Float32[np.ndarray, "N L d"] = arrays["x"][start : start + len(names)]
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
    """`example` moved in time by up to `shift` frames, with some bands and frames masked out.

    A stripe of up to `band_width` bands and one of up to `frame_width` frames are set to 0, which
    is the mean of the training data; so are the frames that the shift leaves empty. Park et al.,
    SpecAugment, Interspeech 2019.
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
    """A random range inside 0..size, 0 to `widest` wide."""
    width = int(rng.integers(min(widest, size) + 1))
    start = int(rng.integers(size - width + 1))
    return slice(start, start + width)


def clips_of_splits(archive: Archive) -> dict[str, tuple[str, ...]]:
    """The names of the clips in each split, sorted."""
    clips = [name for name in archive.names() if name.endswith(".flac") and _word(name) in CLASSES]
    lists = (set(content.decode().split()) for content in archive.read(*LISTS.values()))
    listed = dict(zip(LISTS, lists, strict=True))
    listed["train"] = set(clips).difference(*listed.values())
    splits = {split: tuple(name for name in clips if name in listed[split]) for split in SPLITS}
    for split, names in splits.items():
        if not names:
            raise DataError(f"{archive.path} has no {split} clips; {archive.cure}")
    return splits


def speaker(name: str) -> str:
    """Who speaks the clip `<word>/<speaker>_nohash_<k>.flac`."""
    return PurePosixPath(name).name.split("_nohash_")[0]


def _word(name: str) -> str:
    return PurePosixPath(name).parent.name


@functools.lru_cache(maxsize=1)  # the three splits of one run share these arrays
def _features(archive: Archive) -> Arrays:
    """`x` (N, L, d) of all clips, split after split, normalized; `mean` and `std` (d,)."""
    settings = "-".join(map(str, (VERSION, RATE, HOP, WINDOW, BANDS, FLOOR)))
    key = f"speech-{settings}-{archive.digest[:16]}"
    return cached(key, functools.partial(_compute_features, archive))


def _compute_features(archive: Archive) -> Arrays:
    clips = clips_of_splits(archive)
    names = [name for split in SPLITS for name in clips[split]]
    waveforms = np.stack(
        [_decode(archive, *item) for item in zip(names, archive.read(*names), strict=True)]
    )
    x = log_mel(waveforms, rate=RATE, hop=HOP)
    train = x[: len(clips["train"])].reshape(-1, BANDS)
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = train.std(axis=0, dtype=np.float64).astype(np.float32)
    # A band that never changes (a file of silence) would divide by zero.
    std = np.maximum(std, 1e-3)
    return {"x": (x - mean) / std, "mean": mean, "std": std}


def _decode(archive: Archive, name: str, packed: bytes) -> Float32[np.ndarray, " samples"]:
    try:
        return decode_clip(packed, rate=RATE, samples=RATE)
    except DataError as error:
        raise DataError(f"{archive.member(name)} is {error}; {archive.cure}") from None
