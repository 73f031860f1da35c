"""Features of the samples of a sound, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from lastax.data._errors import DataError
from lastax.data._resampling import StreamResampler
from lastax.data._sound_blocks import SoundBlocks, Waveform
from lastax.data._sound_scale import SoundScale
from lastax.data._stream_features import Features, StreamFeatures


class SampleReader:
    """From blocks of a sound to features: checks, resampling, scale.

    Attributes:
        not_finite: number of samples that were not finite and were replaced with silence.
    """

    def __init__(
        self, features: StreamFeatures, sound: SoundBlocks, on_nan: Callable[[str], None] | None
    ) -> None:
        self._features, self._state, self._on_nan = features, features.init(), on_nan
        self._rate = sound.rate
        self._scale = features.scale if sound.floating else None
        self._factor = np.float32(1 if self._scale is None else self._scale.factor)
        other = sound.rate != features.rate
        self._resampler = StreamResampler(sound.rate, features.rate) if other else None
        self._samples = 0
        self.not_finite = 0

    @property
    def seconds(self) -> float:
        """Length of the sound so far."""
        return self._samples / self._rate

    @property
    def bytes(self) -> int:
        """Size of the samples that wait."""
        return self._state.tail.nbytes

    def read(self, block: Waveform) -> Features:
        """The features that are finished after this block."""
        finite = np.isfinite(block)
        if not finite.all():
            block = self._replaced(block, finite)
        if self._scale is not None:
            self._check_scale(self._scale, block)
        self._samples += len(block)
        if self._resampler is not None:
            block = self._resampler.chunk(block)
        self._state, finished = self._features.chunk(self._state, block * self._factor)
        return finished

    def finish(self) -> Features:
        """The features at the end."""
        if not self._samples:
            raise DataError("stream_sound: the sound has no samples; pass another sound")
        finished = []
        if self._resampler is not None:
            rest = self._resampler.finish() * self._factor
            self._state, more = self._features.chunk(self._state, rest)
            finished.append(more)
        return np.concatenate([*finished, self._features.finish(self._state)])

    @staticmethod
    def _check_scale(scale: SoundScale, block: Waveform) -> None:
        try:
            scale.check(float(np.abs(block).max(initial=0)))
        except DataError as error:
            raise DataError(
                f"stream_sound: the sound {error}; pass a sound like those of the training data"
            ) from None

    def _replaced(self, block: Waveform, finite: Bool[np.ndarray, " samples"]) -> Waveform:
        first = self._samples + int(np.argmin(finite))
        found = f"sample {first:,} ({first / self._rate:.3f} s) is not finite"
        if self._on_nan is None:
            raise DataError(
                f"stream_sound: {found}; repair the sound, or pass on_nan= (--on-nan continue) to "
                "replace such samples with silence"
            )
        if not self.not_finite:
            self._on_nan(f"{found}; such samples are replaced with silence")
        self.not_finite += int(np.count_nonzero(~finite))
        return np.where(finite, block, np.float32(0))
