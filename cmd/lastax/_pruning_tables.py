"""The tables and lines that `lastax prune` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

import lastax
from lastax.cmd._console import err, out, percent
from lastax.cmd._tables import print_table

SPLITS = ("validation", "test")
SIZES = ("states", "parameters", "bytes")


def print_trial(trial: lastax.pruning.Trial, total: int) -> None:
    """A line for a network that a search has tried; `total` is the number of states before."""
    err.print(
        f"{trial.method}, {trial.states} of {total} states: validation {percent(trial.accuracy)}"
    )


def print_pruning(
    results: dict[str, Any],
    certificates: Sequence[lastax.analysis.Certificate],
    calibration: lastax.experiments.CalibrationOptions | None,
    *,
    thorough: bool,
    bounds: bool,
) -> None:
    """Sizes, errors and accuracies.

    Args:
        results: what `results.json` holds.
        certificates: one per layer.
        calibration: what pruning used; None if it used no data.
        thorough: whether that was chosen by the size of the network.
        bounds: whether to show worst-case errors after a refit too.
    """
    if calibration is not None:
        out.print(_calibration_line(calibration, thorough))
    method = results["method"]
    table = Table(title=f"{method}: {lastax.METHODS[method].summary}")
    table.add_column("layer", justify="right")
    for size in SIZES:
        table.add_column(size, justify="right")
        table.add_column("after", justify="right")
    columns = [f"{size}_{when}" for size in SIZES for when in ("before", "after")]
    for index, row in enumerate(results["layers"]):
        table.add_row(str(index), *(f"{row[column]:,}" for column in columns))
    table.add_section()
    totals = [sum(row[column] for row in results["layers"]) for column in columns]
    table.add_row("all", *(f"{total:,}" for total in totals))
    print_table(table)
    if results["feedthrough_states"]:
        out.print(f"dense feedthrough: counts as {results['feedthrough_states']} more states")
    _print_errors(results, certificates, bounds)
    for split in SPLITS:
        effect = results[split]
        before, after = effect["before"], effect["after"]
        divergence = effect["kl_divergence"]
        nats = "not finite" if divergence is None else f"{divergence:.3f} nats"
        out.print(
            f"{split + ':':<11} {percent(before)} before, {percent(after)} after "
            f"({100 * (after - before):+.2f} pp); same prediction as before: "
            f"{percent(effect['agreement'])}; KL divergence: {nats}"
        )
    for other, reached in results["compared"].items():
        accuracies = ", ".join(f"{split} {percent(reached[split])}" for split in SPLITS)
        reconstructed = calibration is not None and calibration.reconstruct
        name = f"{other}, reconstructed," if reconstructed else other
        out.print(f"for comparison, {name} with the same number of states: {accuracies}")


def _calibration_line(used: lastax.experiments.CalibrationOptions, thorough: bool) -> str:
    """What pruning used, and the faster way if there is one."""
    steps = (
        f"{used.reconstruct} steps of reconstruction" if used.reconstruct else "no reconstruction"
    )
    faster = " (--fast: 64 and none)" if thorough and used.reconstruct else ""
    return f"calibration: {used.sequences} sequences, {steps}{faster}"


def _print_errors(
    results: dict[str, Any], certificates: Sequence[lastax.analysis.Certificate], bounds: bool
) -> None:
    measured = [row.get("output_error") for row in results["layers"]]
    if any(error is not None for error in measured):
        table = Table(title="mean squared error of each layer's output on the calibration data")
        for name in ("layer", "relative error"):
            table.add_column(name, justify="right")
        for index, error in enumerate(measured):
            table.add_row(str(index), "infinite" if error is None else f"{100 * error:.3g} %")
        print_table(table)
    if not (results["truncated"] or bounds):
        return
    errors = Table(
        title="error of each layer by itself; it does not bound the error of the network's output"
    )
    for name in ("layer", "H-infinity error", "upper bound", "H2 error"):
        errors.add_column(name, justify="right")
    for index, certificate in enumerate(certificates):
        errors.add_row(str(index), *(f"{100 * part:.3g} %" for part in certificate.relative()))
    print_table(errors)
