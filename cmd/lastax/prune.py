"""`lastax prune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

import lastax
from lastax._errors import RunError
from lastax.cmd._console import emit, err, out, percent, report_unstable, resolve_run
from lastax.cmd._foreign import foreign_options, import_checkpoint
from lastax.cmd._options import (
    CHOSEN_BY_SIZE,
    DataLocation,
    MethodName,
    calibration_options,
    debug_option,
    finetune_rate_option,
    json_option,
    limit_option,
    location_options,
    require_flag,
    run_argument,
    seed_option,
)
from lastax.cmd._tables import print_table

# `lastax.experiments` has the same values; loading it takes seconds.
AUTO = "auto"
DEFAULT_MAX_LOSS = 1
SPLITS = ("validation", "test")
SIZES = ("states", "parameters", "bytes")


@click.command()
@run_argument
@click.option(
    "--method",
    type=MethodName(AUTO),
    default="last",
    help=f"Pruning method (docs/methods.md), or {AUTO} for the best on validation.",
)
@click.option(
    "--compare-with",
    type=MethodName(),
    multiple=True,
    help="Also evaluate this method with as many states; repeatable.",
)
@click.option("--ratio", type=float, help="Share of all states to remove.  [default: 0.3]")
@click.option("--states", type=int, help="Or: number of states to keep in total.")
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 100),
    help="Or: validation accuracy to give up, in percentage points."
    f"  [default with {AUTO}: {DEFAULT_MAX_LOSS}]",
)
@calibration_options(None)
@click.option(
    "--reconstruct",
    type=click.IntRange(0),
    help=f"Steps of block-wise reconstruction after pruning.{CHOSEN_BY_SIZE.format(0)}",
)
@click.option("--fast", is_flag=True, help="Calibrate with 64 sequences, and do not reconstruct.")
@click.option(
    "--dense-feedthrough",
    is_flag=True,
    help="Also fit a dense feedthrough matrix D; its weights count as states.",
)
@click.option("--recalibrate-batch-norm", is_flag=True, help="Measure BatchNorm statistics again.")
@click.option(
    "--finetune", type=click.IntRange(0), default=0, help="Epochs of training after pruning."
)
@finetune_rate_option
@click.option(
    "--distill", is_flag=True, help="Distill from the unpruned network instead of using labels."
)
@seed_option
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the pruned run.  [default: beside RUN, named after the options]",
)
@limit_option
@foreign_options
@click.option("--bounds", is_flag=True, help="Show worst-case error bounds after refits too.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier pruning in that folder.")
@location_options
@json_option
@debug_option
def prune(
    run: Path | None,
    folder: Path | None,
    bounds: bool,
    overwrite: bool,
    location: DataLocation,
    as_json: bool,
    sequences: int | None,
    budget: str,
    reconstruct: int | None,
    fast: bool,
    dense_feedthrough: bool,
    limit: int | None,
    task: str | None,
    file_format: str | None,
    prefix: str | None,
    **options: Any,
) -> None:
    """Remove the least important states of RUN, and write the smaller network as a new run.

    RUN defaults to the newest trained run. The command prints the sizes, the error of each
    layer, and the accuracy before and after, and draws poles.png and states.png into the new run.

    RUN may also be a checkpoint of other people's code. Pass its task with --task. The command
    first imports it into runs/TASK/NAME; `lastax import` has more options.
    """
    given: dict[str, Any] = {"budget": budget, "dense_feedthrough": dense_feedthrough}
    counts = {"sequences": sequences, "reconstruct": reconstruct}
    given |= {name: count for name, count in counts.items() if count is not None}
    calibration = lastax.experiments.CalibrationOptions(**given)
    chosen = lastax.experiments.PruneOptions(calibration=calibration, limit=limit, **options)
    _check(chosen)
    if run is not None and not run.exists():
        raise RunError(f"prune: there is no file or folder {run}")
    if run is not None and _is_foreign(run, task):
        run = import_checkpoint(
            run,
            None,
            task=task,
            file_format=file_format,
            prefix=prefix,
            root=location.root,
            limit=limit,
            data={"data": location.data, "skip_bad": location.skip_bad or None},
            options={},
            reuse=True,
        ).folder
    else:
        flags = {"task": "--task", "file_format": "--format", "prefix": "--prefix"}
        require_flag(flags, "a file of other people's code")
    run = resolve_run(run)
    config, model = lastax.training.load_run(run)
    thorough = chosen.chooses_calibration and not fast
    if thorough:
        default = lastax.experiments.default_calibration(model, config.length)
        calibration = dataclasses.replace(default, **given)
        chosen = dataclasses.replace(chosen, calibration=calibration)
    _check(chosen, config)
    data = location.open(config)
    with err.status("") as status:
        pruned = lastax.experiments.prune_run(
            run,
            data,
            chosen,
            folder=folder,
            overwrite=overwrite,
            loaded=(config, model),
            on_progress=status.update,
            on_trial=lambda trial: _print_trial(trial, sum(config.states)),
            on_failure=lambda method, error: err.print(f"without {method}: {error}"),
        )
    _draw(pruned, title=f"{run.name}, {pruned.method}")
    if as_json:
        emit({**pruned.results, "run": str(pruned.folder)})
        return
    if chosen.needs_calibration:
        out.print(_calibration_line(calibration, thorough))
    _show(pruned.results, pruned.certificates, bounds)
    for other, reached in pruned.results["compared"].items():
        accuracies = ", ".join(f"{split} {percent(reached[split])}" for split in SPLITS)
        name = f"{other}, reconstructed," if calibration.reconstruct else other
        out.print(f"for comparison, {name} with the same number of states: {accuracies}")
    out.print(f"run: {pruned.folder}  (poles.png, states.png)")
    report_unstable(pruned.reduction.unstable)


def _is_foreign(path: Path, task: str | None) -> bool:
    """Whether the path is a checkpoint of other people's code: a file, or a folder of Orbax."""
    is_run = (path / lastax.training.CONFIG_FILE).exists()
    return path.is_file() or (task is not None and not is_run)


