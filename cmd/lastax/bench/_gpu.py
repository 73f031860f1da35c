"""`lastax bench gpu`: recurrences and networks of the full-scale sizes on a GPU."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import click
import jax

from lastax.cmd._console import out
from lastax.cmd._options import debug_option
from lastax.cmd.bench import _recurrence, _train_step
from lastax.cmd.bench._comparison import Suite, print_results, repeats_option, run_suite
from lastax.cmd.bench._measure import measure_machine
from lastax.cmd.bench._programs import GPU_METHODS, PAPER_SHAPES
from lastax.serialization import write_atomically

NO_GPU = (
    "JAX found no GPU, so nothing was run. Install JAX for GPUs, for example "
    "`pip install 'jax[cuda13]'`."
)
SUITES = (
    Suite(
        _recurrence.SUITE.name,
        _recurrence.SUITE.summary,
        functools.partial(_recurrence.recurrence_programs, methods=GPU_METHODS),
    ),
    _train_step.SUITE,
)


@click.command("gpu")
@click.option(
    "--shape",
    "shapes",
    type=click.Choice(list(PAPER_SHAPES)),
    multiple=True,
    help="Shape to time; repeatable.  [default: all]",
)
@repeats_option
@click.option(
    "--out",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all measurements to this JSON file.",
)
@debug_option
def gpu(shapes: tuple[str, ...], repeats: int, file: Path | None) -> None:
    """Time recurrences and networks of the full-scale sizes on a GPU.

    Compares lastax with the reference implementation. Networks have two layers, and the batch size
    of their preset. Without a GPU, the command prints a message and succeeds.
    """
    device = jax.devices()[0]
    if device.platform != "gpu":
        out.print(NO_GPU)
        return
    # Compile times are part of the result, so no program may come from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    machine = measure_machine(size=8192, length=2**28)
    measured: list[dict[str, Any]] = []
    for suite in SUITES:
        results = run_suite(
            suite,
            shapes or tuple(PAPER_SHAPES),
            repeats=repeats,
            machine=machine,
            threads=os.cpu_count() or 1,
        )
        results["device"] = device.device_kind
        print_results(results, suite)
        measured.append(results)
    if file is not None:
        content = {"jax": jax.__version__, "device": device.device_kind, "suites": measured}
        write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
