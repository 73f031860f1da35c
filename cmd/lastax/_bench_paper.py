"""`lastax bench paper`: one training step of each full-scale preset, and what the whole would take.

Nothing here needs the data: records are random numbers of the published sets' shapes.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import emit, err, out


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set as the published comparison splits it; `tokens` are integers, not numbers."""

    records: int
    length: int
    inputs: int
    classes: int
    tokens: bool = False


DATA = {
    "listops": Published(96_000, 2048, 20, 10, tokens=True),
    "text": Published(25_000, 4096, 135, 2, tokens=True),
    "retrieval": Published(147_086, 4000, 98, 2, tokens=True),
    "image": Published(45_000, 1024, 1, 10),
    "pathfinder": Published(160_000, 1024, 1, 2),
    "pathx": Published(160_000, 16_384, 1, 2),
    "speech35": Published(84_843, 16_000, 1, 35),
    "smnist": Published(54_000, 784, 1, 10),
    "psmnist": Published(54_000, 784, 1, 10),
    "scifar": Published(45_000, 1024, 3, 10),
}
# Sequences of the timed step: enough for batch statistics, and Path-X fits a laptop.
SEQUENCES = 2
# Weights, gradients and two moments, in single precision.
_BYTES_A_PARAMETER = 16


def bench_paper(*, tasks: tuple[str, ...], gpu_teraflops: float, as_json: bool) -> None:
    """Run a step of every preset of size `paper`, and print a table or an object."""
    cases: list[dict[str, Any]] = []
    for task, kind, preset in _presets(tasks):
        with err.status(f"{task} {kind}"):
            cases.append(_case(task, kind, preset, gpu_teraflops))
    if as_json:
        device = str(jax.devices()[0])
        emit({"suite": "paper", "device": device, "gpu_teraflops": gpu_teraflops, "cases": cases})
        return
    table = Table(
        title=f"full-scale presets; a step of {SEQUENCES} sequences was run here, the right half "
        f"is an estimate: that step times the batch, GPU hours at {gpu_teraflops:g} TFLOP/s"
    )
    table.add_column("preset")
    for name in (
        "parameters",
        "states",
        "steps",
        "TFLOP a step",
        f"s for {SEQUENCES}",
        "GiB a batch, --remat",
        "days here",
        "GPU hours",
    ):
        table.add_column(name, justify="right", overflow="fold")
    for case in cases:
        table.add_row(
            f"{case['task']} {case['layer']}",
            f"{case['parameters']:,}",
            f"{case['states']:,}",
            f"{case['steps']:,}",
            f"{case['operations_a_step'] / 1e12:.2g}",
            f"{case['measured_seconds']:.2f}",
            f"{case['estimated_bytes'] / 2**30:.1f}",
            f"{case['estimated_seconds_here'] / 86_400:.0f}",
            f"{case['estimated_gpu_seconds'] / 3600:.1f}",
        )
    out.print(table)


def _presets(tasks: tuple[str, ...]) -> Iterator[tuple[str, str, lastax.training.Preset]]:
    for task in tasks or tuple(DATA):
        if task not in DATA:
            raise lastax.serialization.RunError(f"{task} has no full-scale preset; {', '.join(DATA)} have one")
        for (kind, size), preset in lastax.training.TASKS[task].presets.items():
            if size == "paper":
                yield task, kind, preset


def _case(task: str, kind: str, preset: lastax.training.Preset, gpu_teraflops: float) -> dict[str, Any]:
    data, model, training = DATA[task], preset.model, preset.training
    network = lastax.build_network(
        model, input_size=data.inputs, classes=data.classes, key=jax.random.key(0)
    )
    pairs = 2 if isinstance(network, lastax.nn.Retrieval) else 1
    seconds, temporaries = _one_step(network, data, training)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(lastax.nn.split_trainable(network)[0]))
    steps = training.epochs * math.ceil(data.records / training.batch_size)
    sequences = pairs * training.batch_size
    operations = 3 * sequences * data.length * _operations_a_row(network, data.length)
    counts = lastax.state_counts(network)
    share = sequences / (pairs * SEQUENCES)
    return {
        "task": task,
        "layer": kind,
        "parameters": parameters,
        "states": sum(counts),
        "batch_size": training.batch_size,
        "steps": steps,
        "operations_a_step": operations,
        "measured_seconds": seconds,
        "measured_temporary_bytes": temporaries,
        "estimated_bytes": int(temporaries * share) + _BYTES_A_PARAMETER * parameters,
        "estimated_seconds_here": seconds * share * steps,
        "estimated_gpu_seconds": operations * steps / (1e12 * gpu_teraflops),
    }


def _operations_a_row(network: lastax.nn.Network, length: int) -> int:
    """What the products and transforms of all blocks take for one step of one sequence."""
    total = 0
    for block in network.encoder.blocks:
        system = block.layer.system()
        channels, states = len(system.D), system.states
        directions = 1 if system.C_reverse is None else 2
        maps = sum(map_ is not None for map_ in (block.gate.value, block.gate.gate))
        total += 2 * maps * channels**2
        if isinstance(system, lastax.MultiSISO):
            # Convolution by three transforms of twice the length; the kernel is made once a batch.
            total += directions * channels * math.ceil(30 * math.log2(2 * length))
        else:
            total += 4 * (1 + directions) * channels * states
    return total


def _one_step(
    network: lastax.nn.Network, data: Published, training: lastax.training.TrainingConfig
) -> tuple[float, int]:
    """Seconds of a training step after the first one, and bytes of temporaries."""
    rng = np.random.default_rng(0)
    records = (SEQUENCES, 2) if isinstance(network, lastax.nn.Retrieval) else (SEQUENCES,)
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
        raise lastax.serialization.RunError("the first step's loss is not finite")
    started = time.perf_counter()
    jax.block_until_ready(compiled(state, batch))
    return time.perf_counter() - started, temporaries
