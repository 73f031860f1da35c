"""Waveforms to steps of a sequence: samples or frames, as 16-bit integers.

The rounding error is far below the noise of any recording. The unit does not matter otherwise,
because steps are standardized before use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int16

from lastax.data._audio import BANDS, COEFFICIENTS, log_mel, log_mel_of_windows, mfcc

FRAMES_PER_SECOND = 100
_WINDOW = 0.025  # minimal window of a frame, in seconds
_LOG_MEL_UNIT, _MFCC_UNIT = 2**10, 2**8  # integers per unit

Waveform = Float32[np.ndarray, " samples"]
Windows = Float32[np.ndarray, "n window"]
Steps = Int16[np.ndarray, "L d"]


@dataclass(frozen=True)
class SoundSteps:
    """A representation of audio as steps.

    Attributes:
        compute: `compute(waveform, rate)`, the steps; `rate` is in samples per second.
        size: number of values per step.
        per_tenth: `per_tenth(rate)`, the number of steps in a tenth of a second.
        window: `window(rate)`, the number of samples per step.
        hop: `hop(rate)`, the number of samples between two steps.
        of_windows: `of_windows(windows, rate)`, the steps of these windows of samples.
    """

    compute: Callable[[Waveform, int], Steps]
    size: int
    per_tenth: Callable[[int], int]
    window: Callable[[int], int]
    hop: Callable[[int], int]
    of_windows: Callable[[Windows, int], Steps]


def raw(waveform: Waveform, rate: int) -> Steps:
    """The samples in units of 2^-15, exact for 16-bit files."""
    del rate
    return _integers(waveform[:, None], 2**15)


def log_mel_frames(waveform: Waveform, rate: int) -> Steps:
    """100 log-mel frames per second, in units of 2^-10 (natural logarithm)."""
    return _integers(_frames(waveform, rate), _LOG_MEL_UNIT)


def mfcc_frames(waveform: Waveform, rate: int) -> Steps:
    """100 frames of mel-frequency cepstral coefficients per second, in units of 2^-8."""
    return _integers(mfcc(_frames(waveform, rate)), _MFCC_UNIT)


def _frames(waveform: Waveform, rate: int) -> Float32[np.ndarray, "L d"]:
    hop, window = _hop(rate), _window(rate)
    # Padding changes no frame, because windows beyond the end see silence anyway.
    padded = np.pad(waveform, (0, max(window - len(waveform), 0)))
    frames = log_mel(padded[None], rate=rate, hop=hop, window=window)
    return frames[0, : len(waveform) // hop + 1]


def _window(rate: int) -> int:
    return 2 ** int(np.ceil(np.log2(_WINDOW * rate)))


def _hop(rate: int) -> int:
    return rate // FRAMES_PER_SECOND


def _one(rate: int) -> int:
    del rate
    return 1


def _raw_windows(windows: Windows, rate: int) -> Steps:
    return raw(windows[:, 0], rate)


def _log_mel_windows(windows: Windows, rate: int) -> Steps:
    return _integers(log_mel_of_windows(windows, rate=rate), _LOG_MEL_UNIT)


def _mfcc_windows(windows: Windows, rate: int) -> Steps:
    return _integers(mfcc(log_mel_of_windows(windows, rate=rate)), _MFCC_UNIT)


def _integers(values: Float32[np.ndarray, "L d"], scale: int) -> Steps:
    return np.clip(np.rint(values * scale), -(2**15), 2**15 - 1).astype(np.int16)


def _tenth_of_frames(rate: int) -> int:
    del rate
    return FRAMES_PER_SECOND // 10


def _tenth_of_samples(rate: int) -> int:
    return rate // 10


FEATURES: Mapping[str, SoundSteps] = MappingProxyType(
    {
        "raw": SoundSteps(raw, 1, _tenth_of_samples, _one, _one, _raw_windows),
        "log-mel": SoundSteps(
            log_mel_frames, BANDS, _tenth_of_frames, _window, _hop, _log_mel_windows
        ),
        "mfcc": SoundSteps(
            mfcc_frames, COEFFICIENTS, _tenth_of_frames, _window, _hop, _mfcc_windows
        ),
    }
)
