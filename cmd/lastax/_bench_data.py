"""`lastax bench data`: how fast batches come, beside how fast training takes them."""

import contextlib
import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import equinox as eqx
import jax
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import emit, err, out
from lastax.cmd._flags import data_config
from lastax.cmd._open import data_settings, open_data
from lastax.data import DATASETS, Batch, Data, data_folder, training_batches

WORKERS = (0, 1, 2)
_SECONDS = 3.0
# Batches that are made before the clock starts: worker processes have to come up.
_BEFORE = 8


def bench_data(
    tasks: Sequence[str], *, repeats: int, path: str | None, root: Path | None, as_json: bool
) -> None:
    """Measure the tasks, or all whose data are here, and print a table or one object."""
    folder = data_folder(root)
    here = [name for name in lastax.training.TASKS if DATASETS[lastax.training.TASKS[name].data.name].present(folder)]
    if not tasks and not here:
        raise click.UsageError(f"no data below {folder}: `lastax data list` says how to get them")
    cases = []
    for task in tasks or here:
        preset = next(iter(lastax.training.TASKS[task].presets.values()))
        described = data_config(lastax.training.TASKS[task], preset)
        data = open_data(replace(described, **data_settings(task, {"data": path})), root)
        with err.status(f"measuring {task}"):
            cases.append({"task": task, **_measure(preset, data, repeats)})
    if as_json:
        emit({"suite": "data", "device": str(jax.devices()[0]), "cases": cases})
    else:
        out.print(_table(cases))


def _measure(preset: lastax.training.Preset, data: Data, repeats: int) -> dict[str, Any]:
    """Samples a second that come, by number of workers, and that the preset takes."""
    size = preset.training.batch_size
    streams = {
        workers: training_batches(
            data.sources["train"],
            batch_size=size,
            seed=0,
            augment=data.augment if preset.training.augment else None,
            workers=workers,
        )
        for workers in WORKERS
    }
    rates = {}
    for workers, stream in streams.items():
        with contextlib.closing(stream):
            batch = [next(stream) for _ in range(_BEFORE)][-1]
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
        "appetite": size / seconds,
    }


def _step_seconds(preset: lastax.training.Preset, data: Data, batch: Batch, repeats: int) -> float:
    """Median time of a training step of a preset."""
    network = lastax.build_network(
        preset.model,
        input_size=data.input_size,
        classes=len(data.classes),
        key=jax.random.key(0),
    )
    training = preset.training
    optimizer = lastax.training.make_optimizer(
        training.learning_rate, training.ssm_learning_rate, weight_decay=training.weight_decay
    )
    step = eqx.filter_jit(
        functools.partial(lastax.training.train_step, optimizer=optimizer, key=jax.random.key(1))
    )
    state = lastax.training.TrainState.initialize(network, optimizer)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics.loss)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))  # the first one compiles


def _table(cases: list[dict[str, Any]]) -> Table:
    table = Table(title="samples a second, by worker processes; what the small preset takes")
    for name in (
        "task",
        "steps",
        "batch",
        *(f"{n} workers" for n in WORKERS),
        "taken",
        "ms a step",
    ):
        table.add_column(name, justify="left" if name == "task" else "right")
    for case in cases:
        table.add_row(
            case["task"],
            f"{case['length']:,}",
            str(case["batch_size"]),
            *(f"{case['samples_per_second'][str(n)]:,.0f}" for n in WORKERS),
            f"{case['appetite']:,.0f}",
            f"{1e3 * case['step_seconds']:.0f}",
        )
    return table
