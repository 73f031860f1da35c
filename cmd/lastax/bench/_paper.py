"""`lastax bench paper`: the training cost of full-scale presets.

One training step runs on random records with the shapes of the published data sets; the rest is
estimated. No data are needed.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any, cast

import click
import equinox as eqx
import jax
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import emit, err
from lastax.cmd._options import debug_option, json_option
from lastax.cmd._tables import print_table
from lastax.nn import Network, Retrieval, split_trainable
from lastax.serialization import RunError
from lastax.training import TASKS, Preset, TrainingConfig


@dataclasses.dataclass(frozen=True)
class PublishedData:
    """Training split of a data set in the published comparison.

    Attributes:
        records: number of training records.
        length: steps per record.
        inputs: values per step; for tokens, size of the vocabulary.
        classes: number of classes.
        tokens: whether records are token ids.
    """

    records: int
    length: int
    inputs: int
    classes: int
    tokens: bool = False


DATA = {
    "listops": PublishedData(96_000, 2048, 20, 10, tokens=True),
    "text": PublishedData(25_000, 4096, 135, 2, tokens=True),
    "retrieval": PublishedData(147_086, 4000, 98, 2, tokens=True),
    "image": PublishedData(45_000, 1024, 1, 10),
    "pathfinder": PublishedData(160_000, 1024, 1, 2),
    "pathx": PublishedData(160_000, 16_384, 1, 2),
    "speech35": PublishedData(84_843, 16_000, 1, 35),
    "smnist": PublishedData(54_000, 784, 1, 10),
    "psmnist": PublishedData(54_000, 784, 1, 10),
    "scifar": PublishedData(45_000, 1024, 3, 10),
}
# Sequences of the timed step: the least for batch statistics, so that Path-X fits a laptop.
SEQUENCES = 2
# Weight, gradient and two moments in single precision.
_BYTES_PER_PARAMETER = 16


@click.command()
@click.option(
    "--task",
    "tasks",
    type=click.Choice(sorted(TASKS)),
    multiple=True,
    help="Task to estimate; repeatable.  [default: all with full-scale presets]",
)
@click.option(
    "--gpu-teraflops",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Assumed GPU rate, 10 to 20 % of a current peak.",
)
@json_option
@debug_option
def paper(tasks: tuple[str, ...], gpu_teraflops: float, as_json: bool) -> None:
    """Estimate the training cost of the full-scale presets.

    One training step of two sequences runs on this machine. Times and memory of a batch are
    proportional to its number of sequences; GPU hours are operations divided by an assumed rate.
    """
    cases: list[dict[str, Any]] = []
    for task, layer, preset in _presets(tasks):
        with err.status(f"{task} {layer}"):
            cases.append(_case(task, layer, preset, gpu_teraflops))
    if as_json:
        device = str(jax.devices()[0])
        emit({"suite": "paper", "device": device, "gpu_teraflops": gpu_teraflops, "cases": cases})
    else:
        print_table(_table(cases, gpu_teraflops))


def _table(cases: list[dict[str, Any]], gpu_teraflops: float) -> Table:
    table = Table(
        title=f"full-scale presets: a training step of {SEQUENCES} sequences measured on this "
        "machine; memory and days on this machine estimated from that step, GPU hours at "
        f"{gpu_teraflops:g} TFLOP/s"
    )
    table.add_column("preset")
    for name in (
        "parameters",
        "states",
        "training steps",
        "TFLOP per step",
        f"seconds, {SEQUENCES} sequences",
        "GiB per batch, --remat",
        "days",
        "GPU hours",
    ):
        table.add_column(name, justify="right")
    for case in cases:
        table.add_row(
            f"{case['task']} {case['layer']}",
            f"{case['parameters']:,}",
            f"{case['states']:,}",
            f"{case['steps']:,}",
            f"{case['operations_per_step'] / 1e12:.2g}",
            f"{case['measured_seconds']:.2f}",
            f"{case['estimated_bytes'] / 2**30:.1f}",
            f"{case['estimated_seconds'] / 86_400:.0f}",
            f"{case['estimated_gpu_seconds'] / 3600:.1f}",
        )
    return table


def _presets(tasks: tuple[str, ...]) -> Iterator[tuple[str, str, Preset]]:
    for task in tasks or tuple(DATA):
        if task not in DATA:
            raise RunError(f"{task} has no full-scale preset; choose from {', '.join(DATA)}")
        for (layer, size), preset in TASKS[task].presets.items():
            if size == "paper":
                yield task, layer, preset


def _case(task: str, layer: str, preset: Preset, gpu_teraflops: float) -> dict[str, Any]:
    data, model, training = DATA[task], preset.model, preset.training
    network = lastax.build_network(
        model,
        input_size=data.inputs,
        classes=data.classes,
        key=jax.random.key(0),
        tokens=data.tokens,
    )
    pairs = 2 if isinstance(network, Retrieval) else 1
    seconds, temporaries = _one_step(network, data, training)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(split_trainable(network)[0]))
    steps = training.epochs * math.ceil(data.records / training.batch_size)
    sequences = pairs * training.batch_size
    operations = 3 * sequences * data.length * _operations_per_position(network, data.length)
    counts = lastax.state_counts(network)
    share = sequences / (pairs * SEQUENCES)
    return {
        "task": task,
        "layer": layer,
        "parameters": parameters,
        "states": sum(counts),
        "batch_size": training.batch_size,
        "steps": steps,
        "operations_per_step": operations,
        "measured_seconds": seconds,
        "measured_temporary_bytes": temporaries,
        "estimated_bytes": int(temporaries * share) + _BYTES_PER_PARAMETER * parameters,
        "estimated_seconds": seconds * share * steps,
        "estimated_gpu_seconds": operations * steps / (1e12 * gpu_teraflops),
    }


def _operations_per_position(network: Network, length: int) -> int:
    """Operations of matrix products and Fourier transforms in all blocks, per sequence step."""
    total = 0
    for block in network.encoder.blocks:
        system = block.layer.system()
        channels, states = len(system.D), system.states
        directions = 1 if system.C_reverse is None else 2
        maps = sum(map_ is not None for map_ in (block.gate.value, block.gate.gate))
        total += 2 * maps * channels**2
        if isinstance(system, lastax.MultiSISO):
            # A convolution has three transforms of twice the length; kernels are computed once per
            # batch and do not count.
            total += directions * channels * math.ceil(30 * math.log2(2 * length))
        else:
            total += 4 * (1 + directions) * channels * states
    return total


def _one_step(network: Network, data: PublishedData, training: TrainingConfig) -> tuple[float, int]:
    """Seconds of the second training step, and bytes of temporary arrays."""
    rng = np.random.default_rng(0)
    records = (SEQUENCES, 2) if isinstance(network, Retrieval) else (SEQUENCES,)
    x: np.ndarray
    if data.tokens:
        x = rng.integers(data.inputs, size=(*records, data.length)).astype(np.int32)
    else:
        x = rng.normal(size=(*records, data.length, data.inputs)).astype(np.float32)
    batch = {"x": x, "label": np.arange(SEQUENCES, dtype=np.int32) % data.classes}
    optimizer = lastax.training.make_optimizer(
        training.learning_rate,
        training.ssm_learning_rate,
        weight_decay=training.weight_decay,
        grouping=training.grouping,
        step_size_global=training.step_size_global,
    )
    step = functools.partial(
        lastax.training.train_step, optimizer=optimizer, key=jax.random.key(1), remat=True
    )
    state = lastax.training.TrainState.initialize(network, optimizer)
    lowered: Any = cast(Any, eqx.filter_jit(step)).lower(state, batch)
    compiled = lowered.compile()
    temporaries = int(compiled.compiled.memory_analysis().temp_size_in_bytes)
    state, loss = compiled(state, batch)[:2]
    if not np.isfinite(float(jax.tree.leaves(loss)[0])):
        raise RunError("bench paper: the loss of the first step is not finite")
    started = time.perf_counter()
    jax.block_until_ready(compiled(state, batch))
    return time.perf_counter() - started, temporaries
