"""Class probabilities while a sound comes in."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from lastax.data._latencies import Latencies
from lastax.data._sample_reader import SampleReader
from lastax.data._sound_blocks import SoundBlocks
from lastax.data._stream_features import Features, StreamFeatures
from lastax.nn import StreamingCell, StreamingState

# The longest time between two outputs, in seconds.
_HOUR = 3600

Probabilities = Float32[np.ndarray, " classes"]


class StreamPrediction(NamedTuple):
    """The prediction after a chunk.

    Attributes:
        seconds: place in the sound of the last step of the chunk.
        probabilities: probability of each class.
        latency: seconds from the arrival of the samples to these probabilities.
    """

    seconds: float
    probabilities: Probabilities
    latency: float


class StreamSummary(NamedTuple):
    """What `stream_sound` measured.

    Attributes:
        probabilities: probability of each class at the end of the sound, since the last reset.
        seconds: length of the sound.
        steps: number of steps of the network.
        chunks: number of chunks.
        steps_per_chunk: number of steps per chunk.
        real_time_factor: computing time per second of sound; below 1 is faster than real time.
        latencies: computing time per chunk in seconds that 50, 95 and 99 % of the chunks do not
            exceed.
        lookahead: seconds of sound after its center that a feature frame needs.
        state_bytes: size of the state of the network.
        buffer_bytes: largest size of the samples and features that wait for their chunk.
        not_finite: number of samples that were not finite and were replaced with silence.
    """

    probabilities: Probabilities
    seconds: float
    steps: int
    chunks: int
    steps_per_chunk: int
    real_time_factor: float
    latencies: tuple[float, float, float]
    lookahead: float
    state_bytes: int
    buffer_bytes: int
    not_finite: int


def stream_sound(
    cell: StreamingCell,
    features: StreamFeatures,
    sound: SoundBlocks,
    *,
    every: float | int = 0.1,
    reset: float | int | None = None,
    on_prediction: Callable[[StreamPrediction], None] = lambda prediction: None,
    on_nan: Callable[[str], None] | None = None,
) -> StreamSummary:
    """Classify a sound while it comes in. Memory does not depend on the length of the sound.

    The probabilities equal those of the whole sound up to each step. Sound at another rate is
    resampled. Programs are compiled before the first block is read.

    Args:
        cell: the network, from `lastax.streaming`.
        features: how samples become features, from `Data.stream_features`.
        sound: the sound.
        every: seconds of sound per chunk, rounded to steps. Each chunk has a prediction.
        reset: clear the state of the network after this many seconds, rounded to chunks; None for
            never. A mean over all steps changes ever more slowly, so long sounds need it.
        on_prediction: called after every chunk.
        on_nan: called once with a message if a sample is not finite. All such samples are replaced
            with silence. Without it they are an error.

    Raises:
        DataError: if the sound is damaged, has no samples, is out of scale, or has a sample that is
            not finite.
        ValueError: if the cell does not fit the features, or if a time is not positive or not
            finite, or `every` is more than an hour.
    """
    for name, value in (("every", every), ("reset", reset)):
        if value is not None and not 0 < value * features.steps_per_second < math.inf:
            raise ValueError(f"stream_sound: {name} must be positive and finite, got {value}")
    if every > _HOUR:
        raise ValueError(f"stream_sound: every must be at most {_HOUR} seconds, got {every}")
    length = max(round(every * features.steps_per_second), 1)
    chunks_per_reset = None
    if reset is not None:
        chunks_per_reset = max(round(reset * features.steps_per_second / length), 1)
    reader = SampleReader(features, sound, on_nan)
    state, probabilities = cell.init(), np.zeros(0, np.float32)
    pending = features.chunk(features.init(), np.zeros(0, np.float32))[1]
    _compile(cell, state, pending, length)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    busy, steps, buffer_bytes, latencies = 0.0, 0, 0, Latencies()

    for block in itertools.chain(sound.blocks, (None,)):
        start = time.perf_counter()
        finished = reader.finish() if block is None else reader.read(block)
        pending = np.concatenate([pending, finished])
        buffer_bytes = max(buffer_bytes, pending.nbytes + reader.bytes)
        while len(pending) >= length or (block is None and len(pending)):
            count = min(length, len(pending))
            if chunks_per_reset is not None and latencies.count % chunks_per_reset == 0:
                state = cell.init()
            state, probabilities = _advance(cell, state, pending[:count], length)
            pending, steps = pending[count:].copy(), steps + count
            latency = time.perf_counter() - start
            busy += latency
            latencies.add(latency)
            seconds = min((steps - 1) / features.steps_per_second, reader.seconds)
            on_prediction(StreamPrediction(seconds, probabilities, latency))
            start = time.perf_counter()
        busy += time.perf_counter() - start

    return StreamSummary(
        probabilities=probabilities,
        seconds=reader.seconds,
        steps=steps,
        chunks=latencies.count,
        steps_per_chunk=length,
        real_time_factor=busy / reader.seconds,
        latencies=(
            latencies.percentile(50),
            latencies.percentile(95),
            latencies.percentile(99),
        ),
        lookahead=features.latency / features.rate,
        state_bytes=state_bytes,
        buffer_bytes=buffer_bytes,
        not_finite=reader.not_finite,
    )


def _advance(
    cell: StreamingCell, state: StreamingState, xs: Features, length: int
) -> tuple[StreamingState, Probabilities]:
    """Read a chunk of `length` steps, or fewer steps one by one, since lengths are compiled."""
    if len(xs) == length > 1:
        state, probabilities = _chunk(cell, state, xs)
    else:
        for x in xs:
            state, probabilities = _step(cell, state, x)
    return state, np.asarray(probabilities)


@jax.jit
def _chunk(
    cell: StreamingCell, state: StreamingState, xs: jax.Array
) -> tuple[StreamingState, jax.Array]:
    state, logits = cell.chunk(state, xs)
    return state, jax.nn.softmax(logits[-1])


@jax.jit
def _step(
    cell: StreamingCell, state: StreamingState, x: jax.Array
) -> tuple[StreamingState, jax.Array]:
    state, logits = cell.step(state, x)
    return state, jax.nn.softmax(logits)


def _compile(cell: StreamingCell, state: StreamingState, xs: Features, length: int) -> None:
    zeros = np.zeros((length, xs.shape[1]), xs.dtype)
    jax.block_until_ready((_advance(cell, state, zeros, length), _step(cell, state, zeros[0])))
