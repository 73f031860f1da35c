"""Figures of a pruned network: eigenvalues, numbers of states, and which states remain."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Complex, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lastax.plots._style import new_figure, simplify

_REMOVED, _REMAINING = "#c43a31", "#2f6f9f"
# Scores below this share of the highest one have the same color.
_LOWEST_SHARE = 1e-6
_DECADES = 8
_CELLS_PER_LINE = 64
_MAX_HEIGHT = 14.0


def draw_poles(
    poles: Sequence[Complex[np.ndarray, " _"]],
    scores: Sequence[Float[np.ndarray, " _"]],
    keep: Sequence[Bool[np.ndarray, " _"]],
    *,
    title: str,
    conj_sym: bool = True,
    columns: int = 4,
) -> Figure:
    """Draw the discrete eigenvalues of each layer, colored by score.

    Each layer has two panels. The first one is the unit disk. The second one has logarithmic axes:
    frequency, `|angle(lam)| / 2 pi` in cycles per step, and time constant, `-1 / log |lam|` in
    steps, after which a state has decayed to `1 / e`. There, states next to `lam = 1` are apart.
    Removed states are crosses. Unstable states, which have no finite score, are black.

    Args:
        poles: the eigenvalues of each layer.
        scores: one score per state of each layer.
        keep: for each layer, which states remain.
        title: beginning of the title of the figure.
        conj_sym: whether each eigenvalue stands for a conjugate pair; the figure says so.
        columns: number of layers per row.
    """
    columns = min(len(poles), columns)
    rows = -(-len(poles) // columns)
    figure = new_figure(3.1 * columns + 1.0, 6.0 * rows + 0.8)
    axes = np.asarray(figure.subplots(2 * rows, columns, squeeze=False))
    norm = LogNorm(*_color_limits(scores))
    limits = _log_limits(poles)
    for axis in axes.reshape(rows, 2, columns).transpose(0, 2, 1).reshape(-1, 2)[len(poles) :].flat:
        axis.set_axis_off()
    for index, (lam, score, mask) in enumerate(zip(poles, scores, keep, strict=True)):
        row, column = divmod(index, columns)
        disk, log = axes[2 * row : 2 * row + 2, column].tolist()
        _draw_disk(disk)
        _draw_eigenvalues(disk, lam.real, lam.imag, score, mask, norm)
        _draw_log_axes(log, limits)
        x, y = (np.clip(v, *ends) for v, ends in zip(log_coordinates(lam), limits, strict=True))
        _draw_eigenvalues(log, x, y, score, mask, norm)
        disk.set_title(f"layer {index}: {mask.sum()} of {len(mask)} states", fontsize=10)
        if column == 0:
            disk.set_ylabel("Im $\\lambda$")
            log.set_ylabel("time constant, steps")
    _add_color_bar(figure, list(axes.flat), norm, pad=0.02, aspect=25.0 * rows)
    shown = "one eigenvalue of each conjugate pair" if conj_sym else "all eigenvalues"
    removed = "" if all(mask.all() for mask in keep) else "; crosses: removed states"
    figure.suptitle(f"{title}: {shown}{removed}", fontsize=11, parse_math=False)
    return figure


def draw_states(before: Sequence[int], after: Sequence[int], *, title: str) -> Figure:
    """Draw the number of states of each layer before and after pruning.

    Args:
        before: states per layer before pruning.
        after: states per layer after pruning.
        title: beginning of the title of the figure.
    """
    figure = new_figure(max(4.8, 0.8 * len(before) + 2), 3.2)
    axis = figure.subplots()
    position = np.arange(len(before))
    axis.bar(position, before, width=0.7, color="0.88", label="before")
    bars = axis.bar(position, after, width=0.7, color=_REMAINING, label="after")
    axis.bar_label(bars, padding=2, fontsize=9)
    axis.set_xticks(position, [f"layer {index}" for index in position])
    axis.set_ylabel("number of states")
    axis.set_ylim(0, 1.15 * max(before))
    figure.legend(frameon=False, ncols=2, loc="outside lower center")
    axis.spines[["top", "right"]].set_visible(False)
    heading = f"{title}: {sum(after)} of {sum(before)} states remain"
    axis.set_title(heading, fontsize=11, parse_math=False)
    return figure


def draw_layout(
    scores: Sequence[Float[np.ndarray, " _"]], keep: Sequence[Bool[np.ndarray, " _"]], *, title: str
) -> Figure:
    """Draw the states of each layer as cells in their order, colored by score.

    Cells of removed states are blank. A line has at most 64 cells.

    Args:
        scores: one score per state of each layer.
        keep: for each layer, which states remain.
        title: title of the figure.
    """
    lines = [-(-len(mask) // _CELLS_PER_LINE) for mask in keep]
    height = 0.16 * sum(lines) + 0.42 * len(lines) + 0.9
    figure = new_figure(5.4, min(height, _MAX_HEIGHT))
    axes = np.atleast_1d(figure.subplots(len(keep), 1, height_ratios=lines))
    low, high = _color_limits(scores)
    norm = LogNorm(low, high)
    for index, (axis, score, mask, rows) in enumerate(zip(axes, scores, keep, lines, strict=True)):
        width = min(_CELLS_PER_LINE, len(mask))
        cells = np.full(rows * width, np.nan)
        bounded = np.clip(np.where(np.isfinite(score), score, high), low, high)
        cells[: len(mask)] = np.where(mask, bounded, np.nan)
        axis.pcolormesh(cells.reshape(rows, width), norm=norm, cmap="viridis", rasterized=False)
        axis.set_xlim(0, min(_CELLS_PER_LINE, max(map(len, keep))))
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.add_patch(Rectangle((0, 0), width, rows, fill=False, edgecolor="0.5", linewidth=0.6))
        axis.set_title(f"layer {index}: {mask.sum()} of {len(mask)}", fontsize=9, loc="left")
    _add_color_bar(figure, list(axes), norm)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def save_pruning_figures(
    folder: str | Path,
    poles: Sequence[Complex[np.ndarray, " _"]],
    scores: Sequence[Float[np.ndarray, " _"]],
    keep: Sequence[Bool[np.ndarray, " _"]],
    states_before: Sequence[int],
    states_after: Sequence[int],
    *,
    title: str,
    conj_sym: bool = True,
) -> None:
    """Write `poles.png` (`draw_poles`) and `states.png` (`draw_states`).

    Args:
        folder: an existing folder.
        poles: the eigenvalues of each layer.
        scores: one score per state of each layer.
        keep: for each layer, which of these states remain.
        states_before: states per layer before pruning.
        states_after: states per layer after pruning.
        title: beginning of the titles.
        conj_sym: whether each eigenvalue stands for a conjugate pair.
    """
    figures = {
        "poles.png": draw_poles(poles, scores, keep, title=title, conj_sym=conj_sym),
        "states.png": draw_states(states_before, states_after, title=title),
    }
    for name, figure in figures.items():
        figure.savefig(Path(folder) / name, dpi=110)


def _color_limits(scores: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, float]:
    """Limits of a logarithmic scale for the finite positive scores of all layers."""
    positive = np.concatenate([score[np.isfinite(score) & (score > 0)] for score in scores])
    if not len(positive):
        return 1.0, 1.0
    highest = float(positive.max())
    return max(float(positive.min()), _LOWEST_SHARE * highest), highest


def _draw_eigenvalues(
    axis: Axes,
    x: Float[np.ndarray, " P"],
    y: Float[np.ndarray, " P"],
    score: Float[np.ndarray, " P"],
    mask: Bool[np.ndarray, " P"],
    norm: LogNorm,
) -> None:
    # High scores are drawn last, so that they are visible where eigenvalues overlap.
    order = np.argsort(score)
    x, y, score, mask = x[order], y[order], score[order], mask[order]
    colors = colormaps["viridis"](norm(np.clip(score, norm.vmin, norm.vmax)))
    colors[~np.isfinite(score)] = (0, 0, 0, 1)
    edges = {True: ("white", 0.4), False: (_REMOVED, 0.9)}
    for remains, marker, size in ((True, "o", 34), (False, "X", 52)):
        own = mask == remains
        edge, width = edges[remains]
        axis.scatter(
            x[own], y[own], c=colors[own], marker=marker, s=size, edgecolors=edge, linewidths=width,
            clip_on=False, zorder=3,
        )  # fmt: skip


def _draw_disk(axis: Axes) -> None:
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 361))
    axis.plot(circle.real, circle.imag, color="0.75", linewidth=0.8, zorder=0)
    axis.set_aspect("equal")
    axis.set_xlim(-1.15, 1.15)
    axis.set_ylim(-1.15, 1.15)
    axis.set_xticks([-1, 0, 1])
    axis.set_yticks([-1, 0, 1])
    axis.set_xlabel("Re $\\lambda$")


def log_coordinates(
    lam: Complex[np.ndarray, " P"],
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Frequencies in cycles per step and time constants in steps; infinite where unstable."""
    decay = -np.log(np.maximum(np.abs(lam.astype(np.complex128)), np.finfo(float).tiny))
    with np.errstate(divide="ignore"):
        constants = np.where(decay > 0, 1 / decay, np.inf)
    return np.abs(np.angle(lam.astype(np.complex128))) / (2 * np.pi), constants


