"""Figures of a pruned network: eigenvalues, numbers of states, and which states remain."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Complex, Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_REMOVED, _REMAINING = "#c43a31", "#2f6f9f"
# Scores below this share of the highest one have the same color.
_LOWEST_SHARE = 1e-6
_CELLS_PER_LINE = 64
_MAX_HEIGHT = 14.0


def draw_poles(
    poles: Sequence[Complex[np.ndarray, " _"]],
    scores: Sequence[Float[np.ndarray, " _"]],
    keep: Sequence[Bool[np.ndarray, " _"]],
    *,
    title: str,
    columns: int = 4,
) -> Figure:
    """Draw the discrete eigenvalues of each layer in the unit disk, colored by score.

    Removed states are crossed out. Of a conjugate pair, the stored eigenvalue is drawn. Unstable
    states, which have no finite score, are black.

    Args:
        poles: the eigenvalues of each layer.
        scores: one score per state of each layer.
        keep: for each layer, which states remain.
        title: beginning of the title of the figure.
        columns: number of panels per row; there is one panel per layer.
    """
    columns = min(len(poles), columns)
    rows = -(-len(poles) // columns)
    figure = Figure(figsize=(3.1 * columns + 1.0, 3.2 * rows + 0.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    norm = LogNorm(*_color_limits(scores))
    for axis in axes[len(poles) :]:
        axis.set_axis_off()
    for index, (axis, lam, score, mask) in enumerate(zip(axes, poles, scores, keep, strict=False)):
        _draw_disk(axis, lam, score, mask, norm)
        axis.set_title(f"layer {index}: {mask.sum()} of {len(mask)} states", fontsize=10)
    _add_color_bar(figure, list(axes), norm, pad=0.02)
    figure.suptitle(f"{title}: eigenvalues, removed states crossed out", fontsize=11)
    return figure


def draw_states(before: Sequence[int], after: Sequence[int], *, title: str) -> Figure:
    """Draw the number of states of each layer before and after pruning.

    Args:
        before: states per layer before pruning.
        after: states per layer after pruning.
        title: beginning of the title of the figure.
    """
    figure = Figure(figsize=(max(4.8, 0.8 * len(before) + 2), 3.2), layout="constrained")
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
    axis.set_title(f"{title}: {sum(after)} of {sum(before)} states remain", fontsize=11)
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
    figure = Figure(figsize=(5.4, min(height, _MAX_HEIGHT)), layout="constrained")
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
    figure.suptitle(title, fontsize=10)
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
    """
    figures = {
        "poles.png": draw_poles(poles, scores, keep, title=title),
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


def _draw_disk(
    axis: Axes,
    lam: Complex[np.ndarray, " P"],
    score: Float[np.ndarray, " P"],
    mask: Bool[np.ndarray, " P"],
    norm: LogNorm,
) -> None:
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 361))
    axis.plot(circle.real, circle.imag, color="0.75", linewidth=0.8, zorder=0)
    # High scores are drawn last, so that they are visible where eigenvalues overlap.
    order = np.argsort(score)
    lam, score, mask = lam[order], score[order], mask[order]
    shown = np.where(np.isfinite(score), np.maximum(score, norm.vmin or 0.0), np.nan)
    axis.scatter(lam.real, lam.imag, c=shown, norm=norm, cmap="viridis", s=34, plotnonfinite=False)
    unstable = ~np.isfinite(score)
    axis.scatter(lam.real[unstable], lam.imag[unstable], c="black", s=34)
    axis.scatter(lam.real[~mask], lam.imag[~mask], c=_REMOVED, marker="x", s=22, linewidths=0.9)
    axis.set_aspect("equal")
    axis.set_xlim(-1.08, 1.08)
    axis.set_ylim(-1.08, 1.08)
    axis.set_xticks([-1, 0, 1])
    axis.set_yticks([-1, 0, 1])


def _add_color_bar(
    figure: Figure, axes: Sequence[Axes], norm: LogNorm, *, pad: float = 0.05
) -> None:
    figure.colorbar(
        ScalarMappable(norm, "viridis"),
        ax=list(axes),
        label="score",
        shrink=0.8,
        pad=pad,
        extend="min",
    )
