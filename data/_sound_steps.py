"""Waveforms to steps of a sequence: samples or frames, as 16-bit integers.

The rounding error is far below the noise of any recording. The unit does not matter otherwise,
because steps are standardized before use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int16

from lastax.data._audio import BANDS, COEFFICIENTS, log_mel, mfcc

FRAMES_PER_SECOND = 100
_WINDOW = 0.025  # minimal window of a frame, in seconds

Waveform = Float32[np.ndarray, " samples"]
Steps = Int16[np.ndarray, "L d"]


@dataclass(frozen=True)
class SoundSteps:
    """A representation of audio as steps.

    Attributes:
        compute: `compute(waveform, rate)`, the steps; `rate` is in samples per second.
        size: number of values per step.
        per_tenth: `per_tenth(rate)`, the number of steps in a tenth of a second.
    """

    compute: Callable[[Waveform, int], Steps]
    size: int
    per_tenth: Callable[[int], int]


def raw(waveform: Waveform, rate: int) -> Steps:
    """The samples in units of 2^-15, exact for 16-bit files."""
    del rate
    return _integers(waveform[:, None], 2**15)


def log_mel_frames(waveform: Waveform, rate: int) -> Steps:
    """100 log-mel frames per second, in units of 2^-10 (natural logarithm)."""
    return _integers(_frames(waveform, rate), 2**10)


def mfcc_frames(waveform: Waveform, rate: int) -> Steps:
    """100 frames of mel-frequency cepstral coefficients per second, in units of 2^-8."""
    return _integers(mfcc(_frames(waveform, rate)), 2**8)


def _frames(waveform: Waveform, rate: int) -> Float32[np.ndarray, "L d"]:
    hop = rate // FRAMES_PER_SECOND
    window = 2 ** int(np.ceil(np.log2(_WINDOW * rate)))
    # Padding changes no frame, because windows beyond the end see silence anyway.
    padded = np.pad(waveform, (0, max(window - len(waveform), 0)))
    frames = log_mel(padded[None], rate=rate, hop=hop, window=window)
    return frames[0, : len(waveform) // hop + 1]


def _integers(values: Float32[np.ndarray, "L d"], scale: int) -> Steps:
    return np.clip(np.rint(values * scale), -(2**15), 2**15 - 1).astype(np.int16)


def _tenth_of_frames(rate: int) -> int:
    del rate
    return FRAMES_PER_SECOND // 10


def _tenth_of_samples(rate: int) -> int:
    return rate // 10


FEATURES: Mapping[str, SoundSteps] = MappingProxyType(
    {
        "raw": SoundSteps(raw, 1, _tenth_of_samples),
        "log-mel": SoundSteps(log_mel_frames, BANDS, _tenth_of_frames),
        "mfcc": SoundSteps(mfcc_frames, COEFFICIENTS, _tenth_of_frames),
    }
)