def _log_limits(poles: Sequence[Complex[np.ndarray, " _"]]) -> list[tuple[float, float]]:
    """Ends of the logarithmic axes, for the coordinates that are neither 0 nor infinite.

    At most `_DECADES` decades: rounding decides what lies beyond.
    """
    limits = []
    for values in zip(*map(log_coordinates, poles), strict=True):
        joined = np.concatenate(values)
        joined = joined[np.isfinite(joined) & (joined > 0)]
        low, high = (joined.min(), joined.max()) if len(joined) else (0.1, 1.0)
        limits.append((float(max(low, high * 10.0**-_DECADES)) / 1.5, 1.5 * float(high)))
    return limits


def _draw_log_axes(axis: Axes, limits: Sequence[tuple[float, float]]) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.minorticks_off()
    axis.set_xlim(*limits[0])
    axis.set_ylim(*limits[1])
    axis.set_xlabel("frequency, cycles per step")
    simplify(axis)


def _add_color_bar(
    figure: Figure, axes: Sequence[Axes], norm: LogNorm, *, pad: float = 0.05, aspect: float = 20.0
) -> None:
    figure.colorbar(
        ScalarMappable(norm, "viridis"),
        ax=list(axes),
        label="score",
        shrink=0.8,
        pad=pad,
        aspect=aspect,
        extend="min",
    )
