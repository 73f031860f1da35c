"""`lastax bench gpu`: recurrences and networks of the full-scale sizes on a GPU."""

import dataclasses
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import click
import jax

from lastax.cmd._console import err, out
from lastax.cmd._options import debug_option
from lastax.cmd.bench._comparison import Suite, print_results, repeats_option, run_suite
from lastax.cmd.bench._measure import measure_machine
from lastax.cmd.bench._programs import (
    GPU_METHODS,
    LASTAX,
    PAPER_SHAPES,
    REFERENCE,
    Program,
    Shape,
    build_network,
    network_programs,
    with_settings,
)
from lastax.cmd.bench._prune import pruned_networks
from lastax.cmd.bench._recurrence import layer_recurrence_programs
from lastax.cmd.bench._reference import reference_network
from lastax.nn import PRECISIONS, with_precision
from lastax.serialization import RunError, write_atomically

NO_GPU = (
    "JAX found no GPU, so nothing was run. Install JAX for GPUs, for example "
    "`pip install 'jax[cuda13]'`, or pass --dry-run."
)
# For --dry-run.
TINY = Shape(batch=2, length=12, channels=4, states=6, layers=1)
# Least duration of a timed run, in seconds. A call takes about 0.1 ms on the host.
RUN_SECONDS = 0.02


def precision_programs(shape: Shape) -> dict[str, Program]:
    """Evaluation and training in each precision, and the reference implementation in TF32."""
    network = build_network(shape)
    networks = {REFERENCE: with_precision(reference_network(network), PRECISIONS["tf32"])} | {
        f"{LASTAX}, {name}": with_precision(network, one) for name, one in PRECISIONS.items()
    }
    return network_programs(shape, networks)


def pruned_programs(shape: Shape) -> dict[str, Program]:
    """Evaluation and training without 80 % of the states, which are removed or masked."""
    network = build_network(shape)
    networks = {LASTAX: network} | pruned_networks(network, (0.8,))
    return network_programs(
        shape, {name: with_precision(one, PRECISIONS["tf32"]) for name, one in networks.items()}
    )


def depth_programs(shape: Shape) -> dict[str, Program]:
    """A training step of a deeper network in TF32, whose blocks are compiled one by one or once."""
    shape = dataclasses.replace(shape, layers=3 * shape.layers)
    network = with_precision(build_network(shape), PRECISIONS["tf32"])
    step = network_programs(shape, {LASTAX: network})[f"training/{LASTAX}"]
    return {
        f"training/{LASTAX}": step,
        f"training/{LASTAX}, scan layers": with_settings(step, scan_layers=True),
        f"training/{LASTAX}, remat": with_settings(step, remat=True),
    }


# By name: the programs, and the shapes that they run in by default.
SUITES: dict[str, tuple[Suite, tuple[str, ...]]] = {
    suite.name: (suite, shapes)
    for suite, shapes in (
        (
            Suite(
                "recurrence",
                "The recurrence as layers use it.",
                functools.partial(layer_recurrence_programs, methods=GPU_METHODS),
            ),
            tuple(PAPER_SHAPES),
        ),
        (
            Suite("networks", "Networks of two layers.", precision_programs),
            tuple(PAPER_SHAPES),
        ),
        (
            Suite(
                "pruned",
                "Networks of two layers in TF32, without 80 % of the states.",
                pruned_programs,
                baseline=LASTAX,
                described="the unpruned network",
            ),
            ("paper/text", "paper/speech35"),
        ),
        (
            Suite(
                "depth",
                "Networks of six layers.",
                depth_programs,
                baseline=LASTAX,
                described="layers that are compiled one by one",
            ),
            ("paper/text",),
        ),
    )
}


@click.command("gpu")
@click.option(
    "--suite",
    "suites",
    type=click.Choice(list(SUITES)),
    multiple=True,
    help="Programs to time; repeatable.  [default: all]",
)
@click.option(
    "--shape",
    "shapes",
    type=click.Choice(list(PAPER_SHAPES)),
    multiple=True,
    help="Shape to time; repeatable.  [default: those of each suite]",
)
@repeats_option
@click.option("--dry-run", is_flag=True, help="Run all programs in a tiny size, on any device.")
@click.option(
    "--out",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all measurements to this JSON file.",
)
@debug_option
def gpu(
    suites: tuple[str, ...], shapes: tuple[str, ...], repeats: int, dry_run: bool, file: Path | None
) -> None:
    """Time recurrences and networks of the full-scale sizes on a GPU.

    `recurrence` times the recurrence as layers use it. `networks` compares two-layer networks with
    the reference implementation in TF32: evaluation and training in each precision. `pruned`
    compares networks without 80 % of the states with the unpruned network, and with masked ones.
    `depth` times training steps of six layers, compiled one by one or once. Batch sizes are those
    of the presets. Speedups are relative to the reference implementation, to the unpruned network
    (`pruned`), or to layers that are compiled one by one (`depth`).

    A program that fails is reported, and the others run. The file is written after each shape.
    With `--dry-run`, the file and the tables say so, because times of the tiny size mean nothing.
    Without a GPU, the command prints a message and succeeds.
    """
    device = jax.devices()[0]
    if device.platform != "gpu" and not dry_run:
        out.print(NO_GPU)
        return
    if not dry_run:
        # Compile times are part of the result, so no program may come from the cache.
        jax.config.update("jax_enable_compilation_cache", False)
    rates = {"size": 64, "length": 1024} if dry_run else {"size": 8192, "length": 2**28}
    machine = measure_machine(**rates, precisions=tuple(PRECISIONS))
    measured: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}

    def record(suite: str, name: str, error: Exception) -> None:
        first = str(error).strip().partition("\n")[0]
        failed[f"{suite} {name}"] = f"{type(error).__name__}: {first}"
        err.print(f"bench gpu: {suite} {name} failed: {type(error).__name__}: {first}")

    for name in suites or SUITES:
        suite, usual = SUITES[name]
        chosen = {"tiny": TINY} if dry_run else {key: PAPER_SHAPES[key] for key in shapes or usual}
        started = time.perf_counter()
        cases: list[dict[str, Any]] = []
        for shape, sizes in chosen.items():
            results = run_suite(
                suite,
                {shape: sizes},
                repeats=repeats,
                seconds=0.0 if dry_run else RUN_SECONDS,
                machine=machine,
                threads=os.cpu_count() or 1,
                on_failure=functools.partial(record, name),
            )
            results |= {"device": device.device_kind, "dry_run": dry_run}
            print_results(results, suite)
            cases += results["cases"]
            seconds = time.perf_counter() - started
            measured[name] = results | {"cases": cases, "seconds": seconds}
            if file is not None:
                content = {"jax": jax.__version__, "device": device.device_kind, "dry_run": dry_run}
                content |= {"suites": list(measured.values()), "failed": failed}
                write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
    if failed:
        raise RunError(f"bench gpu: {len(failed)} programs failed: {', '.join(failed)}")
