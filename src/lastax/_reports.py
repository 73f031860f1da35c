"""Pictures of what pruning did. Each function draws one figure; saving it is the caller's part."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex, Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lastax._sweeps import SweepCurves

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


def draw_learning(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Accuracy over epochs: on training batches and, thicker, on validation; a color a run.

    Args:
        runs: the lines of each run's `metrics.jsonl`.
    """
    figure = Figure(figsize=(5.4, 3.3), layout="constrained")
    axis = figure.subplots()
    for index, (name, records) in enumerate(runs.items()):
        epochs = [record["epoch"] for record in records]
        for key, width, style in (("validation", 1.8, "-"), ("train", 0.9, "--")):
            values = [100 * record[f"{key}_accuracy"] for record in records]
            label = f"{name}, {key}" if len(runs) == 1 else name if key == "validation" else None
            axis.plot(epochs, values, style, linewidth=width, color=f"C{index % 10}", label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel("accuracy, %")
    axis.grid(color="0.5", alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_sweep(groups: Mapping[str, SweepCurves]) -> Figure:
    """Test accuracy against the share of removed states: a panel a group, a line a method.

    Lines are means over seeds; where there are several, a band shows their range.
    """
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    alone = len(groups) == 1
    methods = list(dict.fromkeys(m for curves in groups.values() for m in curves.test))
    # Three long names in a row are wider than a panel.
    abreast = 3 if sum(sorted(map(len, methods))[-3:]) <= 60 else 2
    legend = 0.17 * -(-(len(methods) + 1) // abreast)
    size = (5.4, 4.0 + legend) if alone else (5.6 * columns + 1.9, 4.2 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    markers = "osD^vP*Xh<>pd"
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    for axis, (name, curves) in zip(axes, groups.items(), strict=False):
        if curves.unpruned:
            level = 100 * np.mean(curves.unpruned)
            axis.axhline(level, color="0.6", linewidth=0.9, linestyle="--", label="unpruned")
        for method, points in curves.test.items():
            index = methods.index(method)
            ratios = sorted(points)
            x = [100 * ratio for ratio in ratios]
            values = [100 * np.asarray(points[ratio]) for ratio in ratios]
            axis.plot(
                x,
                [v.mean() for v in values],
                color=f"C{index % 10}",
                linestyle="-" if index < 10 else "--",
                marker=markers[index % len(markers)],
                markersize=4,
                linewidth=1.3,
                label=method,
            )
            low, high = [v.min() for v in values], [v.max() for v in values]
            axis.fill_between(x, low, high, color=f"C{index % 10}", alpha=0.1, linewidth=0)
        axis.set_xlabel("states removed, %")
        axis.set_ylabel("test accuracy, %")
        axis.grid(color="0.5", alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(name, fontsize=11)
    # One legend for all: methods have the same colors everywhere.
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        frameon=False,
        fontsize=8,
        ncols=abreast if alone else 1,
        loc="outside lower center" if alone else "outside right upper",
    )
    return figure


def draw_speeds(speeds: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> Figure:
    """How many times as fast each program is as what it is compared with.

    Args:
        speeds: for each thing that is computed and each way of computing it, the ratios of single
            runs. Bars are medians, lines the range of the middle half.
        title: what was timed, and against what.
    """
    bars = sum(map(len, speeds.values()))
    figure = Figure(figsize=(7.2, 0.24 * bars + 0.3 * len(speeds) + 0.8), layout="constrained")
    axis = figure.subplots()
    ways = list(dict.fromkeys(way for group in speeds.values() for way in group))
    positions, labels, top = [], [], 0.0
    for what, group in speeds.items():
        first = top
        for way, ratios in group.items():
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            axis.barh(
                top,
                middle,
                height=0.85,
                color=f"C{ways.index(way)}",
                xerr=[[middle - low], [high - middle]],
                error_kw={"elinewidth": 0.8},
                label=way if way not in axis.get_legend_handles_labels()[1] else None,
            )
            axis.text(high, top, f" {middle:.1f}", va="center", fontsize=8)
            top += 1
        positions.append((first + top - 1) / 2)
        labels.append(what)
        top += 0.8
    axis.axvline(1, color="0.5", linewidth=0.9, linestyle="--")
    axis.set_yticks(positions, labels)
    axis.invert_yaxis()
    axis.set_xlabel("times as fast")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.set_title(title, fontsize=11)
    return figure
