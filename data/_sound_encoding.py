"""How a sound becomes standardized steps."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16

from lastax.data._files import padded_record, read_waveform
from lastax.data._pipeline import Example
from lastax.data._sound_scale import SoundScale
from lastax.data._sound_steps import SoundSteps
from lastax.data._stream_features import StreamFeatures, Windows


@dataclass(frozen=True)
class SoundEncoding:
    """From a sound to the steps of a record.

    Attributes:
        steps: the representation.
        rate: samples per second; sounds at another rate are resampled.
        scale: how floating-point sounds are brought into -1..1.
        mean: mean of each value of a step in the training data, shape `(d,)`.
        std: its standard deviation, shape `(d,)`.
    """

    steps: SoundSteps
    rate: int
    scale: SoundScale
    mean: Float32[np.ndarray, " d"]
    std: Float32[np.ndarray, " d"]

    def standardize(self, values: Int16[np.ndarray, "..."]) -> Float32[np.ndarray, "L d"]:
        """The steps of integers of `steps.compute`, also if they were flattened."""
        return (values.reshape(-1, len(self.mean)).astype(np.float32) - self.mean) / self.std

    def read_record(self, path: Path, *, length: int, with_length: bool) -> list[Example]:
        """The record of a sound file.

        Args:
            path: the file.
            length: number of steps of a record.
            with_length: whether records have a "length", so that shorter sounds are padded.

        Raises:
            DataError: if the file cannot be decoded, is too long or out of scale.
        """
        waveform = read_waveform(path, rate=self.rate, scale=self.scale)
        steps = self.standardize(self.steps.compute(waveform, self.rate))
        return [padded_record(steps, length=length, with_length=with_length, path=path)]

    def stream_features(self) -> StreamFeatures:
        """The same for a sound that comes in block by block."""
        return StreamFeatures(
            self._of_windows,
            rate=self.rate,
            window=self.steps.window(self.rate),
            hop=self.steps.hop(self.rate),
            scale=self.scale,
        )

    def _of_windows(self, windows: Windows) -> Float32[np.ndarray, "n d"]:
        return self.standardize(self.steps.of_windows(windows, self.rate))
