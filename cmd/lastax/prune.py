"""`lastax prune`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

import lastax
from lastax._errors import RunError
from lastax.cmd._console import emit, err, out, report_unstable, resolve_run
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
from lastax.cmd._pruning_tables import print_pruning, print_trial

# `lastax.experiments` has the same values; loading it takes seconds.
AUTO = "auto"
DEFAULT_MAX_LOSS = 1


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
@click.option("--fast", is_flag=True, help="Default to 64 sequences and no reconstruction.")
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
            on_trial=lambda trial: print_trial(trial, sum(config.states)),
            on_failure=lambda method, error: err.print(f"without {method}: {error}"),
        )
    _draw(pruned, title=f"{run.name}, {pruned.method}")
    if as_json:
        emit({**pruned.results, "run": str(pruned.folder)})
        return
    print_pruning(
        pruned.results,
        pruned.certificates,
        calibration if chosen.needs_calibration else None,
        thorough=thorough,
        bounds=bounds,
    )
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
