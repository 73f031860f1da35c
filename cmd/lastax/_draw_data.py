"""A picture of a data set: a few records as what they are, and how often each class occurs."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from lastax.data import Data, Example

_COLORS = ("#2f6f9f", "#e0a030", "#8a8a8a")
_LARGEST_CODE = 0x24F  # beyond Latin letters, fonts differ
_WINDOW, _HOP = 400, 160  # samples: 25 and 10 ms of speech
_FLOOR = 1e-7  # of power, as digital silence has no logarithm

Panel = tuple[int, Callable[[Sequence[Axes], Example, Data], None]]  # axes a record, drawing


def draw_data(
    data: Data,
    kind: str,
    *,
    samples: Mapping[str, Example],
    shares: Mapping[str, Float[np.ndarray, " classes"]],
    title: str,
) -> Figure:
    """Records above, shares of the classes below.

    Args:
        data: what the records are of.
        kind: "audio", "image", "text" or "features".
        samples: a few records by their headings.
        shares: of each class in a split, 0 to 1.
        title: of the whole.
    """
    axes_a_record, draw = _panel(data, kind)
    columns = min(len(samples), 2 if kind == "text" else 4)
    rows = math.ceil(len(samples) / columns)
    height = {"text": 1.7, "image": 2.6}.get(kind, 1.9 * axes_a_record)
    figure = Figure(figsize=(13, rows * height + 3.4), layout="constrained")
    heights = [rows * height, 2.8]
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_samples(above, data, samples, (rows, columns), axes_a_record, draw)
    _draw_shares(below.subplots(), data.classes, shares)
    figure.suptitle(title, fontsize=11)
    return figure


def _panel(data: Data, kind: str) -> Panel:
    if kind == "text":
        return 1, _draw_text
    if kind == "image":
        return 1, _draw_image
    if data.input_size > 8:
        return 1, _draw_frames
    return (2, _draw_sound) if kind == "audio" else (1, _draw_lines)


def _draw_samples(
    figure: SubFigure,
    data: Data,
    samples: Mapping[str, Example],
    shape: tuple[int, int],
    axes_a_record: int,
    draw: Callable[[Sequence[Axes], Example, Data], None],
) -> None:
    rows, columns = shape
    axes = np.asarray(figure.subplots(rows * axes_a_record, columns, squeeze=False))
    # A record's own axes lie below each other.
    axes = axes.reshape(rows, axes_a_record, columns).transpose(0, 2, 1)
    axes = axes.reshape(rows * columns, axes_a_record)
    for own, (heading, record) in zip(axes, samples.items(), strict=False):
        draw(own.tolist(), record, data)
        own[0].set_title(heading, fontsize=9, loc="left", parse_math=False)
    for unused in axes[len(samples) :].ravel():
        unused.set_axis_off()


def _draw_sound(axes: Sequence[Axes], record: Example, data: Data) -> None:
    """Waveform above spectrogram."""
    x = np.asarray(record["x"])[: int(record.get("length", data.length)), 0]
    wave, spectrum = axes
    wave.plot(x, linewidth=0.4, color=_COLORS[0])
    wave.set_xlim(0, data.length)
    wave.locator_params(axis="x", nbins=5)
    wave.tick_params(labelbottom=False, labelsize=7)
    power = spectrogram(x)
    decibel = 10 * np.log10(power + _FLOOR)
    spectrum.imshow(
        decibel.T, origin="lower", aspect="auto", cmap="magma", extent=(0, len(x), 0, 0.5),
        vmin=decibel.max() - 80,
    )  # fmt: skip
    spectrum.set_xlim(0, data.length)
    spectrum.locator_params(axis="x", nbins=5)
    spectrum.set_xlabel("step", fontsize=8)
    spectrum.set_ylabel("cycles a step", fontsize=8)
    spectrum.tick_params(labelsize=7)


def spectrogram(x: Float[np.ndarray, " L"]) -> Float[np.ndarray, "frames bins"]:
    """Power of overlapping windows: frames of 400 steps, 160 apart, Hann; 201 frequencies."""
    padded = np.pad(x, (0, max(0, _WINDOW - len(x))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1)) ** 2


def _draw_frames(axes: Sequence[Axes], record: Example, data: Data) -> None:
    """A row a channel: bands, coefficients."""
    x = np.asarray(record["x"])[: int(record.get("length", data.length))]
    (axis,) = axes
    axis.imshow(x.T, origin="lower", aspect="auto", cmap="magma")
    axis.set_xlim(-0.5, data.length - 0.5)
    axis.set_xlabel("step", fontsize=8)
    axis.set_ylabel("value", fontsize=8)
    axis.tick_params(labelsize=7)


def _draw_lines(axes: Sequence[Axes], record: Example, data: Data) -> None:
    """A line a channel."""
    x = np.asarray(record["x"])[: int(record.get("length", data.length))]
    (axis,) = axes
    axis.plot(x, linewidth=0.7)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=7)


def _draw_image(axes: Sequence[Axes], record: Example, data: Data) -> None:
    """The steps row by row, as bright as their range allows."""
    x = np.asarray(record["x"], np.float64)
    side = math.isqrt(len(x))
    low, high = x.min(), x.max()
    pixels = ((x - low) / max(high - low, 1e-9))[: side * side].reshape(side, side, -1)
    (axis,) = axes
    axis.imshow(pixels[..., 0] if data.input_size == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()


def _draw_text(axes: Sequence[Axes], record: Example, data: Data) -> None:
    """The beginning of one text, or of both of a pair."""
    texts = np.atleast_2d(np.asarray(record["x"]))
    lengths = np.atleast_1d(np.asarray(record.get("length", data.length)))
    spelled = (spell(x[:n], data.vocabulary) for x, n in zip(texts, lengths, strict=True))
    blocks = [
        textwrap.fill(words, 96, max_lines=10 // len(texts), placeholder=" ...")
        for words in spelled
    ]
    (axis,) = axes
    axis.set_axis_off()
    axis.text(
        0, 1, "\n\n".join(blocks), family="monospace", fontsize=7.5, va="top",
        transform=axis.transAxes, parse_math=False,
    )  # fmt: skip


def spell(tokens: Int[np.ndarray, " L"], vocabulary: Sequence[str]) -> str:
    """Tokens as people read them: letters in a row, words with spaces between."""
    named = [name for name in vocabulary if not name.startswith("<") or len(name) == 1]
    between = "" if all(len(name) == 1 for name in named) else " "
    words = between.join(vocabulary[token] for token in tokens.tolist())
    return "".join(c if c.isprintable() and ord(c) <= _LARGEST_CODE else "·" for c in words)


def _draw_shares(
    axis: Axes, classes: Sequence[str], shares: Mapping[str, Float[np.ndarray, " classes"]]
) -> None:
    width = 0.8 / len(shares)
    for index, (split, share) in enumerate(shares.items()):
        place = np.arange(len(classes)) + (index - (len(shares) - 1) / 2) * width
        axis.bar(place, 100 * share, width=width, color=_COLORS[index], label=split)
    axis.set_xticks(np.arange(len(classes)), [str(name) for name in classes], parse_math=False)
    if sum(map(len, classes)) > 90:
        axis.tick_params(axis="x", labelrotation=60)
    axis.tick_params(labelsize=8)
    axis.set_ylabel("share, %")
    axis.set_ylim(0, 125 * max(float(share.max()) for share in shares.values()))
    axis.legend(frameon=False, ncols=3, fontsize=8, loc="upper right")
    axis.spines[["top", "right"]].set_visible(False)
