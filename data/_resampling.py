"""Resampling of a sound that comes in block by block."""

import math

import numpy as np
from jaxtyping import Float32

Waveform = Float32[np.ndarray, " samples"]
Resampled = Float32[np.ndarray, " resampled"]


class StreamResampler:
    """The samples of `resample`, for a sound in blocks. It has a delay of about 0.1 s.

    It wraps the streaming resampler of soxr, which keeps its state inside.
    """

    def __init__(self, rate: int, wanted: int):
        """Resample from `rate` to `wanted` samples per second."""
        import soxr

        self._ratio = wanted / rate
        self._read = self._written = 0
        self._stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")

    def chunk(self, samples: Waveform) -> Resampled:
        """Read a block of any length. Returns the samples that are finished."""
        self._read += len(samples)
        finished = self._stream.resample_chunk(samples)
        self._written += len(finished)
        return finished

    def finish(self) -> Resampled:
        """The last samples."""
        rest = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        # librosa rounds the length up in this way.
        missing = math.ceil(self._read * self._ratio) - self._written
        return np.pad(rest[:missing], (0, max(missing - len(rest), 0)))
