"""Pictures of what pruning did. Each function draws one figure; saving it is the caller's part."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex, Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_REMOVED, _KEPT = "#c43a31", "#2f6f9f"


def draw_poles(
    poles: Sequence[Complex[np.ndarray, " _"]],
    scores: Sequence[Float[np.ndarray, " _"]],
    keep: Sequence[Bool[np.ndarray, " _"]],
    *,
    title: str,
    columns: int = 4,
) -> Figure:
    """The discrete eigenvalues of each layer in the unit disk, colored by score.

    One panel a layer. Removed states are crossed out; of a conjugate pair one is drawn. Unstable
    states, which have no finite score, are drawn in black.
    """
    columns = min(len(poles), columns)
    rows = -(-len(poles) // columns)
    figure = Figure(figsize=(3.1 * columns + 1.0, 3.2 * rows + 0.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    positive = np.concatenate([s[np.isfinite(s) & (s > 0)] for s in scores])
    finite = positive if len(positive) else np.ones(1)
    lowest = max(finite.min(), 1e-6 * finite.max())
    norm = LogNorm(lowest, finite.max())
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 361))
    for axis in axes[len(poles) :]:
        axis.set_axis_off()
    for index, (axis, lam, score, mask) in enumerate(zip(axes, poles, scores, keep, strict=False)):
        axis.plot(circle.real, circle.imag, color="0.75", linewidth=0.8, zorder=0)
        # The highest scores lie on top, wherever poles crowd.
        order = np.argsort(score)
        lam, score, mask = lam[order], score[order], mask[order]
        shown = np.where(np.isfinite(score), np.maximum(score, lowest), np.nan)
        axis.scatter(
            lam.real, lam.imag, c=shown, norm=norm, cmap="viridis", s=34, plotnonfinite=False
        )
        unstable = ~np.isfinite(score)
        axis.scatter(lam.real[unstable], lam.imag[unstable], c="black", s=34)
        axis.scatter(lam.real[~mask], lam.imag[~mask], c=_REMOVED, marker="x", s=22, linewidths=0.9)
        axis.set_title(f"layer {index}: {mask.sum()} of {len(mask)} states", fontsize=10)
        axis.set_aspect("equal")
        axis.set_xlim(-1.08, 1.08)
        axis.set_ylim(-1.08, 1.08)
        axis.set_xticks([-1, 0, 1])
        axis.set_yticks([-1, 0, 1])
    figure.colorbar(
        ScalarMappable(norm, "viridis"),
        ax=list(axes),
        label="score",
        shrink=0.8,
        pad=0.02,
        extend="min",
    )
    figure.suptitle(f"{title}: eigenvalues, removed ones crossed out", fontsize=11)
    return figure


def draw_states(before: Sequence[int], after: Sequence[int], *, title: str) -> Figure:
    """How many states each layer had and how many are left."""
    figure = Figure(figsize=(max(4.8, 0.8 * len(before) + 2), 3.2), layout="constrained")
    axis = figure.subplots()
    position = np.arange(len(before))
    axis.bar(position, before, width=0.7, color="0.88", label="before")
    bars = axis.bar(position, after, width=0.7, color=_KEPT, label="after")
    axis.bar_label(bars, padding=2, fontsize=9)
    axis.set_xticks(position, [f"layer {index}" for index in position])
    axis.set_ylabel("states")
    axis.set_ylim(0, 1.15 * max(before))
    figure.legend(frameon=False, ncols=2, loc="outside lower center")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"{title}: {sum(after)} of {sum(before)} states left", fontsize=11)
    return figure


def draw_layout(
    scores: Sequence[Float[np.ndarray, " _"]], keep: Sequence[Bool[np.ndarray, " _"]], *, title: str
) -> Figure:
    """The states of each layer as cells in their order, colored by score; removed ones are blank.

    A layer of more than 64 states is several lines of 64.
    """
    lines = [-(-len(mask) // 64) for mask in keep]
    height = 0.16 * sum(lines) + 0.42 * len(lines) + 0.9
    figure = Figure(figsize=(5.4, min(height, 14)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(keep), 1, height_ratios=lines))
    positive = np.concatenate([s[np.isfinite(s) & (s > 0)] for s in scores])
    top = positive.max() if len(positive) else 1.0
    norm = LogNorm(max(positive.min() if len(positive) else 1.0, 1e-6 * top), top)
    for index, (axis, score, mask, rows) in enumerate(zip(axes, scores, keep, lines, strict=True)):
        width = min(64, len(mask))
        cells = np.full(rows * width, np.nan)
        bounded = np.clip(np.where(np.isfinite(score), score, top), norm.vmin, norm.vmax)
        cells[: len(mask)] = np.where(mask, bounded, np.nan)
        axis.pcolormesh(cells.reshape(rows, width), norm=norm, cmap="viridis", rasterized=False)
        axis.set_xlim(0, min(64, max(map(len, keep))))
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.add_patch(Rectangle((0, 0), width, rows, fill=False, edgecolor="0.5", linewidth=0.6))
        axis.set_title(f"layer {index}: {mask.sum()} of {len(mask)}", fontsize=9, loc="left")
    figure.colorbar(
        ScalarMappable(norm, "viridis"), ax=list(axes), label="score", shrink=0.8, extend="min"
    )
    figure.suptitle(title, fontsize=10)
    return figure
