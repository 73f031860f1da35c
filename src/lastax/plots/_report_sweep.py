"""HTML report on sweeps: summary, curves and tables per group, learning curves, commands."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lastax._errors import RunError
from lastax._typing import OnProgress
from lastax.experiments._cells import weights_digest
from lastax.experiments._summary import SweepCurves, sweep_groups, sweep_summary
from lastax.experiments._sweep import SWEEP_RESULTS
from lastax.plots._curves import draw_sweep
from lastax.plots._html import (
    html_figure,
    html_heading,
    html_numbers,
    html_page,
    html_table,
    html_text,
)
from lastax.plots._report_sections import learning_section, reproduction_section


def sweep_report(folders: Sequence[Path], *, on_warning: OnProgress) -> str:
    """The page on one sweep, or on several together.

    Raises:
        RunError: if a folder has no readable `sweep.json`.
    """
    sweeps = [_read_sweep(folder) for folder in folders]
    cells = [cell for sweep in sweeps for cell in sweep["cells"]]
    runs = [Path(run) for sweep in sweeps for run in sweep["runs"]]
    summary = sweep_summary(cells)
    numbers = {"networks": str(len(runs)), "cells": str(len(cells))}
    if summary and summary[0]["ratio"] > 0:
        best = summary[0]
        numbers["most states removed"] = f"{100 * best['ratio']:.0f} % by {best['method']}"
        numbers["test loss"] = f"{best['loss']:.2f} pp"
    elif summary:
        numbers["states removed within 1 pp"] = "none by any method"
    parts = [html_numbers(numbers), *_summary_section(summary)]
    for name, curves in sweep_groups(cells).items():
        parts += _group_section(name, curves)
    failed = {cell["method"]: cell["error"] for cell in cells if cell.get("error")}
    if failed:
        parts.append(html_heading("Methods that do not apply"))
        parts += [html_text(f"{method}: {error}") for method, error in failed.items()]
    digests = {cell["run"]: cell.get("weights") for cell in cells}
    measured = {}
    for run in runs:
        name = f"{run.parent.name}/{run.name}"
        if _has_weights(run, digests.get(str(run))):
            measured[name] = run
        else:
            on_warning(f"no learning curve of {name}: {run} is missing, or was trained again")
    parts += learning_section(measured, on_warning)
    commands = "\n".join(" ".join(sweep["command"]) for sweep in sweeps)
    parts += reproduction_section(commands, sweeps[-1]["versions"])
    tasks = ", ".join(dict.fromkeys(cell["task"] for cell in cells))
    title = ", ".join(folder.name for folder in folders)
    return html_page(title, f"pruning methods and ratios on {tasks}", parts)


def _has_weights(run: Path, digest: str | None) -> bool:
    """Whether a folder holds the run that a sweep measured, and not another one of this name."""
    try:
        return digest in (None, weights_digest(run))
    except OSError:
        return False


def _read_sweep(folder: Path) -> Mapping[str, Any]:
    path = folder / SWEEP_RESULTS
    try:
        sweep = json.loads(path.read_text())
        sweep_summary(sweep["cells"])
        " ".join([*sweep["runs"], *sweep["command"], *sweep["versions"]])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {error!r}") from error
    return sweep


def _summary_section(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        html_heading("States that can be removed"),
        html_table(
            ["method", "removed", "test loss", "compressible groups", "removed", "test loss"],
            [_summary_row(row) for row in summary],
            "The largest ratio of the sweep that costs at most one percentage point of validation "
            "accuracy, and its cost on the test split in percentage points: means over all groups, "
            "and over the compressible groups, from which states can be removed at this cost.",
        ),
    ]


def _summary_row(row: Mapping[str, Any]) -> list[str]:
    compressible = row["compressible"] > 0
    return [
        row["method"],
        f"{100 * row['ratio']:.1f} %",
        f"{row['loss']:.2f}",
        f"{row['compressible']} of {row['groups']}",
        f"{100 * row['ratio_compressible']:.1f} %" if compressible else "-",
        f"{row['loss_compressible']:.2f}" if compressible else "-",
    ]


def _group_section(name: str, curves: SweepCurves) -> list[str]:
    ratios = sorted({ratio for points in curves.test.values() for ratio in points})
    rows = [
        [method, *(_mean_and_range(points.get(ratio, [])) for ratio in ratios)]
        for method, points in curves.test.items()
    ]
    return [
        html_heading(name),
        html_figure(
            draw_sweep({name: curves}),
            "Test accuracy by ratio of removed states; bands show the range over seeds.",
            f"Lines of test accuracy by ratio of removed states for {', '.join(curves.test)}. "
            "The table below has the same numbers.",
        ),
        html_table(
            ["removed", *(f"{100 * ratio:g} %" for ratio in ratios)],
            rows,
            "Test accuracy in %, mean (range) over seeds; unpruned: "
            f"{_mean_and_range(curves.unpruned)}.",
        ),
    ]


def _mean_and_range(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return "-"
    values = 100 * np.asarray(accuracies)
    spread = f" ({values.min():.1f} to {values.max():.1f})" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"
