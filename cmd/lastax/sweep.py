"""`lastax sweep`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

import lastax
from lastax.cmd._console import (
    Counter,
    emit,
    keep_compiled_programs,
    out,
    report_unstable,
    resolve_run,
)
from lastax.cmd._named_modules import import_named_modules
from lastax.cmd._options import (
    DataLocation,
    calibration_options,
    debug_option,
    finetune_rate_option,
    is_given,
    json_option,
    limit_option,
    location_options,
    require_flag,
    seed_option,
)
from lastax.cmd._sweep_tables import print_sweep
from lastax.cmd._sweep_training import trained_runs
from lastax.cmd._sweep_values import (
    LAYER_NAMES,
    METHOD_NAMES,
    METHOD_NAMES_OR_NONE,
    TASK_NAMES,
    UNIDIRECTIONAL,
    FlagList,
    Several,
    ratio,
)

# `lastax.experiments` has the same values; loading it takes seconds.
RECONSTRUCTION_STEPS = 100
UNPRUNED = "unpruned"


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--task",
    "tasks",
    type=TASK_NAMES,
    help="Tasks whose presets are trained first, and added to RUNS.",
)
@click.option(
    "--layer",
    "layers",
    type=LAYER_NAMES,
    default="s5",
    help=f"Layers of these presets, for example s5 or s5{UNIDIRECTIONAL}.",
)
@click.option("--size", default="small", help="Size of these presets.")
@click.option("--seeds", type=Several("seeds", int), default="0", help="Seeds of these presets.")
@click.option(
    "--train",
    "flags",
    type=FlagList(),
    default="",
    metavar="FLAGS",
    help="Flags of `lastax train` for these presets, in quotes.  [default: none]",
    show_default=False,
)
@click.option(
    "--methods", type=METHOD_NAMES, help="Methods to compare.  [default: all]", default=None
)
@click.option(
    "--ratios",
    type=Several("numbers", ratio),
    default="0.1,0.3,0.5,0.7,0.9",
    help="Shares of states to remove.",
)
@click.option(
    "--finetune",
    type=click.IntRange(0),
    default=0,
    help="Also fine-tune for this number of epochs.",
)
@finetune_rate_option
@click.option(
    "--distill", is_flag=True, help="Also distill from the unpruned network, without labels."
)
@click.option(
    "--recalibrate-batch-norm",
    "recalibrate",
    type=METHOD_NAMES_OR_NONE,
    default="last",
    help='Also recalibrate BatchNorm after these methods; "" for none.',
)
@click.option(
    "--reconstruct",
    type=METHOD_NAMES_OR_NONE,
    default="",
    help=f"Also reconstruct blocks ({RECONSTRUCTION_STEPS} steps) after these methods."
    "  [default: none]",
    show_default=False,
)
@click.option(
    "--paired",
    is_flag=True,
    help="Also print paired differences to --baseline, with intervals.",
)
@click.option(
    "--baseline",
    metavar="METHOD",
    help=f"One of --methods, or {UNPRUNED}.  [default: the first method]",
)
@limit_option
@click.option("--jobs", type=click.IntRange(1), default=1, help="Worker processes on this machine.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler to use instead of --jobs, for example tcp://10.0.0.1:8786.",
)
@calibration_options(64)
@seed_option
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the sweep; resumed if it exists.  [default: sweep in the first RUN]",
)
@location_options
@json_option
@debug_option
def sweep(
    runs: tuple[Path, ...],
    tasks: list[str] | None,
    layers: list[str],
    size: str,
    seeds: list[int],
    flags: list[str],
    methods: list[str] | None,
    ratios: list[float],
    recalibrate: list[str],
    reconstruct: list[str],
    finetune: int,
    finetune_rate: float,
    distill: bool,
    paired: bool,
    baseline: str | None,
    limit: int | None,
    jobs: int,
    scheduler: str | None,
    sequences: int,
    budget: str,
    seed: int,
    folder: Path | None,
    location: DataLocation,
    as_json: bool,
) -> None:
    """Accuracy of RUNS (default: the newest trained run), pruned by each method at each ratio.

    Runs that differ only in their seed give means and ranges; other runs have tables of their own.
    The sweep writes each result when it is measured. To resume an interrupted sweep, run the same
    command again.
    """
    if not tasks:
        names = {"layers": "--layer", "size": "--size", "seeds": "--seeds", "flags": "--train"}
        require_flag(names, "--task")
    if not finetune:
        require_flag({"finetune_rate": "--finetune-rate", "distill": "--distill"}, "--finetune")
    methods = methods or list(lastax.METHODS)
    _check_methods(methods, recalibrate, reconstruct)
    if not paired:
        require_flag({"baseline": "--baseline"}, "--paired")
    baseline = _checked_baseline(baseline or methods[0], methods)
    grid = lastax.experiments.Grid(
        methods=tuple(methods),
        ratios=tuple(ratios),
        recalibrate=tuple(recalibrate),
        reconstruct=tuple(reconstruct),
        finetune=finetune,
        finetune_rate=finetune_rate,
        distill=distill,
        seed=seed,
        calibration=lastax.experiments.CalibrationOptions(sequences, budget),
        limit=limit,
    )
    if scheduler and jobs > 1:
        raise click.UsageError("--jobs and --scheduler exclude each other: leave one out")
    location = location.absolute()
    with _executor(jobs, scheduler) as executor:
        trained = trained_runs(
            tasks or [], layers, seeds, size=size, flags=flags, location=location, executor=executor
        )
        chosen = [*runs, *trained]
        chosen = chosen or [resolve_run(None)]
        for run in chosen:
            _warn_of_unstable_states(run)
        folder = folder or chosen[0] / "sweep"
        cells = _measure(chosen, grid, folder, location, executor)
    results = lastax.experiments.sweep_results(chosen, cells, ["lastax", *sys.argv[1:]])
    if paired:
        results["paired"] = lastax.experiments.paired_differences(cells, baseline)
    lastax.experiments.save_sweep(folder, results)
    groups = lastax.experiments.sweep_groups(cells)
    _draw(folder, groups)
    if as_json:
        emit(results | {"csv": str(folder / lastax.experiments.SWEEP_TABLE)})
    else:
        _print(folder, groups, grid.ratios, results)


def _check_methods(methods: list[str], recalibrate: list[str], reconstruct: list[str]) -> None:
    """Refuse options and names of methods that have no effect on the methods of the sweep."""
    for parameter, names in (("recalibrate", recalibrate), ("reconstruct", reconstruct)):
        flag = "--recalibrate-batch-norm" if parameter == "recalibrate" else "--reconstruct"
        others = [name for name in names if name not in methods]
        if others and is_given(parameter):
            raise click.UsageError(
                f"{flag} {others[0]}: {others[0]} is not among --methods; leave it out, or add it "
                "to --methods"
            )
    if not any(lastax.METHODS[name].uses_budget for name in methods):
        require_flag({"budget": "--budget"}, "calibrated among --methods")
    followed = {*recalibrate, *reconstruct} & set(methods)
    if not followed and not any(lastax.METHODS[name].needs_calibration for name in methods):
        require_flag({"sequences": "--calibration"}, "a method that uses calibration data")


def _checked_baseline(baseline: str, methods: list[str]) -> str:
    known = (UNPRUNED, *methods)
    if baseline not in known:
        raise click.UsageError(f"--baseline {baseline}: choose one of {', '.join(known)}")
    return baseline


def _warn_of_unstable_states(run: Path) -> None:
    _, model = lastax.training.load_run(run)
    unstable = [(abs(system.lam) >= 1).tolist() for system in lastax.systems(model)]
    report_unstable(unstable, f"{run.name}, ")


def _measure(
    runs: list[Path],
    grid: lastax.experiments.Grid,
    folder: Path,
    location: DataLocation,
    executor: Executor | None,
) -> list[dict[str, Any]]:
    """All cells of the grid, with a progress bar."""
    with Counter("sweep") as counter:
        return lastax.experiments.sweep(
            runs,
            grid,
            folder,
            location.open,
            executor=executor,
            on_start=counter.start,
            on_cell=lambda cell: counter.update(
                f"{Path(cell['run']).name} {cell['method']} {cell['ratio']:g}"
            ),
        )


def _print(
    folder: Path,
    groups: Mapping[str, lastax.experiments.SweepCurves],
    ratios: tuple[float, ...],
    results: Mapping[str, Any],
) -> None:
    """The tables, and the files that were written."""
    print_sweep(groups, ratios, results)
    files = (
        lastax.experiments.SWEEP_TABLE,
        lastax.experiments.SWEEP_RESULTS,
        lastax.experiments.SWEEP_FIGURE,
    )
    out.print(", ".join(str(folder / name) for name in files))


def _executor(jobs: int, scheduler: str | None) -> AbstractContextManager[Executor | None]:
    """The workers that were asked for; None for this process."""
    if scheduler:
        return lastax.experiments.scheduler_cluster(scheduler, prepare=prepare_worker)
    if jobs > 1:
        return lastax.experiments.local_cluster(jobs, prepare=prepare_worker)
    return contextlib.nullcontext()


def prepare_worker() -> None:
    """What each worker does first."""
    import_named_modules()
    keep_compiled_programs()


def _draw(folder: Path, groups: Mapping[str, lastax.experiments.SweepCurves]) -> None:
    picture = io.BytesIO()
    lastax.plots.draw_sweep(groups).savefig(picture, format="png", dpi=110)
    lastax.serialization.write_atomically(
        folder / lastax.experiments.SWEEP_FIGURE, picture.getvalue()
    )
