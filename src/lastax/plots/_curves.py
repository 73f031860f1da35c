"""Figures of accuracies and speedups: learning curves, sweeps, benchmarks."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lastax.experiments._summary import AccuracyCurve, SweepCurves
from lastax.plots._style import (
    MethodStyle,
    method_styles,
    new_figure,
    show_plain_text,
    simplify,
)

# Characters of legend text that fit into three columns of one panel.
_THREE_COLUMNS = 60


def draw_learning(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw accuracy by epoch, one color per run.

    Lines are solid for the validation split and dashed for training batches. Epochs that were
    undone are left out.

    Args:
        runs: by name, the records of each run's `metrics.jsonl`.
    """
    figure = new_figure(5.4, 3.3)
    axis = figure.subplots()
    for index, (name, all_records) in enumerate(runs.items()):
        records = [record for record in all_records if not record.get("undone")]
        epochs = [record["epoch"] for record in records]
        for key, width, style in (("validation", 1.8, "-"), ("train", 0.9, "--")):
            values = [100 * record[f"{key}_accuracy"] for record in records]
            label = f"{name}, {key}" if len(runs) == 1 else name if key == "validation" else None
            axis.plot(epochs, values, style, linewidth=width, color=f"C{index % 10}", label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel("accuracy, %")
    simplify(axis)
    show_plain_text(axis.legend(frameon=False, fontsize=8))
    return figure


def draw_sweep(groups: Mapping[str, SweepCurves]) -> Figure:
    """Draw test accuracy by ratio of removed states, one panel per group and one line per method.

    Lines begin at the unpruned networks. They are means over seeds; bands show the range over
    seeds. A method has the same color in all figures.

    Args:
        groups: curves by name of the group, for example from `sweep_groups`.
    """
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    single = len(groups) == 1
    methods = list(dict.fromkeys(m for curves in groups.values() for m in curves.test))
    styles = method_styles(methods)
    legend_columns = 3 if sum(sorted(map(len, methods))[-3:]) <= _THREE_COLUMNS else 2
    legend_height = 0.17 * -(-(len(methods) + 1) // legend_columns)
    size = (5.4, 4.0 + legend_height) if single else (5.6 * columns + 1.9, 4.2 * rows)
    figure = new_figure(*size)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    for axis, (name, curves) in zip(axes, groups.items(), strict=False):
        if curves.unpruned:
            level = 100 * np.mean(curves.unpruned)
            axis.axhline(level, color="0.6", linewidth=0.9, linestyle="--", label="unpruned")
        for method, points in curves.test.items():
            percent = {100 * ratio: values for ratio, values in points.items()}
            _draw_curve(axis, method, {0.0: curves.unpruned} | percent, styles[method])
        axis.set_xlabel("states removed, %")
        axis.set_ylabel("test accuracy, %")
        axis.set_xlim(left=0)
        simplify(axis)
        axis.set_title(textwrap.fill(name, 60), fontsize=11, parse_math=False)
    # One legend for all panels: a method has the same color in each.
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    legend = figure.legend(
        list(entries.values()),
        list(entries),
        frameon=False,
        fontsize=8,
        ncols=legend_columns if single else 1,
        loc="outside lower center" if single else "outside right upper",
    )
    show_plain_text(legend)
    return figure


def draw_speeds(
    times: Mapping[str, Mapping[str, Sequence[float]]], baseline: str, *, title: str
) -> Figure:
    """Draw speedups over a baseline.

    A bar is the median time of the baseline divided by the median time of the implementation. Its
    line covers the interquartile range of the times of the implementation.

    Args:
        times: by operation and implementation, the baseline included, the seconds of each run.
        baseline: name of the implementation that others are compared with.
        title: title of the figure.
    """
    names = [
        name for name in dict.fromkeys(n for g in times.values() for n in g) if name != baseline
    ]
    bars = sum(len(group) - 1 for group in times.values())
    legend_rows = -(-len(names) // 3)
    height = 0.24 * bars + 0.3 * len(times) + 1.0 + 0.2 * legend_rows
    figure = new_figure(7.2, height)
    axis = figure.subplots()
    positions, top = [], 0.0
    for group in times.values():
        first, reference = top, float(np.median(group[baseline]))
        for name in (name for name in group if name != baseline):
            low, middle, high = (reference / np.percentile(group[name], [75, 50, 25])).tolist()
            axis.barh(
                top,
                middle,
                height=0.85,
                color=f"C{names.index(name)}",
                xerr=[[middle - low], [high - middle]],
                error_kw={"elinewidth": 0.8},
                label=name if name not in axis.get_legend_handles_labels()[1] else None,
            )
            axis.text(high, top, f" {middle:.1f}", va="center", fontsize=8)
            top += 1
        positions.append((first + top - 1) / 2)
        top += 0.8
    axis.axvline(1, color="0.5", linewidth=0.9, linestyle="--")
    axis.set_yticks(positions, list(times))
    axis.invert_yaxis()
    # Space for the number of the longest bar.
    axis.margins(x=0.1)
    axis.set_xlim(left=0)
    axis.set_xlabel("speedup")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, fontsize=11)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    return figure


def draw_sizes(series: Mapping[str, AccuracyCurve], *, xlabel: str) -> Figure:
    """Draw test accuracy by the size of a network, one line per series.

    Lines are means over seeds; bands show the range over seeds. A method has the same color in all
    figures, and "METHOD, int8" is dashed.

    Args:
        series: by name, the accuracies of each size, from 0 to 1.
        xlabel: what the sizes are, with their unit.
    """
    figure = new_figure(5.4, 3.6)
    axis = figure.subplots()
    styles = method_styles(list(series))
    for name, points in series.items():
        _draw_curve(axis, name, points, styles[name])
    axis.set_xlabel(xlabel)
    axis.set_ylabel("test accuracy, %")
    axis.set_xlim(left=0)
    simplify(axis)
    show_plain_text(axis.legend(frameon=False, fontsize=8))
    return figure


def _draw_curve(axis: Axes, label: str, points: AccuracyCurve, style: MethodStyle) -> None:
    x = sorted(place for place in points if points[place])
    values = [100 * np.asarray(points[place]) for place in x]
    means = [v.mean() for v in values]
    # Markers on the left edge are drawn whole.
    axis.plot(
        x,
        means,
        **style._asdict(),
        markersize=4,
        linewidth=1.3,
        label=label,
        clip_on=False,
        zorder=3,
    )
    low, high = [v.min() for v in values], [v.max() for v in values]
    axis.fill_between(x, low, high, color=style.color, alpha=0.1, linewidth=0)
