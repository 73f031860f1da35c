"""The features of a sound that comes in block by block, the same numbers as those of records."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from lastax.data._sound_scale import NORMAL, SoundScale

Waveform = Float32[np.ndarray, " samples"]
Windows = Float32[np.ndarray, "n window"]
Features = Float32[np.ndarray, "n d"]


class FeatureState(NamedTuple):
    """What `StreamFeatures` remembers between two blocks.

    Attributes:
        tail: the samples that later frames need, fewer than `window + hop`.
        frames: number of frames so far.
    """

    tail: Waveform
    frames: int


@dataclass(frozen=True)
class StreamFeatures:
    """Features of a stream of samples, as pure functions of a state and a block.

    Get it from `Data.stream_features`. Frame `k` covers `window` samples centered at sample
    `k * hop`, with silence before the first and after the last sample. It is finished when
    `latency` samples after its center are known. For raw samples, window and hop are 1.

    The frames are those of the whole sound, for all lengths of the blocks.

    Attributes:
        compute: standardized features of `n` windows of samples.
        rate: samples per second.
        window: samples per frame.
        hop: samples between two frames.
        scale: how floating-point samples are brought into -1..1, see `SoundBlocks`.
        every: only the frames 0, `every`, 2 `every`, ... are steps of the network.
        shortest: shorter sounds are padded with silence to this number of samples, like records.
    """

    compute: Callable[[Windows], Features]
    rate: int
    window: int = 1
    hop: int = 1
    scale: SoundScale = NORMAL
    every: int = 1
    shortest: int = 0

    @property
    def latency(self) -> int:
        """Number of samples after its center that a frame needs."""
        return self.window // 2

    @property
    def steps_per_second(self) -> float:
        """Number of steps of the network per second of sound."""
        return self.rate / (self.hop * self.every)

    def init(self) -> FeatureState:
        """The state before the first sample."""
        return FeatureState(np.zeros(self.latency, np.float32), 0)

    def chunk(self, state: FeatureState, samples: Waveform) -> tuple[FeatureState, Features]:
        """Read a block of samples at `rate`, of any length.

        Returns:
            The next state, and the features of the steps that are finished, shape `(n, d)`.
        """
        known = np.concatenate([state.tail, samples])
        count = max((len(known) - self.window) // self.hop + 1, 0)
        starts = slice(-state.frames % self.every * self.hop, count * self.hop)
        # `sliding_window_view` refuses fewer samples than a window.
        enough = np.pad(known, (0, max(self.window - len(known), 0)))
        windows = np.lib.stride_tricks.sliding_window_view(enough, self.window)
        features = self.compute(windows[starts][:: self.hop * self.every])
        tail = known[count * self.hop :].copy()
        return FeatureState(tail, state.frames + count), features

    def finish(self, state: FeatureState) -> Features:
        """The features of the steps at the end of the sound, which see silence after it."""
        samples = state.frames * self.hop + len(state.tail) - self.latency
        silence = max(self.shortest - samples, 0) + self.latency
        return self.chunk(state, np.zeros(silence, np.float32))[1]
