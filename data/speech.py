"""The `speech` data set: ten spoken words, one second each, as log-mel or mel-cepstral frames.

The clips come with the code, so this data set needs no download. README.txt inside the archive
says where they come from and what was changed.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float32, Int32

from lastax.data._archive import Archive, open_archive
from lastax.data._audio import BANDS, COEFFICIENTS, FLOOR, WINDOW, decode_clip, log_mel, mfcc
from lastax.data._cache import Arrays, cached
from lastax.data._data_set import Data, DataSet
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
Frames = Float32[np.ndarray, "N L d"]
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
    """The ten words, from the bundled archive: `root` plays no part.

    Args:
        root: of other data sets.
        features: "log-mel", 40 bands, or "mfcc", 20 coefficients.
        skip_bad: leave clips out that cannot be decoded.
        archive: another one of the same layout.

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
        skipped=sum(source.skipped for source in sources.values()),
    )


class Speech:
    """One part of the ten words, held in memory: a random-access source for Grain.

    A record is `{"x": float32 (101, d), "label": int32 ()}`, d = 40 mel bands or 20 cepstral
    coefficients, each with mean 0 and standard deviation 1 over the training clips:
    x = (features - mean) / std. No speaker is in two parts.
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
        """Open the part `split` of `archive`.

        The first call computes the features of all clips, some seconds; they are kept under
        LASTAX_CACHE (default ~/.cache/lastax), so that later ones take a fraction of a second.
        Raises DataError if the archive is missing or damaged.
        """
        if split not in SPLITS:
            raise ValueError(f"Speech: split is {split!r}, must be one of {SPLITS}")
        if features not in FEATURES:
            raise ValueError(f"Speech: features is {features!r}, must be one of {tuple(FEATURES)}")
        opened = open_archive(Path(archive), cure=CURE)
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
def _features(archive: Archive, features: str, skip_bad: bool) -> Arrays:
    """`x` (N, L, d) of all clips, split after split, normalized; `mean` and `std` (d,).

    With `skip_bad` also which clips were `kept`, of all of them.
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
        raise DataError(f"{archive.path} has no sound train clip; {archive.cure}")
    x = features(
        log_mel(np.stack([clip for clip in decoded if clip is not None]), rate=RATE, hop=HOP)
    )
    train = x[:training].reshape(-1, x.shape[-1])
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = train.std(axis=0, dtype=np.float64).astype(np.float32)
    # A band that never changes (a file of silence) would divide by zero.
    std = np.maximum(std, 1e-3)
    arrays = {"x": (x - mean) / std, "mean": mean, "std": std}
    return {**arrays, "kept": kept} if skip_bad else arrays


def _decode(
    archive: Archive, name: str, packed: bytes | DataError, skip_bad: bool
) -> Float32[np.ndarray, " samples"] | None:
    """A clip, or None if it is bad and may be skipped."""
    try:
        if isinstance(packed, DataError):
            raise packed
        try:
            return decode_clip(packed, rate=RATE, samples=RATE)
        except DataError as error:
            raise DataError(f"{archive.member(name)} is {error}; {archive.cure}") from None
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
    needs="nothing: the clips come with the code",
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
