"""Waveforms to the steps of a sequence: samples or frames, as integers of 16 bits.

The unit of the integers is fine enough to be lost beside any recording's noise. It does not
matter otherwise, as steps are standardized before use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int16

from lastax.data._audio import BANDS, COEFFICIENTS, log_mel, mfcc

FRAMES_A_SECOND = 100
_WINDOW = 0.025  # seconds that a frame sees at least

Waveform = Float32[np.ndarray, " samples"]
Steps = Int16[np.ndarray, "L d"]


@dataclass(frozen=True)
class SoundSteps:
    """One way to turn sound into steps.

    Attributes:
        compute: of a waveform and its samples a second.
        size: values a step.
        in_tenth: steps in a tenth of a second, of sound at so many samples a second.
    """

    compute: Callable[[Waveform, int], Steps]
    size: int
    in_tenth: Callable[[int], int]


def raw(waveform: Waveform, rate: int) -> Steps:
    """The samples, in units of 2^-15: files of 16 bits are kept as they are."""
    del rate
    return _integers(waveform[:, None], 2**15)


def log_mel_frames(waveform: Waveform, rate: int) -> Steps:
    """Log-mel frames, 100 a second, in units of 2^-10 (natural logarithm)."""
    return _integers(_frames(waveform, rate), 2**10)


def mfcc_frames(waveform: Waveform, rate: int) -> Steps:
    """Mel cepstra, 100 a second, in units of 2^-8."""
    return _integers(mfcc(_frames(waveform, rate)), 2**8)


def _frames(waveform: Waveform, rate: int) -> Float32[np.ndarray, "L d"]:
    hop = rate // FRAMES_A_SECOND
    window = 2 ** int(np.ceil(np.log2(_WINDOW * rate)))
    # Silence behind the end changes no frame, as a window that hangs over sees silence anyway.
    padded = np.pad(waveform, (0, max(window - len(waveform), 0)))
    frames = log_mel(padded[None], rate=rate, hop=hop, window=window)
    return frames[0, : len(waveform) // hop + 1]


def _integers(values: Float32[np.ndarray, "L d"], scale: int) -> Steps:
    return np.clip(np.rint(values * scale), -(2**15), 2**15 - 1).astype(np.int16)


def _tenth_of_frames(rate: int) -> int:
    del rate
    return FRAMES_A_SECOND // 10


def _tenth_of_samples(rate: int) -> int:
    return rate // 10


FEATURES: Mapping[str, SoundSteps] = MappingProxyType(
    {
        "raw": SoundSteps(raw, 1, _tenth_of_samples),
        "log-mel": SoundSteps(log_mel_frames, BANDS, _tenth_of_frames),
        "mfcc": SoundSteps(mfcc_frames, COEFFICIENTS, _tenth_of_frames),
    }
)
