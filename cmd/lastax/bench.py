"""`lastax bench`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import jax
from rich.box import SIMPLE_HEAD
from rich.table import Table

import lastax
from lastax.serialization import write_atomically
from lastax.cmd._bench_data import bench_data
from lastax.cmd._bench_paper import bench_paper
from lastax.cmd._bench_refit import bench_refit
from lastax.cmd._console import debug_option, emit, err, json_option, out, progress_bar
from lastax.cmd._measure import Machine, Measured, measure, measure_machine
from lastax.cmd._open import root_option
from lastax.cmd._programs import (
    SHAPES,
    Program,
    Shape,
    kernel_programs,
    layer_programs,
    prune_programs,
    recurrence_programs,
    seconds_to_prune,
    train_step_programs,
)

SUITES: Mapping[str, tuple[Callable[[Shape], dict[str, Program]], str]] = {
    "recurrence": (recurrence_programs, "public"),
    "layer": (layer_programs, "public"),
    "kernel": (kernel_programs, "public"),
    "train-step": (train_step_programs, "public"),
    "prune": (prune_programs, "ours"),
}
IMAGE = Shape(50, 1024, 512, 192, 6)
# A loss by more than this against the stored ratios is a failure.
TOLERATED = 0.25


@click.command()
@click.argument("suite", type=click.Choice([*SUITES, "data", "refit", "paper"]))
@click.option(
    "--shape",
    "shapes",
    type=click.Choice(list(SHAPES)),
    multiple=True,
    help="Which shapes; may be repeated.  [default: all]",
)
@click.option(
    "--task",
    "tasks",
    type=click.Choice(sorted(lastax.training.TASKS)),
    multiple=True,
    help="Of `data` and `paper`: which tasks; may be repeated.  [default: all there are]",
)
@click.option("--repeats", type=click.IntRange(1), default=7, help="Runs of each program.")
@click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the ratios in this file, for --check.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Fail if a ratio is more than 25 % worse than in this file.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the ratios into this picture.",
)
@click.option(
    "--gpu-teraflops",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Of `paper`: what a GPU is taken to reach, a tenth to a fifth of a current one's best.",
)
@click.option("--data", "path", help="Of `data`: your own, for a task that is read from there.")
@root_option
@json_option
@debug_option
def bench(
    suite: str,
    shapes: tuple[str, ...],
    tasks: tuple[str, ...],
    repeats: int,
    store: Path | None,
    check: Path | None,
    plot: Path | None,
    gpu_teraflops: float,
    path: str | None,
    root: Path | None,
    as_json: bool,
) -> None:
    """Time lastax beside the public way of computing the same, on this machine.

    The public way is one complex associative scan a direction, differentiated by JAX, complex
    products, and masks in place of pruning. All programs of a shape are run by turns; ratios are
    of medians. MiB are temporaries, `temp` their ratio; `roof` is the share of the time that the
    products and the memory traffic of a program would take at the rates that this machine reaches
    in the same run. `data` measures how fast batches come, and how fast training takes them,
    `refit` what the algebra of a calibrated refit takes, `paper` what training the full-scale
    presets would: one step of each is run, the rest is an estimate.
    """
    if suite == "data":
        bench_data(tasks, repeats=repeats, path=path, root=root, as_json=as_json)
        return
    if suite == "refit":
        bench_refit(repeats=repeats, as_json=as_json)
        return
    if suite == "paper":
        bench_paper(tasks=tasks, gpu_teraflops=gpu_teraflops, as_json=as_json)
        return
    # Compile times are part of the answer: none may come from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    build, baseline = SUITES[suite]
    machine = measure_machine()
    cases: list[dict[str, Any]] = []
    for shape in shapes or tuple(SHAPES):
        programs = build(SHAPES[shape])
        with progress_bar(f"{suite} {shape}") as bar:
            shown = bar.add_task("", total=len(programs), note="")

            def compiling(name: str, bar: Any = bar, shown: Any = shown) -> None:
                bar.update(shown, advance=1, note=f"compiling {name}")

            results = measure(
                {name: (one.function, one.arguments) for name, one in programs.items()},
                repeats=repeats,
                on_program=compiling,
            )
        cases += _cases(shape, programs, results, baseline, machine)
    answer: dict[str, Any] = {
        "suite": suite,
        "device": str(jax.devices()[0]),
        "gigaflops": machine.operations_per_second / 1e9,
        "gigabytes_per_second": machine.bytes_per_second / 1e9,
        "cases": cases,
    }
    if suite == "prune":
        answer["prune_seconds"] = seconds_to_prune(IMAGE)
    if plot is not None:
        title = f"{suite}: speed against {baseline}"
        lastax.plots.draw_speeds(_speeds(cases, baseline), title=title).savefig(plot, dpi=110)
    if store is not None:
        _store(store, suite, cases)
    if as_json:
        emit(answer)
    else:
        _show(answer, baseline)
    if check is not None:
        _check(check, suite, cases)


def _cases(
    shape: str,
    programs: dict[str, Program],
    results: dict[str, Measured],
    baseline: str,
    machine: Machine,
) -> list[dict[str, Any]]:
    cases = []
    for name, result in sorted(results.items(), key=lambda item: item[0].partition("/")[0]):
        what, _, who = name.partition("/")
        reference = results[f"{what}/{baseline}"]
        masked = results.get(f"{what}/{who.replace('ours', 'masked')}")
        work = programs[name].work
        roofline = machine.seconds(work.operations, work.bytes)
        case = {
            "name": f"{shape}/{name}",
            "shape": shape,
            "what": what,
            "who": who,
            "ratio": reference.median / result.median,
            "median_seconds": result.median,
            "spread": result.spread,
            "times": list(result.times),
            "compile_seconds": result.compile_seconds,
            "temporary_bytes": result.temporary_bytes,
            "temporary_ratio": result.temporary_bytes / max(reference.temporary_bytes, 1),
            "roofline_seconds": roofline,
            "share_of_roofline": roofline / result.median,
        }
        if masked is not None and "ours" in who:
            case["ratio_to_masked"] = masked.median / result.median
        cases.append(case)
    return cases


def _show(answer: dict[str, Any], baseline: str) -> None:
    table = Table(title=f"{answer['suite']}: times as fast as {baseline}, medians", box=SIMPLE_HEAD)
    pruned = answer["suite"] == "prune"
    names = ["ms", "±", "speed", "MiB", "temp", "compile", "roof"]
    if pruned:
        names.insert(3, "/masked")
    table.add_column("program", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for case in answer["cases"]:
        row = [
            f"{1e3 * case['median_seconds']:.1f}",
            f"{100 * case['spread']:.0f} %",
            f"{case['ratio']:.2f}",
            f"{case['temporary_bytes'] / 2**20:.0f}",
            f"{case['temporary_ratio']:.2f}",
            f"{case['compile_seconds']:.1f} s",
            f"{100 * case['share_of_roofline']:.0f} %",
        ]
        if pruned:
            masked = case.get("ratio_to_masked")
            row.insert(3, "" if masked is None else f"{masked:.2f}")
        table.add_row(f"{case['shape']} {case['what']}, {case['who']}", *row)
    out.print(table)
    out.print(
        f"this machine: {answer['gigaflops']:.0f} GFLOP/s in matrix products, "
        f"{answer['gigabytes_per_second']:.0f} GB/s to and from memory"
    )
    if "prune_seconds" in answer:
        out.print(
            "load, score, select, cut and save, 6 layers of 192 states and 512 channels: "
            f"{answer['prune_seconds']:.2f} s"
        )


def _speeds(cases: list[dict[str, Any]], baseline: str) -> dict[str, dict[str, list[float]]]:
    """The ratios of single runs, that of a turn against the baseline's of the same turn."""
    speeds: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        reference = next(
            other
            for other in cases
            if (other["shape"], other["what"]) == (case["shape"], case["what"])
            and other["who"] == baseline
        )
        if case is not reference:
            turns = zip(reference["times"], case["times"], strict=True)
            group = speeds.setdefault(f"{case['shape']} {case['what']}", {})
            group[case["who"]] = [one / other for one, other in turns]
    return speeds


