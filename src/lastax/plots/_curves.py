"""TODO plots._curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lastax.experiments._summary import SweepCurves


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
