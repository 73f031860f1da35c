"""The tables that `lastax sweep` prints."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

import lastax
from lastax.cmd._tables import print_table


def print_sweep(
    groups: Mapping[str, lastax.experiments.SweepCurves],
    ratios: tuple[float, ...],
    results: Mapping[str, Any],
) -> None:
    """Accuracies by method and ratio, the summary, and paired differences if there are any."""
    for group, curves in groups.items():
        print_table(_table(group, curves, ratios))
    print_table(_summary_table(results["summary"]))
    for (group, baseline), rows in itertools.groupby(
        results.get("paired", []), lambda row: (row["group"], row["baseline"])
    ):
        print_table(_paired_table(f"{group}: test accuracy minus that of {baseline}", rows))


def _table(group: str, curves: lastax.experiments.SweepCurves, ratios: tuple[float, ...]) -> Table:
    table = Table(title=f"{group}: test accuracy, %; unpruned {_percent(curves.unpruned)}")
    table.add_column("method")
    for ratio in ratios:
        table.add_column(f"{100 * ratio:g} %", justify="right")
    for method, points in curves.test.items():
        table.add_row(method, *(_percent(points.get(ratio, [])) for ratio in ratios))
    return table


def _summary_table(summary: list[dict[str, Any]]) -> Table:
    table = Table(title="most states removed within 1 pp of validation accuracy, mean over groups")
    for name in ("method", "removed", "test loss", "removed, compressible", "test loss"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in summary:
        compressible = row["compressible"]
        table.add_row(
            row["method"],
            f"{100 * row['ratio']:.1f} %",
            f"{row['loss']:.2f} pp",
            f"{100 * row['ratio_compressible']:.1f} %" if compressible else "-",
            f"{row['loss_compressible']:.2f} pp" if compressible else "-",
        )
    return table


def _paired_table(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(title=f"{title}, percentage points; paired bootstrap")
    names = ("method", "removed", "difference", "95 % interval", "examples", "runs", "")
    for name in names:
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(
            row["method"],
            f"{100 * row['ratio']:g} %",
            f"{100 * row['difference']:+.2f}",
            f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}",
            f"{row['examples']:,}",
            str(row["runs"]),
            "within noise" if row["within_noise"] else "",
        )
    return table


def _percent(values: list[float]) -> str:
    return f"{100 * sum(values) / len(values):.2f}" if values else "-"
