"""`lastax sweep`."""

import csv
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

import lastax
from lastax._files import write_atomically
from lastax.cmd._console import (
    SPLITS,
    debug_option,
    emit,
    json_option,
    out,
    progress_bar,
    pruning_key,
    report_unstable,
    resolve_run,
    seed_option,
)
from lastax.cmd._open import Place, evaluate_on, place_options, reopen_data


class NumberList(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[float]:
        """From text to the list, each in [0, 1)."""
        if isinstance(value, list):
            return value
        try:
            numbers = list(dict.fromkeys(float(part) for part in value.split(",")))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers like 0.1,0.3,0.5", param, ctx)
        for number in numbers:
            if not 0 <= number < 1:
                self.fail(f"{number} must be at least 0 and below 1", param, ctx)
        return numbers


class MethodList(click.ParamType):
    """Names of methods with commas between them."""

    name = "methods"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[str]:
        """From text to the list of names, each known."""
        if isinstance(value, list):
            return value
        names = list(dict.fromkeys(value.split(",")))
        for name in names:
            if name not in lastax.METHODS:
                known = ", ".join(lastax.METHODS)
                self.fail(f"no method {name!r}; there are {known}", param, ctx)
        return names


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--methods", type=MethodList(), default=",".join(lastax.METHODS), help="Which to compare."
)
@click.option(
    "--ratios", type=NumberList(), default="0.1,0.3,0.5,0.7,0.9", help="Shares of states to remove."
)
@seed_option
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for sweep.csv and sweep.png.  [default: sweep in the first RUN]",
)
@place_options
@json_option
@debug_option
def sweep(
    runs: tuple[Path, ...],
    methods: list[str],
    ratios: list[float],
    seed: int,
    folder: Path | None,
    place: Place,
    as_json: bool,
) -> None:
    """Accuracy of RUNS (default: the newest trained run) pruned by each method at each ratio.

    Several runs of one task, as with different seeds, give means and ranges.
    """
    runs = runs or (resolve_run(None),)
    folder = folder or runs[0] / "sweep"
    if (folder / "sweep.csv").exists():
        raise lastax.RunError(
            f"{folder} holds a sweep already: remove it, or name another by --out"
        )
    loaded = [(run, *lastax.load_run(run)) for run in runs]
    tasks = {config.task for _, config, _ in loaded}
    if len(tasks) > 1:
        raise click.UsageError(f"the runs are of different tasks: {', '.join(sorted(tasks))}")
    if len({config.data for _, config, _ in loaded}) > 1:
        raise click.UsageError(f"the runs read {tasks.pop()} in different ways: sweep them apart")
    opened = [reopen_data(config, place) for _, config, _ in loaded]
    rows: list[dict[str, Any]] = []
    cells = len(loaded) * (1 + len(methods) * len(ratios))
    with progress_bar("sweep") as bar:
        shown = bar.add_task("", total=cells, note="")
        for (run, config, model), data in zip(loaded, opened, strict=True):
            report_unstable(lastax.systems(model), f"{run.name}, ")
            for method, ratio in [("unpruned", 0.0), *((m, r) for m in methods for r in ratios)]:
                bar.update(shown, note=f"{run.name} {method} {ratio:g}")
                small = model
                if method != "unpruned":
                    plan = lastax.plan_pruning(
                        model,
                        ratio=ratio,
                        method=method,
                        length=config.length,
                        key=pruning_key(seed, config),
                    )
                    small = plan.apply(model)
                row = {
                    "run": str(run),
                    "method": method,
                    "ratio": ratio,
                    "states": sum(lastax.state_counts(small)),
                }
                for split in SPLITS:
                    row[f"{split}_accuracy"] = evaluate_on(small, data, split).accuracy
                rows.append(row)
                bar.advance(shown)
    _write(folder, rows, title=", ".join(run.name for run in runs))
    if as_json:
        emit({"csv": str(folder / "sweep.csv"), "rows": rows})
        return
    out.print(_table(rows, ratios))
    out.print(f"{folder / 'sweep.csv'}, {folder / 'sweep.png'}")


def _test_accuracies(rows: list[dict[str, Any]]) -> dict[str, dict[float, list[float]]]:
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        curves[row["method"]][row["ratio"]].append(row["test_accuracy"])
    return {method: dict(points) for method, points in curves.items()}


def _write(folder: Path, rows: list[dict[str, Any]], title: str) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    curves = _test_accuracies(rows)
    unpruned = float(np.mean(curves.pop("unpruned")[0.0]))
    picture = io.BytesIO()
    lastax.draw_sweep(curves, unpruned=unpruned, title=f"{title}: test accuracy").savefig(
        picture, format="png", dpi=110
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "sweep.csv", text.getvalue().encode())
    write_atomically(folder / "sweep.png", picture.getvalue())


def _table(rows: list[dict[str, Any]], ratios: list[float]) -> Table:
    curves = _test_accuracies(rows)
    unpruned = 100 * np.mean(curves.pop("unpruned")[0.0])
    table = Table(title=f"test accuracy, %; unpruned {unpruned:.2f}")
    table.add_column("method")
    for ratio in ratios:
        table.add_column(f"{100 * ratio:g} %", justify="right")
    for method, points in curves.items():
        table.add_row(method, *(f"{100 * np.mean(points[ratio]):.2f}" for ratio in ratios))
    return table
