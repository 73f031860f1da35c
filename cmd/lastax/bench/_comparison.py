"""Comparison of implementations: the commands that time programs, store ratios and check them."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import jax
from rich.box import SIMPLE_HEAD
from rich.table import Table

import lastax
from lastax.cmd._console import emit, err, out, progress_bar
from lastax.cmd._options import debug_option, json_option
from lastax.cmd._tables import print_table
from lastax.cmd.bench._measure import (
    FLOAT32,
    CompiledProgram,
    Machine,
    OnFailure,
    Timing,
    compile_programs,
    measure_machine,
    raise_failure,
    run_in_turns,
)
from lastax.cmd.bench._programs import (
    ALL_SHAPES,
    LASTAX,
    MASKED,
    REFERENCE,
    SHAPES,
    Program,
    Shape,
)
from lastax.serialization import RunError, write_atomically

# Relative loss against a stored ratio at which `--check` fails.
TOLERANCE = 0.25
_STORED = ("speedup", "temporary_ratio", "speedup_over_masked")
# About the least duration of a timed run: shorter programs are called several times.
_RUN_SECONDS = 0.25

_Case = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Suite:
    """Programs that are compared with each other.

    Attributes:
        name: name of the command.
        summary: help of the command.
        programs: builds the programs of a shape, by `operation/implementation`.
        baseline: implementation that all others are compared with.
        described: how tables call the baseline.
        prune_seconds: measures a full `lastax prune`; None for suites without it.
    """

    name: str
    summary: str
    programs: Callable[[Shape], dict[str, Program]]
    baseline: str = REFERENCE
    described: str = "the reference implementation"
    prune_seconds: Callable[[], float] | None = None

    def checks(self, implementation: str) -> bool:
        """Whether `--check` compares this implementation: only unmasked ones of lastax."""
        others = (REFERENCE, MASKED)
        return implementation != self.baseline and not implementation.startswith(others)


_SHAPE = click.option(
    "--shape",
    "shapes",
    type=click.Choice(list(ALL_SHAPES)),
    multiple=True,
    help="Shape to time; repeatable.  [default: all but paper/...]",
)
_STORE = click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Add the ratios to this file, for --check.",
)
_CHECK = click.option(
    "--check",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Fail if a ratio is more than 25 % worse than in this file.",
)
_PLOT = click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the speedups to this file.",
)


def repeats_option(command: Callable) -> Callable:
    """`--repeats`."""
    return click.option(
        "--repeats", type=click.IntRange(1), default=7, help="Timed runs per program."
    )(command)


def comparison_command(suite: Suite) -> click.Command:
    """The command that times a suite."""

    @click.command(suite.name)
    @_SHAPE
    @repeats_option
    @_STORE
    @_CHECK
    @_PLOT
    @json_option
    @debug_option
    def command(
        shapes: tuple[str, ...],
        repeats: int,
        store: Path | None,
        check: Path | None,
        plot: Path | None,
        as_json: bool,
    ) -> None:
        # Compile times are part of the result, so no program may come from the cache.
        jax.config.update("jax_enable_compilation_cache", False)
        chosen = {name: ALL_SHAPES[name] for name in shapes or SHAPES}
        results = run_suite(suite, chosen, repeats=repeats, seconds=_RUN_SECONDS)
        cases = results["cases"]
        if plot is not None:
            title = f"{suite.name}: speedup over {suite.described}"
            figure = lastax.plots.draw_speeds(_times(cases), suite.baseline, title=title)
            figure.savefig(plot, dpi=110)
        if store is not None:
            store_ratios(store, suite, cases)
        if as_json:
            emit(results)
        else:
            print_results(results, suite)
        if check is not None:
            compared = check_ratios(check, suite, cases)
            err.print(f"{compared} ratios are within {100 * TOLERANCE:.0f} % of {check}")

    command.help = (
        f"{suite.summary}\n\n"
        f"Speedups are ratios of median times; the baseline is {suite.described}. "
        "All programs of a shape run in turns. `temporaries` are temporary arrays in MiB, and "
        "`ratio` divides them by those of the baseline. `roofline` is the share of the time that "
        "the matrix products and the memory traffic of a program need at the rates that this "
        "machine reaches in the same run."
    )
    return command


def run_suite(
    suite: Suite,
    shapes: Mapping[str, Shape],
    *,
    repeats: int,
    seconds: float = 0.0,
    machine: Machine | None = None,
    threads: int = 1,
    on_failure: OnFailure = raise_failure,
) -> dict[str, Any]:
    """Time the programs of all shapes.

    Args:
        suite: the programs.
        shapes: the shapes, by name.
        repeats: timed runs per program.
        seconds: least duration of a run, as in `run_in_turns`.
        machine: rates of the machine; measured by default.
        threads: number of programs of a shape that are compiled at the same time.
        on_failure: called for programs that cannot be compiled or run, as in `compile_programs`.

    Returns:
        The rates of the machine, and one record per program under "cases".
    """
    machine = measure_machine() if machine is None else machine
    cases: list[_Case] = []
    for shape, sizes in shapes.items():
        programs = {f"{shape}/{name}": program for name, program in suite.programs(sizes).items()}
        compiled = _compile(f"{suite.name} {shape}", programs, threads, on_failure)
        timings = run_in_turns(compiled, repeats=repeats, seconds=seconds, on_failure=on_failure)
        cases += _cases(shape, programs, timings, suite.baseline, machine)
    results: dict[str, Any] = {
        "suite": suite.name,
        "device": str(jax.devices()[0]),
        "gigaflops": machine.products[FLOAT32] / 1e9,
        "gigaflops_by_precision": {name: rate / 1e9 for name, rate in machine.products.items()},
        "gigabytes_per_second": machine.bytes_per_second / 1e9,
        "cases": cases,
    }
    if suite.prune_seconds is not None:
        results["prune_seconds"] = suite.prune_seconds()
    return results


def store_ratios(path: Path, suite: Suite, cases: Sequence[_Case]) -> None:
    """Add the ratios of a suite to a file; ratios of other shapes stay."""
    stored = json.loads(path.read_text()) if path.is_file() else {}
    shapes = tuple({f"{case['shape']}/" for case in cases})
    kept = {
        name: ratios
        for name, ratios in stored.get(suite.name, {}).items()
        if not name.startswith(shapes)
    }
    stored[suite.name] = kept | _ratios(suite, cases)
    write_atomically(path, (json.dumps(stored, indent=1) + "\n").encode())


def check_ratios(path: Path, suite: Suite, cases: Sequence[_Case]) -> int:
    """Compare the ratios of lastax's own programs with those of a file.

    Returns:
        The number of ratios that were compared.

    Raises:
        RunError: if a ratio is worse by more than `TOLERANCE`, or the file has none of the suite.
    """
    stored = json.loads(path.read_text()).get(suite.name, {})
    worse, compared = [], 0
    for name, ratios in _ratios(suite, cases).items():
        for key, now in ratios.items():
            before = stored.get(name, {}).get(key)
            if before is None:
                continue
            compared += 1
            # Temporaries should be few, speedups high.
            loss = now / before - 1 if key == "temporary_ratio" else before / now - 1
            if loss > TOLERANCE:
                worse.append(f"{name} {key} {now:.2f}, was {before:.2f}")
    if not compared:
        raise RunError(f"{path} has no ratio of {suite.name}: write some with --store")
    if worse:
        raise RunError(f"worse than in {path}: {'; '.join(worse)}")
    return compared


def _compile(
    label: str, programs: Mapping[str, Program], threads: int, on_failure: OnFailure
) -> dict[str, CompiledProgram]:
    with progress_bar(label) as bar:
        task = bar.add_task("", total=len(programs), note="")
        return compile_programs(
            {name: (one.function, one.arguments) for name, one in programs.items()},
            threads=threads,
            on_progress=lambda name: bar.update(task, advance=1, note=f"compiling {name}"),
            on_failure=on_failure,
        )


def _cases(
    shape: str,
    programs: Mapping[str, Program],
    timings: Mapping[str, Timing],
    baseline: str,
    machine: Machine,
) -> list[_Case]:
    """One record per program of a shape. Names are `shape/operation/implementation`."""
    cases = []
    for name, timing in sorted(timings.items(), key=lambda item: item[0].rpartition("/")[0]):
        before, _, implementation = name.rpartition("/")
        work = programs[name].work
        roofline = machine.seconds(work.operations, work.bytes, programs[name].precision)
        case = {
            "name": name,
            "shape": shape,
            "operation": before.removeprefix(f"{shape}/"),
            "implementation": implementation,
            "precision": programs[name].precision,
            "median_seconds": timing.median,
            "spread": timing.spread,
            "times": list(timing.times),
            "compile_seconds": timing.compile_seconds,
            "temporary_bytes": timing.temporary_bytes,
            "roofline_seconds": roofline,
            "share_of_roofline": roofline / timing.median,
        }
        reference = timings.get(f"{before}/{baseline}")
        if reference is not None:
            case["speedup"] = reference.median / timing.median
            case["temporary_ratio"] = timing.temporary_bytes / max(reference.temporary_bytes, 1)
        masked = timings.get(f"{before}/{implementation.replace(LASTAX, MASKED)}")
        if masked is not None and LASTAX in implementation:
            case["speedup_over_masked"] = masked.median / timing.median
        cases.append(case)
    return cases


def _table(results: Mapping[str, Any], suite: Suite) -> Table:
    title = f"{suite.name}: median times; speedup over {suite.described}"
    if results.get("dry_run"):
        title = f"{suite.name}: dry run with a tiny shape; its times and ratios mean nothing"
    table = Table(title=title, box=SIMPLE_HEAD)
    masked = any("speedup_over_masked" in case for case in results["cases"])
    names = ["time", "spread", "speedup", "temporaries", "ratio", "compile", "roofline"]
    if masked:
        names.insert(3, "over masked")
    table.add_column("program")
    for name in names:
        table.add_column(name, justify="right")
    for case in results["cases"]:
        row = [
            f"{1e3 * case['median_seconds']:.1f} ms",
            f"{100 * case['spread']:.0f} %",
            _number(case, "speedup"),
            f"{case['temporary_bytes'] / 2**20:.0f} MiB",
            _number(case, "temporary_ratio"),
            f"{case['compile_seconds']:.1f} s",
            f"{100 * case['share_of_roofline']:.0f} %",
        ]
        if masked:
            row.insert(3, _number(case, "speedup_over_masked"))
        table.add_row(f"{case['shape']} {case['operation']}, {case['implementation']}", *row)
    return table


def _number(case: _Case, name: str) -> str:
    return f"{case[name]:.2f}" if name in case else ""


def print_results(results: Mapping[str, Any], suite: Suite) -> None:
    """Print the table of a suite and, except for a dry run, the rates of the machine."""
    print_table(_table(results, suite))
    if results.get("dry_run"):
        return
    rates = ", ".join(
        f"{rate:.0f} GFLOP/s in {name} products"
        for name, rate in results["gigaflops_by_precision"].items()
    )
    traffic = f"{results['gigabytes_per_second']:.0f} GB/s of memory traffic"
    out.print(f"this machine: {rates}, {traffic}")
    if "prune_seconds" in results:
        out.print(
            "load, score, select, remove and save, 6 layers with 192 states and 512 channels: "
            f"{results['prune_seconds']:.2f} s"
        )


def _times(cases: Sequence[_Case]) -> dict[str, dict[str, list[float]]]:
    """Seconds of all runs, by operation and implementation."""
    times: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        operation = f"{case['shape']} {case['operation']}"
        times.setdefault(operation, {})[case["implementation"]] = case["times"]
    return times


def _ratios(suite: Suite, cases: Sequence[_Case]) -> dict[str, dict[str, float]]:
    """Ratios of lastax's own programs to the baseline."""
    return {
        case["name"]: {name: round(case[name], 3) for name in _STORED if name in case}
        for case in cases
        if suite.checks(case["implementation"])
    }
