"""What the benchmark times: programs of lastax beside the public way of computing the same."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import lastax
from lastax.serialization import folder_written_at_once
from lastax.cmd._public import PublicS5, public_kernels, public_scan, published


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a task of the field, cut to what one machine times in seconds."""

    batch: int
    length: int
    channels: int
    states: int
    layers: int

    @property
    def steps(self) -> int:
        """Steps of all sequences."""
        return self.batch * self.length


SHAPES = {
    "listops": Shape(4, 2048, 128, 8, 8),
    "text": Shape(2, 2048, 256, 96, 2),
    "image": Shape(2, 1024, 256, 192, 2),
    "speech": Shape(1, 16000, 96, 64, 2),
    "short": Shape(32, 128, 64, 32, 4),
}
RATIOS = (0.3, 0.5, 0.8)
INPUT_SIZE = CLASSES = 10
METHODS: tuple[lastax.ssm.ScanMethod, ...] = ("associative", "chunked", "sequential")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a program cannot do without: operations of its matrix products, bytes moved."""

    operations: int
    bytes: int

    def __mul__(self, factor: int) -> "Work":
        return Work(factor * self.operations, factor * self.bytes)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to be compiled for its arguments, and the work that it has to do."""

    function: Callable
    arguments: tuple[Any, ...]
    work: Work


def recurrence_programs(shape: Shape) -> dict[str, Program]:
    """One direction of the recurrence alone: forward and gradient of each method."""
    rng = np.random.default_rng(0)
    radius, angle = rng.uniform(0.9, 0.999, shape.states), rng.uniform(-3, 3, shape.states)
    lam = jnp.asarray(radius * np.exp(1j * angle), jnp.complex64)
    size = (shape.batch, shape.length, shape.states)
    b = jnp.asarray(rng.normal(size=size) + 1j * rng.normal(size=size), jnp.complex64)

    def energy(scan: Callable, lam: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(jax.vmap(lambda b: scan(lam, b))(b)) ** 2)

    def own_scan(method: lastax.ssm.ScanMethod, lam: jax.Array, b: jax.Array) -> jax.Array:
        return lastax.diagonal_scan(lam, b, method=method)[0]

    scans: dict[str, Callable] = {"public": public_scan} | {
        method: functools.partial(own_scan, method) for method in METHODS
    }
    states = shape.steps * shape.states
    forward, gradient = Work(8 * states, 16 * states), Work(24 * states, 56 * states)
    programs = {}
    for name, scan in scans.items():
        batched = jax.vmap(scan, in_axes=(None, 0))
        differentiated = jax.grad(functools.partial(energy, scan), argnums=(0, 1))
        programs[f"forward/{name}"] = Program(batched, (lam, b), forward)
        programs[f"gradient/{name}"] = Program(differentiated, (lam, b), gradient)
    return programs


def layer_programs(shape: Shape) -> dict[str, Program]:
    """One bidirectional layer: forward, and the gradient of all its parameters and its input."""
    layer = lastax.S5.initialize(
        shape.channels, shape.states, bidirectional=True, key=jax.random.key(0)
    )
    u = jax.random.normal(jax.random.key(1), (shape.batch, shape.length, shape.channels))

    def energy(layer_and_input: tuple[Any, jax.Array]) -> jax.Array:
        layer, u = layer_and_input
        return jnp.sum(jax.vmap(layer)(u) ** 2)

    kinds: dict[str, Any] = {"public": PublicS5.of(layer), "ours": layer}
    for method in METHODS:
        kinds[method] = dataclasses.replace(layer, scan_method=method)
    work = _layer_work(shape, shape.states)
    programs = {}
    for name, one in kinds.items():
        programs[f"forward/{name}"] = Program(lambda layer, u: jax.vmap(layer)(u), (one, u), work)
        programs[f"gradient/{name}"] = Program(eqx.filter_grad(energy), ((one, u),), work * 3)
    return programs


def kernel_programs(shape: Shape) -> dict[str, Program]:
    """Kernels of scalar channels: a product of powers, beside one exponential a state and step.

    32 states a channel, whatever the shape says; half of them removed as well, unevenly.
    """
    layer = lastax.S4D.initialize(shape.channels, 32, key=jax.random.key(0))
    system = layer.system()
    keep = np.random.default_rng(0).random(system.states) < np.repeat(
        np.linspace(0, 1, shape.channels), 32
    )
    programs = {}
    for name, one in (("", system), (" 50 %", system.keep(keep))):
        arguments = one.lam, one.B * one.C
        counts = one.counts
        # Both planes of two products, an element of the kernel at a time.
        work = Work(4 * one.states * shape.length, 4 * shape.channels * shape.length)
        for who, kernel in (("public", public_kernels), ("ours", lastax.ssm.channel_kernels)):
            forward = functools.partial(_kernel_of, kernel, counts, shape.length)
            programs[f"forward{name}/{who}"] = Program(forward, arguments, work)
            gradient = jax.grad(functools.partial(_energy_of, forward), argnums=(0, 1))
            programs[f"gradient{name}/{who}"] = Program(gradient, arguments, work * 3)
    return programs


