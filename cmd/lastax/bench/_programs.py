"""Shapes of the benchmarks, and the programs that they time."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lastax
from lastax.cmd.bench._measure import FLOAT32
from lastax.nn import Network
from lastax.nn._precision import precision_name
from lastax.ssm import ScanMethod

# Names of implementations in tables and stored ratios.
REFERENCE, LASTAX, MASKED = "reference", "lastax", "masked"
METHODS: tuple[ScanMethod, ...] = ("associative", "chunked", "sequential")
GPU_METHODS: tuple[ScanMethod, ...] = ("associative", "pallas")
INPUT_SIZE = CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a benchmark task, small enough to be timed in seconds."""

    batch: int
    length: int
    channels: int
    states: int
    layers: int

    @property
    def steps(self) -> int:
        """Number of steps of all sequences."""
        return self.batch * self.length

    @property
    def model(self) -> lastax.ModelConfig:
        """The model configuration of a network of this shape."""
        return lastax.ModelConfig(
            layers=self.layers,
            channels=self.channels,
            states=self.states,
            precision=FLOAT32,
        )


SHAPES = {
    "listops": Shape(4, 2048, 128, 8, 8),
    "text": Shape(2, 2048, 256, 96, 2),
    "image": Shape(2, 1024, 256, 192, 2),
    "speech": Shape(1, 16000, 96, 64, 2),
    "short": Shape(32, 128, 64, 32, 4),
}

# Sizes and batch sizes of full-scale presets, with two layers, which compile in seconds.
PAPER_SHAPES = {
    "paper/listops": Shape(50, 2048, 128, 8, 2),
    "paper/text": Shape(50, 4096, 256, 96, 2),
    "paper/image": Shape(50, 1024, 512, 192, 2),
    "paper/speech35": Shape(16, 16_000, 96, 64, 2),
    "paper/pathx": Shape(32, 16_384, 128, 128, 2),
}
ALL_SHAPES = SHAPES | PAPER_SHAPES


@dataclasses.dataclass(frozen=True)
class Work:
    """The least work of a program: operations of its matrix products, and bytes moved."""

    operations: int
    bytes: int

    def __mul__(self, factor: int) -> "Work":
        return Work(factor * self.operations, factor * self.bytes)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function, the arguments to compile and run it with, its work, and its precision.

    Programs are named `operation/implementation`. The precision is a name in
    `lastax.nn.PRECISIONS`.
    """

    function: Callable
    arguments: tuple[Any, ...]
    work: Work
    precision: str = FLOAT32


def build_network(shape: Shape) -> Network:
    """An untrained network."""
    return lastax.build_network(
        shape.model, input_size=INPUT_SIZE, classes=CLASSES, key=jax.random.key(0)
    )


def network_programs(shape: Shape, networks: Mapping[str, Network]) -> dict[str, Program]:
    """Evaluation, and a training step with its optimizer, of each network."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(shape.batch, shape.length, INPUT_SIZE)).astype(np.float32)
    labels = (np.arange(shape.batch) % CLASSES).astype(np.int32)
    # On the device, so that no run copies them from the host.
    batch = {"x": jnp.asarray(x), "label": jnp.asarray(labels)}
    optimizer = lastax.training.make_optimizer(1e-3, 1e-3, weight_decay=0.05)
    step = functools.partial(lastax.training.train_step, optimizer=optimizer, key=jax.random.key(1))
    programs = {}
    for name, network in networks.items():
        work = _network_work(shape, lastax.state_counts(network))
        state = lastax.training.TrainState.initialize(network, optimizer)
        precision = precision_name(network.encoder.precision)
        assert precision is not None  # The benchmarks use no other precisions.
        programs[f"forward/{name}"] = Program(lastax.predict, (network, batch), work, precision)
        programs[f"training/{name}"] = Program(step, (state, batch), work * 3, precision)
    return programs


def with_settings(program: Program, **settings: Any) -> Program:
    """A training step with other settings of `train_step`."""
    return dataclasses.replace(program, function=functools.partial(program.function, **settings))


def layer_work(shape: Shape, states: int) -> Work:
    """Work of a bidirectional layer.

    `u B` and `x C` count as real products; `u`, `b`, `x` and `y` are moved.
    """
    operations = 12 * shape.channels * states
    return Work(shape.steps * operations, shape.steps * (48 * states + 8 * shape.channels))


def _network_work(shape: Shape, states: list[int]) -> Work:
    """Work of layers and gates; arrays between them are moved eight times per block."""
    layers = [layer_work(shape, count) for count in states]
    between = shape.steps * shape.layers
    return Work(
        sum(work.operations for work in layers) + between * 2 * shape.channels**2,
        sum(work.bytes for work in layers) + between * 24 * shape.channels,
    )
