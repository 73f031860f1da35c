"""Compare refits, reconstruction and training after pruning, on trained networks.

Usage: python study_refit.py RUN... [--parts s5,s4d] [--out FOLDER] [--jobs 2]

Each RUN is a folder of a network with S5 or S4D layers. The networks of docs/refit.md are three of
each, trained for the task `speech`. The script prints test accuracies, and differences to the
unpruned networks with intervals of a paired bootstrap. A study that was interrupted resumes.
`make study-refit` trains the networks and runs this script.
"""

import contextlib
import statistics
from pathlib import Path

import click

import lastax
from lastax.experiments import UNPRUNED, CalibrationOptions, Grid

MORE_CLIPS = CalibrationOptions(256)
RECONSTRUCTED = CalibrationOptions(256, reconstruct=100)
DENSE = CalibrationOptions(dense_feedthrough=True)
# Training after pruning, with labels, and distilled from the unpruned network.
SHORT = {"finetune": 3, "distill": True}
LONG = {"finetune": 30, "finetune_rate": 0.3, "distill": True}
COMPARED = ("calibrated", "empirical-balanced", "last")
OTHERS = ("empirical-energy", "last-finite-horizon", "global-magnitude", "aire")
# What is measured, by part: the kind of layers, and what is done to their networks.
PARTS = {
    "s5": (
        "s5",
        [
            Grid(COMPARED, (0.6, 0.7, 0.8, 0.9), reconstruct=COMPARED, calibration=MORE_CLIPS),
            Grid(("calibrated", *OTHERS), (0.6, 0.7, 0.8, 0.9)),
        ],
    ),
    "s4d": (
        "s4d",
        [
            Grid(("calibrated",), (0.9, 0.95), reconstruct=("calibrated",), calibration=MORE_CLIPS),
            Grid(("calibrated", "empirical-balanced", "empirical-energy"), (0.9, 0.95)),
            Grid(("aire", "uniform-magnitude", "last"), (0.9, 0.95), recalibrate=("last",)),
        ],
    ),
    "s5-training": (
        "s5",
        [
            Grid(("calibrated",), (0.8, 0.9), calibration=RECONSTRUCTED, **SHORT),
            Grid(("calibrated",), (0.8, 0.9), calibration=RECONSTRUCTED, **LONG),
            Grid(("calibrated", "last"), (0.8, 0.9), **SHORT),
            Grid(("last",), (0.8, 0.9), **LONG),
        ],
    ),
    "s4d-training": (
        "s4d",
        [
            Grid(("calibrated",), (0.95,), calibration=RECONSTRUCTED, **SHORT),
            Grid(("calibrated",), (0.95,), calibration=RECONSTRUCTED, **LONG),
        ],
    ),
    "s5-dense": ("s5", [Grid(("calibrated",), (0.5, 0.6), calibration=DENSE)]),
}


def show(cell):
    names = ("run", "method", "settings", "post_processing", "finetune", "ratio", "seconds")
    names += ("test_accuracy",) if cell["error"] is None else ("error",)
    print({name: cell[name] for name in names}, flush=True)


def tables(cells):
    """Accuracies and differences to the unpruned networks, one Markdown table per group of runs."""
    differences = {
        (row["group"], row["method"], row["ratio"]): lastax.experiments.PairedDifference(
            *(row[name] for name in lastax.experiments.PairedDifference._fields)
        )
        for row in lastax.experiments.paired_differences(cells, UNPRUNED)
    }
    for group, curves in lastax.experiments.sweep_groups(cells).items():
        ratios = sorted({ratio for points in curves.test.values() for ratio in points})
        lines = [[group, "0 %", *(f"{100 * ratio:g} % removed" for ratio in ratios)]]
        lines.append(["---"] * (2 + len(ratios)))
        lines.append([UNPRUNED, accuracy(curves.unpruned), *[""] * len(ratios)])
        for name, points in curves.test.items():
            shown = (
                f"{accuracy(points[ratio])}; {differences[group, name, ratio]}"
                if ratio in points
                else ""
                for ratio in ratios
            )
            lines.append([name, "", *shown])
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)


def accuracy(values):
    """Mean, and standard deviation over seeds."""
    percent = [100 * value for value in values]
    spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.1f}{spread}"


def chosen_parts(context, option, text):
    names = [name.strip() for name in text.split(",")]
    return [click.Choice(list(PARTS)).convert(name, option, context) for name in names]


@click.command()
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option(
    "--parts", default=",".join(PARTS), show_default=True, callback=chosen_parts,
    help="What to measure.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study-refit"))
def main(runs, parts, jobs, out):
    """Measure what is missing, and print the tables."""
    try:
        layers = {run: lastax.training.load_config(run).model.layer for run in runs}
    except lastax.serialization.RunError as error:
        raise click.ClickException(str(error)) from error
    workers = lastax.experiments.local_cluster(jobs) if jobs > 1 else contextlib.nullcontext()
    with workers as executor:
        for part in parts:
            layer, grids = PARTS[part]
            chosen = [run for run in runs if layers[run] == layer]
            if not chosen:
                print(f"skipped: {part} needs networks with {layer} layers")
                continue
            cells = []
            for grid in grids:
                measured = lastax.experiments.sweep(
                    chosen,
                    grid,
                    out / part,
                    lastax.data.reopen_data,
                    executor=executor,
                    on_cell=show,
                )
                # All grids have the cells of the unpruned networks.
                cells += [cell for cell in measured if cell not in cells]
            print(f"\n{part}\n")
            print(*tables(cells), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
