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
from lastax.cmd.bench._measure import Machine, Timing, measure, measure_machine
from lastax.cmd.bench._programs import ALL_SHAPES, LASTAX, REFERENCE, SHAPES, Program, Shape
from lastax.serialization import RunError, write_atomically

# Relative loss against a stored ratio at which `--check` fails.
TOLERANCE = 0.25
_STORED = ("speedup", "temporary_ratio", "speedup_over_masked")

_Case = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Suite:
    """Programs that are compared with each other.

    Attributes:
        name: name of the command.
        summary: help of the command.
        programs: builds the programs of a shape, by `operation/implementation`.
        baseline: implementation that all others are compared with.
        prune_seconds: measures a full `lastax prune`; None for suites without it.
    """

    name: str
    summary: str
    programs: Callable[[Shape], dict[str, Program]]
    baseline: str = REFERENCE
    prune_seconds: Callable[[], float] | None = None


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
        results = run_suite(suite, shapes or tuple(SHAPES), repeats=repeats)
        cases = results["cases"]
        if plot is not None:
            title = f"{suite.name}: speedup over {_described(suite.baseline)}"
            figure = lastax.plots.draw_speeds(_times(cases), suite.baseline, title=title)
            figure.savefig(plot, dpi=110)
        if store is not None:
            store_ratios(store, suite.name, cases)
        if as_json:
            emit(results)
        else:
            print_results(results, suite)
        if check is not None:
            compared = check_ratios(check, suite.name, cases)
            err.print(f"{compared} ratios are within {100 * TOLERANCE:.0f} % of {check}")

    command.help = (
        f"{suite.summary}\n\n"
        f"Speedups are ratios of median times; the baseline is {_described(suite.baseline)}. "
        "All programs of a shape run in turns. `temporaries` are temporary arrays in MiB, and "
        "`ratio` divides them by those of the baseline. `roofline` is the share of the time that "
        "the matrix products and the memory traffic of a program need at the rates that this "
        "machine reaches in the same run."
    )
    return command


def run_suite(
    suite: Suite,
    shapes: Sequence[str],
    *,
    repeats: int,
    machine: Machine | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Time the programs of all shapes.

    Args:
        suite: the programs.
        shapes: names of the shapes.
        repeats: timed runs per program.
        machine: rates of the machine; measured by default.
        threads: number of programs that are compiled at the same time.

    Returns:
        The rates of the machine, and one record per program under "cases".
    """
    machine = measure_machine() if machine is None else machine
    cases: list[_Case] = []
    for shape in shapes:
        programs = suite.programs(ALL_SHAPES[shape])
        timings = _time(f"{suite.name} {shape}", programs, repeats, threads)
        cases += _cases(shape, programs, timings, suite.baseline, machine)
    results: dict[str, Any] = {
        "suite": suite.name,
        "device": str(jax.devices()[0]),
        "gigaflops": machine.operations_per_second / 1e9,
        "gigabytes_per_second": machine.bytes_per_second / 1e9,
        "cases": cases,
    }
    if suite.prune_seconds is not None:
        results["prune_seconds"] = suite.prune_seconds()
    return results


def store_ratios(path: Path, suite: str, cases: Sequence[_Case]) -> None:
    """Add the ratios of a suite to a file; ratios of other programs stay."""
    stored = json.loads(path.read_text()) if path.is_file() else {}
    stored[suite] = stored.get(suite, {}) | _ratios(cases)
    write_atomically(path, (json.dumps(stored, indent=1) + "\n").encode())


def check_ratios(path: Path, suite: str, cases: Sequence[_Case]) -> int:
    """Compare ratios with those of a file.

    Returns:
        The number of ratios that were compared.

    Raises:
        RunError: if a ratio is worse by more than `TOLERANCE`, or the file has none of the suite.
    """
    stored = json.loads(path.read_text()).get(suite, {})
    worse, compared = [], 0
    for name, ratios in _ratios(cases).items():
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
        raise RunError(f"{path} has no ratio of {suite}: write some with --store")
    if worse:
        raise RunError(f"worse than in {path}: {'; '.join(worse)}")
    return compared


def _time(
    label: str, programs: Mapping[str, Program], repeats: int, threads: int
) -> dict[str, Timing]:
    with progress_bar(label) as bar:
        task = bar.add_task("", total=len(programs), note="")
        return measure(
            {name: (one.function, one.arguments) for name, one in programs.items()},
            repeats=repeats,
            threads=threads,
            on_progress=lambda name: bar.update(task, advance=1, note=f"compiling {name}"),
        )


def _cases(
    shape: str,
    programs: Mapping[str, Program],
    timings: Mapping[str, Timing],
    baseline: str,
    machine: Machine,
) -> list[_Case]:
    cases = []
    for name, timing in sorted(timings.items(), key=lambda item: item[0].partition("/")[0]):
        operation, _, implementation = name.partition("/")
        reference = timings[f"{operation}/{baseline}"]
        work = programs[name].work
        roofline = machine.seconds(work.operations, work.bytes)
        case = {
            "name": f"{shape}/{name}",
            "shape": shape,
            "operation": operation,
            "implementation": implementation,
            "speedup": reference.median / timing.median,
            "median_seconds": timing.median,
            "spread": timing.spread,
            "times": list(timing.times),
            "compile_seconds": timing.compile_seconds,
            "temporary_bytes": timing.temporary_bytes,
            "temporary_ratio": timing.temporary_bytes / max(reference.temporary_bytes, 1),
            "roofline_seconds": roofline,
            "share_of_roofline": roofline / timing.median,
        }
        masked = timings.get(f"{operation}/{implementation.replace(LASTAX, 'masked')}")
        if masked is not None and LASTAX in implementation:
            case["speedup_over_masked"] = masked.median / timing.median
        cases.append(case)
    return cases


def _table(results: Mapping[str, Any], suite: Suite) -> Table:
    title = f"{suite.name}: median times; speedup over {_described(suite.baseline)}"
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
            f"{case['speedup']:.2f}",
            f"{case['temporary_bytes'] / 2**20:.0f} MiB",
            f"{case['temporary_ratio']:.2f}",
            f"{case['compile_seconds']:.1f} s",
            f"{100 * case['share_of_roofline']:.0f} %",
        ]
        if masked:
            speedup = case.get("speedup_over_masked")
            row.insert(3, "" if speedup is None else f"{speedup:.2f}")
        table.add_row(f"{case['shape']} {case['operation']}, {case['implementation']}", *row)
    return table


def print_results(results: Mapping[str, Any], suite: Suite) -> None:
    """Print the table of a suite, and the rates of the machine."""
    print_table(_table(results, suite))
    out.print(
        f"this machine: {results['gigaflops']:.0f} GFLOP/s in matrix products, "
        f"{results['gigabytes_per_second']:.0f} GB/s of memory traffic"
    )
    if "prune_seconds" in results:
        out.print(
            "load, score, select, remove and save, 6 layers with 192 states and 512 channels: "
            f"{results['prune_seconds']:.2f} s"
        )


def _described(baseline: str) -> str:
    return "the reference implementation" if baseline == REFERENCE else "the unpruned network"


def _times(cases: Sequence[_Case]) -> dict[str, dict[str, list[float]]]:
    """Seconds of all runs, by operation and implementation."""
    times: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        operation = f"{case['shape']} {case['operation']}"
        times.setdefault(operation, {})[case["implementation"]] = case["times"]
    return times


def _ratios(cases: Sequence[_Case]) -> dict[str, dict[str, float]]:
    return {
        case["name"]: {name: round(case[name], 3) for name in _STORED if name in case}
        for case in cases
    }