def _ratios(cases: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    kept = ("ratio", "temporary_ratio", "ratio_to_masked")
    return {
        case["name"]: {name: round(case[name], 3) for name in kept if name in case}
        for case in cases
    }


def _store(path: Path, suite: str, cases: list[dict[str, Any]]) -> None:
    stored = json.loads(path.read_text()) if path.is_file() else {}
    stored[suite] = stored.get(suite, {}) | _ratios(cases)
    write_atomically(path, (json.dumps(stored, indent=1) + "\n").encode())


def _check(path: Path, suite: str, cases: list[dict[str, Any]]) -> None:
    """Compare with stored ratios.

    Raises:
        RunError: if one is worse by more than a quarter, or none could be compared.
    """
    stored = json.loads(path.read_text()).get(suite, {})
    worse, compared = [], 0
    for name, ratios in _ratios(cases).items():
        for kind, now in ratios.items():
            before = stored.get(name, {}).get(kind)
            if before is None:
                continue
            compared += 1
            # Of temporaries more is worse, of speed less.
            loss = now / before - 1 if kind == "temporary_ratio" else before / now - 1
            if loss > TOLERATED:
                worse.append(f"{name} {kind} {now:.2f}, was {before:.2f}")
    if not compared:
        raise lastax.serialization.RunError(f"{path} has no ratio of {suite} to compare with: --store makes them")
    if worse:
        raise lastax.serialization.RunError(f"slower than {path} tells: {'; '.join(worse)}")
    err.print(f"{compared} ratios are within {100 * TOLERATED:.0f} % of {path}")
