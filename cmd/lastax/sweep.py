"""`lastax sweep`."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
from rich.table import Table

import lastax
from lastax._errors import RunError
from lastax.cmd._console import (
    RUNS,
    Counter,
    emit,
    err,
    keep_compiled_programs,
    out,
    report_unstable,
    resolve_run,
)
from lastax.cmd._options import (
    DataLocation,
    MethodName,
    calibration_options,
    debug_option,
    finetune_rate_option,
    json_option,
    limit_option,
    location_options,
    require_flag,
    seed_option,
)
from lastax.cmd._tables import print_table

UNIDIRECTIONAL = "-unidirectional"
# `lastax.experiments` has the same value; loading it takes seconds.
RECONSTRUCTION_STEPS = 100


class Several(click.ParamType):
    """Values separated by commas."""

    def __init__(self, name: str, one: Callable[[str], Any], *, may_be_empty: bool = False) -> None:
        self.name = name
        self._one = one
        self._may_be_empty = may_be_empty

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Any]:
        """From text to the list of different values."""
        if isinstance(value, list):
            return value
        if self._may_be_empty and not value.strip():
            return []
        try:
            return list(dict.fromkeys(self._one(part) for part in value.split(",")))
        except ValueError as error:
            self.fail(f"{value!r} is no list of {self.name} with commas: {error}", param, ctx)


# The sweep chooses these flags of `lastax train` itself, or they train nothing.
_OWN_FLAGS = (
    *("--task", "--layer", "--size", "--seed", "--out", "--resume", "--if-missing", "--from"),
    *("--data-dir", "--data", "--json", "--debug", "--help", "-h", "--show-settings"),
)


class _Flags(click.ParamType):
    """Flags of `lastax train` for a sweep, as a shell reads them."""

    name = "flags"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """From text to the list of words."""
        try:
            words = shlex.split(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        for word in words:
            if word.partition("=")[0] in _OWN_FLAGS:
                self.fail(f"{word} cannot be changed here; the sweep sets it", param, ctx)
        return words


def _ratio(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number, as in 0.1,0.3") from None
    if not 0 <= number < 1:
        raise ValueError(f"{text} must be at least 0 and below 1")
    return number


def _one_of(known: Callable[[], list[str]], what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in known():
            raise ValueError(f"no {what} {text!r}; choose one of {', '.join(known())}")
        return text

    return check


def _layers() -> list[str]:
    kinds = lastax.training.allowed_values(lastax.ModelConfig)["layer"].choices
    return [*kinds, *(kind + UNIDIRECTIONAL for kind in kinds)]


_METHOD = _one_of(lambda: MethodName().choices, "method")
METHOD_NAMES = Several("methods", _METHOD)
METHOD_NAMES_OR_NONE = Several("methods", _METHOD, may_be_empty=True)
TASK_NAMES = Several("tasks", _one_of(lambda: list(lastax.training.TASKS), "task"))
LAYER_NAMES = Several("layers", _one_of(_layers, "layer"))


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
    type=_Flags(),
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
    type=Several("numbers", _ratio),
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
    help="Also print paired differences to the first method, with intervals.",
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
    grid = lastax.experiments.Grid(
        methods=tuple(methods or lastax.METHODS),
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
        chosen = [*runs, *_trained(tasks or [], layers, size, seeds, flags, location, executor)]
        chosen = chosen or [resolve_run(None)]
        for run in chosen:
            _warn_of_unstable_states(run)
        folder = folder or chosen[0] / "sweep"
        cells = _measure(chosen, grid, folder, location, executor)
    results = lastax.experiments.sweep_results(chosen, cells, ["lastax", *sys.argv[1:]])
    if paired:
        results["paired"] = lastax.experiments.paired_differences(cells, grid.methods[0])
    lastax.experiments.save_sweep(folder, results)
    groups = lastax.experiments.sweep_groups(cells)
    _draw(folder, groups)
    if as_json:
        emit(results | {"csv": str(folder / lastax.experiments.SWEEP_TABLE)})
    else:
        _print(folder, groups, grid.ratios, results)


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
    for group, curves in groups.items():
        print_table(_table(group, curves, ratios))
    print_table(_summary_table(results["summary"]))
    for (group, baseline), rows in itertools.groupby(
        results.get("paired", []), lambda row: (row["group"], row["baseline"])
    ):
        print_table(_paired_table(f"{group}: test accuracy minus that of {baseline}", rows))
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
    # `main` imports this module, so it can only be imported here.
    from lastax.cmd.main import import_named_modules

    import_named_modules()
    keep_compiled_programs()


def _trained(
    tasks: list[str],
    layers: list[str],
    size: str,
    seeds: list[int],
    flags: list[str],
    location: DataLocation,
    executor: Executor | None,
) -> list[Path]:
    """Runs of presets; those that do not exist yet are trained by `lastax train`."""
    found, missing = [], []
    changes = "".join("-" + re.sub(r"[^\w.]+", "-", word).strip("-") for word in flags)
    for task, layer, seed in itertools.product(tasks, layers, seeds):
        kind = layer.removesuffix(UNIDIRECTIONAL)
        if (kind, size) not in lastax.training.TASKS[task].presets:
            raise click.UsageError(f"--task {task} --layer {kind}: there is no preset {size!r}")
        suffix = "" if size == "small" else f"-{size}"
        run = RUNS / task / f"{layer}{suffix}{changes}-seed{seed}"
        found.append(run)
        if (run / lastax.serialization.MODEL_FILE).is_file():
            continue
        command = ["train", "--task", task, "--layer", kind, "--size", size, "--seed", str(seed)]
        command += [*(["--no-bidirectional"] if layer != kind else []), *flags]
        command += ["--out", str(run)] + (["--resume"] if run.exists() else [])
        for flag, value in (("--data-dir", location.root), ("--data", location.data)):
            command += [] if value is None else [flag, str(value)]
        missing.append(command)
    # A worker may have another working directory.
    train = functools.partial(_train, folder=Path.cwd())
    statuses = (map if executor is None else executor.map)(train, missing)
    for command, status in zip(missing, statuses, strict=True):
        if status:
            raise RunError(f"lastax {shlex.join(command)} ended with status {status}")
    return found


def _train(command: list[str], folder: Path) -> int:
    err.print(f"lastax {shlex.join(command)}")
    program = [sys.executable, "-m", "lastax.cmd.main"]
    return subprocess.run([*program, *command], cwd=folder, check=False).returncode


def _draw(folder: Path, groups: Mapping[str, lastax.experiments.SweepCurves]) -> None:
    picture = io.BytesIO()
    lastax.plots.draw_sweep(groups).savefig(picture, format="png", dpi=110)
    lastax.serialization.write_atomically(
        folder / lastax.experiments.SWEEP_FIGURE, picture.getvalue()
    )


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
