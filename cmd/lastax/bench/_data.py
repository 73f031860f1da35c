"""`lastax bench data`: throughput of the data pipelines, and what training needs."""

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import emit, err
from lastax.cmd._options import debug_option, json_option, root_option
from lastax.cmd._tables import print_table
from lastax.cmd.bench._comparison import repeats_option
from lastax.data import DATASETS, Batch, Data, data_folder, open_data
from lastax.training import TASKS, Preset

WORKERS = (0, 1, 2)
# Seconds for which batches are counted.
_SECONDS = 3.0
# Batches before that: worker processes need time to start.
_WARMUP_BATCHES = 8


@click.command()
@click.option(
    "--task",
    "tasks",
    type=click.Choice(sorted(TASKS)),
    multiple=True,
    help="Task to measure; repeatable.  [default: all with data]",
)
@click.option("--data", "path", help="Folder or file of your own data.")
@repeats_option
@root_option
@json_option
@debug_option
def data(
    tasks: tuple[str, ...], path: str | None, repeats: int, root: Path | None, as_json: bool
) -> None:
    """Measure samples per second: how many the pipeline delivers and how many training consumes."""
    folder = data_folder(root)
    chosen = tasks or tuple(
        name for name, task in TASKS.items() if DATASETS[task.data.name].present(folder)
    )
    if not chosen:
        raise click.UsageError(f"no data in {folder}: `lastax data list` shows how to get them")
    cases = []
    for name in chosen:
        task = TASKS[name]
        preset = next(iter(task.presets.values()))
        opened = open_data(task.data_for(preset), root, data=path)
        with err.status(f"measuring {name}"):
            cases.append({"task": name, **_case(preset, opened, repeats)})
    if as_json:
        emit({"suite": "data", "device": str(jax.devices()[0]), "cases": cases})
    else:
        print_table(_table(cases))


def _case(preset: Preset, data: Data, repeats: int) -> dict[str, Any]:
    """Samples per second, delivered by each number of workers and consumed by training."""
    size = preset.training.batch_size
    streams = {
        workers: data.training_batches(
            batch_size=size, seed=0, augment=preset.training.augment, workers=workers
        )
        for workers in WORKERS
    }
    rates = {}
    for workers, stream in streams.items():
        with contextlib.closing(stream):
            batch = [next(stream) for _ in range(_WARMUP_BATCHES)][-1]
            started, count = time.perf_counter(), 0
            while time.perf_counter() - started < _SECONDS:
                next(stream)
                count += 1
            rates[str(workers)] = size * count / (time.perf_counter() - started)
    seconds = _step_seconds(preset, data, batch, repeats)
    return {
        "batch_size": size,
        "length": data.length,
        "samples_per_second": rates,
        "step_seconds": seconds,
        "training_samples_per_second": size / seconds,
    }


def _step_seconds(preset: Preset, data: Data, batch: Batch, repeats: int) -> float:
    """Median time of a training step of a preset."""
    network = lastax.build_network(
        preset.model,
        input_size=data.input_size,
        classes=len(data.classes),
        key=jax.random.key(0),
        tokens=bool(data.vocabulary),
    )
    training = preset.training
    optimizer = lastax.training.make_optimizer(
        training.learning_rate, training.ssm_learning_rate, weight_decay=training.weight_decay
    )
    step = jax.jit(
        functools.partial(lastax.training.train_step, optimizer=optimizer, key=jax.random.key(1))
    )
    state = lastax.training.TrainState.initialize(network, optimizer)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics.loss)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))  # The first run compiles.


def _table(cases: list[dict[str, Any]]) -> Table:
    table = Table(
        title="samples per second: delivered by the pipeline, by number of worker processes, and "
        "consumed by training of the first preset"
    )
    for name in (
        "task",
        "steps",
        "batch",
        *(f"{workers} workers" for workers in WORKERS),
        "training",
        "ms per training step",
    ):
        table.add_column(name, justify="left" if name == "task" else "right")
    for case in cases:
        table.add_row(
            case["task"],
            f"{case['length']:,}",
            str(case["batch_size"]),
            *(f"{case['samples_per_second'][str(workers)]:,.0f}" for workers in WORKERS),
            f"{case['training_samples_per_second']:,.0f}",
            f"{1e3 * case['step_seconds']:.0f}",
        )
    return table
