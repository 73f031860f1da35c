"""Records of single files, which belong to no split: what a trained network can classify.

A data set that can read such files sets `Data.read_file`. The records have no "label".
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Num

from lastax.data._errors import DataError
from lastax.data._folders import read_file, unreadable
from lastax.data._pipeline import Example
from lastax.data._sound_files import Waveform, read_sound, resample
from lastax.data._sound_scale import NORMAL, SoundScale


def read_waveform(path: Path, *, rate: int, scale: SoundScale = NORMAL) -> Waveform:
    """The samples of a sound file at `rate` Hz.

    Args:
        path: the file.
        rate: samples per second.
        scale: how floating-point samples are brought into -1..1 in the data set that the network
            was trained on.

    Raises:
        DataError: if the file is missing, cannot be decoded or is out of scale.
    """
    packed = read_file(path)
    try:
        sound = read_sound(packed)
        if sound.floating:
            scale.check(float(np.abs(sound.waveform).max()))
        waveform = resample(sound.waveform, sound.rate, rate)
    except DataError as error:
        raise DataError(f"{path} {error}; pass a sound like those of the training data") from None
    return waveform * np.float32(scale.factor) if sound.floating else waveform


def one_second(path: Path, *, rate: int) -> Waveform:
    """The samples of a sound file, padded to one second.

    Raises:
        DataError: if the file is longer, or cannot be decoded.
    """
    waveform = read_waveform(path, rate=rate)
    if len(waveform) > rate:
        raise DataError(
            f"{path} has {len(waveform) / rate:.2f} s, more than the second of a record; cut it"
        )
    return np.pad(waveform, (0, rate - len(waveform)))


def padded_record(
    steps: Float32[np.ndarray, "L d"], *, length: int, with_length: bool, path: Path
) -> Example:
    """A record of a data set whose records have `length` steps.

    Raises:
        DataError: if there are more steps, or fewer and records have no "length".
    """
    if len(steps) > length or (len(steps) < length and not with_length):
        limit = "at most " if with_length else ""
        raise DataError(f"{path} has {len(steps):,} steps; records have {limit}{length:,}; cut it")
    record: Example = {"x": np.pad(steps, ((0, length - len(steps)), (0, 0)))}
    if with_length:
        record["length"] = np.int32(len(steps))
    return record


def read_numbers(path: Path, *, size: int) -> Float32[np.ndarray, "n L d"]:
    """Sequences of a `.npy` file, or of the array `x` of a `.npz` file.

    Args:
        path: the file, with an array (n, L, d), or (n, L) if d is 1, or (L, d) for one sequence.
        size: number of values per step.

    Raises:
        DataError: if the file is missing or damaged, or if the array does not fit.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else loaded["x"]
        if not isinstance(values, np.ndarray):
            raise ValueError("x is no array")
    except OSError as error:
        raise unreadable(path, error) from None
    # RuntimeError: an encrypted member, or a compression that Python does not know.
    except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is neither a .npy file nor a .npz file with x ({error})") from None
    values = _as_sequences(values, size)
    if (
        0 in values.shape
        or values.ndim != 3
        or values.shape[2] != size
        or values.dtype.kind not in "biuf"
    ):
        raise DataError(
            f"{path} has an array {values.dtype} {values.shape}; pass numbers (n, L, {size})"
        )
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise DataError(f"{path} has values that are not finite; correct or remove these sequences")
    return numbers


def _as_sequences(values: Num[np.ndarray, "..."], size: int) -> Num[np.ndarray, "..."]:
    if values.ndim == 2 and size == 1:
        return values[:, :, None]
    return values[None] if values.ndim == 2 else values
