"""A figure of a data set: some records and the shares of the classes."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from lastax.training import TrainingData

_COLORS = ("#2f6f9f", "#e0a030", "#8a8a8a")
_LARGEST_CODE = 0x24F  # fonts differ beyond Latin letters
_WINDOW, _HOP = 400, 160  # in samples: 25 and 10 ms at 16 kHz
_FLOOR = 1e-7  # added to the power, because digital silence has no logarithm

Record = Mapping[str, Shaped[np.ndarray | np.generic, "..."]]
Draw = Callable[[Sequence[Axes], Record, TrainingData], None]
Panel = tuple[int, Draw]  # axes per record, and the function that fills them


def draw_records(
    data: TrainingData,
    kind: str,
    *,
    records: Mapping[str, Record],
    shares: Mapping[str, Float[np.ndarray, " classes"]],
    title: str,
) -> Figure:
    """Draw records, and below them the shares of the classes.

    Audio is drawn as waveform and spectrogram, more than 8 values per step as a heat map, images
    as images, tokens as text, and other features as lines.

    Args:
        data: the data set of the records.
        kind: "audio", "image", "text" or "features".
        records: the records, by heading. "x" and an optional "length" are used.
        shares: share of each class, 0 to 1, by split.
        title: title of the figure.
    """
    axes_per_record, draw = _panel(data, kind)
    columns = min(len(records), 2 if kind == "text" else 4)
    rows = math.ceil(len(records) / columns)
    height = {"text": 1.7, "image": 2.6}.get(kind, 1.9 * axes_per_record)
    figure = Figure(figsize=(13, rows * height + 3.4), layout="constrained")
    heights = [rows * height, 2.8]
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_samples(above, data, records, (rows, columns), axes_per_record, draw)
    _draw_shares(below.subplots(), data.classes, shares)
    figure.suptitle(title, fontsize=11)
    return figure


def _panel(data: TrainingData, kind: str) -> Panel:
    if kind == "text":
        return 1, _draw_text
    if kind == "image":
        return 1, _draw_image
    if data.input_size > 8:
        return 1, _draw_frames
    return (2, _draw_sound) if kind == "audio" else (1, _draw_lines)


def _draw_samples(
    figure: SubFigure,
    data: TrainingData,
    records: Mapping[str, Record],
    shape: tuple[int, int],
    axes_per_record: int,
    draw: Draw,
) -> None:
    rows, columns = shape
    axes = np.asarray(figure.subplots(rows * axes_per_record, columns, squeeze=False))
    # The axes of a record are stacked vertically.
    axes = axes.reshape(rows, axes_per_record, columns).transpose(0, 2, 1)
    axes = axes.reshape(rows * columns, axes_per_record)
    for own, (heading, record) in zip(axes, records.items(), strict=False):
        draw(own.tolist(), record, data)
        own[0].set_title(heading, fontsize=9, loc="left", parse_math=False)
    for unused in axes[len(records) :].ravel():
        unused.set_axis_off()


def _draw_sound(axes: Sequence[Axes], record: Record, data: TrainingData) -> None:
    """A waveform above its spectrogram."""
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
    spectrum.set_ylabel("cycles per step", fontsize=8)
    spectrum.tick_params(labelsize=7)


def spectrogram(x: Float[np.ndarray, " L"]) -> Float[np.ndarray, "frames bins"]:
    """Power spectra of Hann windows of 400 steps with a hop of 160 steps; 201 frequencies."""
    padded = np.pad(x, (0, max(0, _WINDOW - len(x))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1)) ** 2


def _draw_frames(axes: Sequence[Axes], record: Record, data: TrainingData) -> None:
    """A heat map with one row per value."""
    x = np.asarray(record["x"])[: int(record.get("length", data.length))]
    (axis,) = axes
    axis.imshow(x.T, origin="lower", aspect="auto", cmap="magma")
    axis.set_xlim(-0.5, data.length - 0.5)
    axis.set_xlabel("step", fontsize=8)
    axis.set_ylabel("value", fontsize=8)
    axis.tick_params(labelsize=7)


def _draw_lines(axes: Sequence[Axes], record: Record, data: TrainingData) -> None:
    """One line per value."""
    x = np.asarray(record["x"])[: int(record.get("length", data.length))]
    (axis,) = axes
    axis.plot(x, linewidth=0.7)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=7)


def _draw_image(axes: Sequence[Axes], record: Record, data: TrainingData) -> None:
    """The steps as a square image, in row-major order, scaled to their range."""
    x = np.asarray(record["x"], np.float64)
    side = math.isqrt(len(x))
    low, high = x.min(), x.max()
    pixels = ((x - low) / max(high - low, 1e-9))[: side * side].reshape(side, side, -1)
    (axis,) = axes
    axis.imshow(pixels[..., 0] if data.input_size == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()


def _draw_text(axes: Sequence[Axes], record: Record, data: TrainingData) -> None:
    """The beginning of a text, or of both texts of a pair."""
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
    """Tokens as text: characters without spaces, words with spaces."""
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