def _check(
    chosen: lastax.experiments.PruneOptions,
    config: lastax.training.RunConfig | None = None,
) -> None:
    """Refuse options that do not suit each other or the run; before an import, which takes time."""
    try:
        chosen.check(config)
    except lastax.experiments.OptionError as error:
        raise click.UsageError(f"--{error.option.replace('_', '-')}: {error.reason}") from error
    if not chosen.finetune:
        require_flag({"finetune_rate": "--finetune-rate"}, "--finetune")
    if not chosen.chooses_calibration:
        require_flag({"fast": "--fast"}, "--method calibrated with --ratio or --states")
    if not chosen.needs_calibration:
        require_flag({"sequences": "--calibration"}, "a method that uses calibration data")
    methods = (chosen.method, *chosen.compare_with)
    if not any(name == AUTO or lastax.METHODS[name].uses_budget for name in methods):
        require_flag({"budget": "--budget"}, "--method calibrated")


def _calibration_line(used: lastax.experiments.CalibrationOptions, thorough: bool) -> str:
    """What pruning used, and the faster way if there is one."""
    steps = (
        f"{used.reconstruct} steps of reconstruction" if used.reconstruct else "no reconstruction"
    )
    faster = " (--fast: 64 and none)" if thorough and used.reconstruct else ""
    return f"calibration: {used.sequences} sequences, {steps}{faster}"


def _print_trial(trial: lastax.pruning.Trial, total: int) -> None:
    err.print(
        f"{trial.method}, {trial.states} of {total} states: validation {percent(trial.accuracy)}"
    )


def _draw(pruned: lastax.experiments.PrunedRun, title: str) -> None:
    import numpy as np  # takes 0.1 s

    systems = lastax.systems(pruned.original)
    scores, keep = pruned.reduction.scores, pruned.reduction.keep
    if lastax.METHODS[pruned.method].reduce is not None:
        # New states have no place among the old ones.
        systems = lastax.systems(pruned.model)
        scores = lastax.score_states(systems)
        keep = [np.ones(len(score), bool) for score in scores]
    lastax.plots.save_pruning_figures(
        pruned.folder,
        [np.asarray(system.lam) for system in systems],
        scores,
        keep,
        pruned.reduction.states_before,
        pruned.reduction.states_after,
        title=title,
        conj_sym=all(system.conj_sym for system in systems),
    )


def _show(
    results: dict[str, Any],
    certificates: Sequence[lastax.analysis.Certificate],
    bounds: bool,
) -> None:
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
    _show_errors(results, certificates, bounds)
    for split in SPLITS:
        effect = results[split]
        before, after = effect["before"], effect["after"]
        out.print(
            f"{split + ':':<11} {percent(before)} before, {percent(after)} after "
            f"({100 * (after - before):+.2f} pp); same prediction as before: "
            f"{percent(effect['agreement'])}; KL divergence: {effect['kl_divergence']:.3f} nats"
        )


def _show_errors(
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