def _kernel_of(
    kernel: Callable, counts: tuple[int, ...], length: int, lam: jax.Array, weight: jax.Array
) -> jax.Array:
    return kernel(lam, weight, counts, length)


def _energy_of(forward: Callable, lam: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sum(forward(lam, weight) ** 2)


def train_step_programs(shape: Shape) -> dict[str, Program]:
    """The whole network: evaluation, and a training step with its optimizer."""
    network = network_of(shape)
    programs = _network_programs(shape, {"public": published(network), "ours": network})
    step = programs["training/ours"]
    again = functools.partial(step.function, remat=True)
    return programs | {"training/ours, remat": dataclasses.replace(step, function=again)}


def prune_programs(shape: Shape) -> dict[str, Program]:
    """Networks without 30, 50 and 80 % of their states, beside the same ones masked."""
    network = network_of(shape)
    kinds = {"ours": network}
    for ratio in RATIOS:
        plan = lastax.plan_pruning(network, ratio=ratio, method="uniform-hinf")
        percent = f"{100 * ratio:.0f} %"
        kinds[f"masked {percent}"] = lastax.keep_states(published(network), plan.keep)
        kinds[f"ours {percent}"] = lastax.keep_states(network, plan.keep)
    return _network_programs(shape, kinds)


def network_of(shape: Shape) -> lastax.nn.Network:
    """An untrained network of a shape."""
    return lastax.build_network(
        _config(shape), input_size=INPUT_SIZE, classes=CLASSES, key=jax.random.key(0)
    )


def _config(shape: Shape) -> lastax.ModelConfig:
    return lastax.ModelConfig(layers=shape.layers, channels=shape.channels, states=shape.states)


def _network_programs(shape: Shape, networks: dict[str, lastax.nn.Network]) -> dict[str, Program]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(shape.batch, shape.length, INPUT_SIZE)).astype(np.float32)
    batch = {"x": x, "label": (np.arange(shape.batch) % CLASSES).astype(np.int32)}
    optimizer = lastax.training.make_optimizer(1e-3, 1e-3, weight_decay=0.05)
    step = functools.partial(lastax.training.train_step, optimizer=optimizer, key=jax.random.key(1))
    programs = {}
    for name, network in networks.items():
        work = _network_work(shape, lastax.state_counts(network))
        state = lastax.training.TrainState.initialize(network, optimizer)
        programs[f"forward/{name}"] = Program(lastax.predict, (network, batch), work)
        programs[f"training/{name}"] = Program(step, (state, batch), work * 3)
    return programs


def _layer_work(shape: Shape, states: int) -> Work:
    """A bidirectional layer: `u B` and `x C` as real products; `u`, `b`, `x` and `y` moved."""
    operations = 12 * shape.channels * states
    return Work(shape.steps * operations, shape.steps * (48 * states + 8 * shape.channels))


def _network_work(shape: Shape, states: list[int]) -> Work:
    """Layers, gates, and what lies between them, moved eight times a block."""
    layers = [_layer_work(shape, count) for count in states]
    between = shape.steps * shape.layers
    return Work(
        sum(work.operations for work in layers) + between * 2 * shape.channels**2,
        sum(work.bytes for work in layers) + between * 24 * shape.channels,
    )


def seconds_to_prune(shape: Shape) -> float:
    """What `lastax prune` does between start and evaluation: load, score, select, cut, save."""
    config = lastax.training.RunConfig(
        task="image",
        size="paper",
        seed=0,
        data=lastax.training.DataConfig("image"),
        input_size=1,
        classes=CLASSES,
        length=shape.length,
        model=_config(shape),
        training=lastax.training.TrainingConfig(),
        states=lastax.training.untrained_counts(_config(shape)),
    )
    with tempfile.TemporaryDirectory() as name:
        run, target = Path(name) / "run", Path(name) / "pruned"
        with folder_written_at_once(run) as fresh:
            lastax.training.save_config(fresh, config)
            lastax.save(fresh, lastax.training.build_from_config(config))
        started = time.perf_counter()
        config, model = lastax.training.load_run(run)
        plan = lastax.plan_pruning(model, ratio=0.3)
        small = plan.apply(model)
        with folder_written_at_once(target) as fresh:
            smaller = lastax.training.keep_in_config(config, plan.keep)
            lastax.training.save_config(fresh, smaller)
            lastax.save(fresh, small)
        return time.perf_counter() - started
