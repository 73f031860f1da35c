"""`lastax bench`."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._bench_data import bench_data
from lastax.cmd._console import debug_option, emit, json_option, out, progress_bar
from lastax.cmd._measure import Measured, measure
from lastax.cmd._open import root_option
from lastax.cmd._public import PublicS5, public_scan

Program = tuple[Callable, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a task of the field, cut to what one machine times in seconds."""

    batch: int
    length: int
    channels: int
    states: int
    layers: int


SHAPES = {
    "listops": Shape(4, 2048, 128, 8, 8),
    "text": Shape(2, 2048, 256, 96, 2),
    "image": Shape(2, 1024, 256, 192, 2),
    "speech": Shape(1, 16000, 96, 64, 2),
    "short": Shape(32, 128, 64, 32, 4),
}
RATIOS = (0.3, 0.5, 0.8)
INPUT_SIZE = CLASSES = 10


def recurrence_programs(shape: Shape) -> dict[str, Program]:
    """One direction of the recurrence alone: forward and gradient of each method."""
    rng = np.random.default_rng(0)
    radius, angle = rng.uniform(0.9, 0.999, shape.states), rng.uniform(-3, 3, shape.states)
    lam = jnp.asarray(radius * np.exp(1j * angle), jnp.complex64)
    size = (shape.batch, shape.length, shape.states)
    b = jnp.asarray(rng.normal(size=size) + 1j * rng.normal(size=size), jnp.complex64)

    def energy(scan: Callable, lam: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(jax.vmap(lambda b: scan(lam, b))(b)) ** 2)

    scans: dict[str, Callable] = {"public": public_scan} | {
        method: functools.partial(_own_scan, method) for method in ("associative", "sequential")
    }
    programs: dict[str, Program] = {}
    for name, scan in scans.items():
        batched = jax.vmap(scan, in_axes=(None, 0))
        programs[f"forward/{name}"] = (batched, (lam, b))
        programs[f"gradient/{name}"] = (
            jax.grad(functools.partial(energy, scan), argnums=(0, 1)),
            (lam, b),
        )
    return programs


def _own_scan(method: lastax.ScanMethod, lam: jax.Array, b: jax.Array) -> jax.Array:
    return lastax.diagonal_scan(lam, b, method=method)[0]


def layer_programs(shape: Shape) -> dict[str, Program]:
    """One bidirectional layer: forward, and the gradient of all its parameters and its input."""
    layer = lastax.S5.initialize(
        shape.channels, shape.states, bidirectional=True, key=jax.random.key(0)
    )
    u = jax.random.normal(jax.random.key(1), (shape.batch, shape.length, shape.channels))

    def energy(layer_and_input: tuple[Any, jax.Array]) -> jax.Array:
        layer, u = layer_and_input
        return jnp.sum(jax.vmap(layer)(u) ** 2)

    programs: dict[str, Program] = {}
    for name, one in {"public": PublicS5.of(layer), "ours": layer}.items():
        programs[f"forward/{name}"] = (lambda layer, u: jax.vmap(layer)(u), (one, u))
        programs[f"gradient/{name}"] = (eqx.filter_grad(energy), ((one, u),))
    return programs


def train_step_programs(shape: Shape) -> dict[str, Program]:
    """The whole network: evaluation, and a training step with its optimizer."""
    network = _network(shape)
    return _network_programs(shape, {"public": _published(network), "ours": network})


def prune_programs(shape: Shape) -> dict[str, Program]:
    """Networks without 30, 50 and 80 % of their states, beside the same ones masked."""
    network = _network(shape)
    kinds = {"ours": network}
    for ratio in RATIOS:
        plan = lastax.plan_pruning(network, ratio=ratio, method="uniform-hinf")
        percent = f"{100 * ratio:.0f} %"
        kinds[f"masked {percent}"] = lastax.keep_states(_published(network), plan.keep)
        kinds[f"ours {percent}"] = lastax.keep_states(network, plan.keep)
    return _network_programs(shape, kinds)


def _network(shape: Shape) -> lastax.Network:
    config = lastax.ModelConfig(layers=shape.layers, channels=shape.channels, states=shape.states)
    return lastax.build_network(
        config, input_size=INPUT_SIZE, classes=CLASSES, key=jax.random.key(0)
    )


def _published(network: lastax.Network) -> lastax.Network:
    def is_layer(node: Any) -> bool:
        return isinstance(node, lastax.S5)

    return jax.tree.map(
        lambda node: PublicS5.of(node) if is_layer(node) else node, network, is_leaf=is_layer
    )


def _network_programs(shape: Shape, networks: dict[str, lastax.Network]) -> dict[str, Program]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(shape.batch, shape.length, INPUT_SIZE)).astype(np.float32)
    batch = {"x": x, "label": (np.arange(shape.batch) % CLASSES).astype(np.int32)}
    optimizer = lastax.make_optimizer(1e-3, 1e-3, weight_decay=0.05)
    step = functools.partial(lastax.train_step, optimizer=optimizer, key=jax.random.key(1))
    programs: dict[str, Program] = {}
    for name, network in networks.items():
        programs[f"forward/{name}"] = (lastax.predict, (network, batch))
        state = lastax.TrainState.initialize(network, optimizer)
        programs[f"training/{name}"] = (step, (state, batch))
    return programs


SUITES = {
    "recurrence": (recurrence_programs, "public"),
    "layer": (layer_programs, "public"),
    "train-step": (train_step_programs, "public"),
    "prune": (prune_programs, "ours"),
}


@click.command()
@click.argument("suite", type=click.Choice([*SUITES, "data"]))
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
    type=click.Choice(sorted(lastax.TASKS)),
    multiple=True,
    help="Of `data`: which tasks; may be repeated.  [default: all that are here]",
)
@click.option("--repeats", type=click.IntRange(1), default=7, help="Runs of each program.")
@click.option("--data", "path", help="Of `data`: your own, for a task that is read from there.")
@root_option
@json_option
@debug_option
def bench(
    suite: str,
    shapes: tuple[str, ...],
    tasks: tuple[str, ...],
    repeats: int,
    path: str | None,
    root: Path | None,
    as_json: bool,
) -> None:
    """Time lastax beside the public way of computing the same, on this machine.

    The public way is one complex associative scan a direction, differentiated by JAX, complex
    products, and masks in place of pruning. All programs of a shape are run by turns; ratios are
    of medians. `data` measures how fast batches come, and how fast training takes them.
    """
    if suite == "data":
        bench_data(tasks, repeats=repeats, path=path, root=root, as_json=as_json)
        return
    # Compile times are part of the answer: none may come from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    build, baseline = SUITES[suite]
    cases: list[dict[str, Any]] = []
    for shape in shapes or tuple(SHAPES):
        programs = build(SHAPES[shape])
        with progress_bar(f"{suite} {shape}") as bar:
            shown = bar.add_task("", total=len(programs), note="")

            def compiling(name: str, bar: Any = bar, shown: Any = shown) -> None:
                bar.update(shown, advance=1, note=f"compiling {name}")

            results = measure(programs, repeats=repeats, on_program=compiling)
        cases += _cases(shape, results, baseline)
    answer: dict[str, Any] = {"suite": suite, "device": str(jax.devices()[0]), "cases": cases}
    if suite == "prune":
        answer["prune_seconds"] = _seconds_to_prune()
    if as_json:
        emit(answer)
        return
    out.print(_table(suite, cases, baseline))
    if suite == "prune":
        seconds = f"{answer['prune_seconds']:.2f} s"
        out.print(f"lastax.prune, 6 layers of 192 states and 512 channels: {seconds}")


def _cases(shape: str, results: dict[str, Measured], baseline: str) -> list[dict[str, Any]]:
    cases = []
    for name, result in sorted(results.items(), key=lambda item: item[0].partition("/")[0]):
        what, _, who = name.partition("/")
        reference = results[f"{what}/{baseline}"]
        cases.append(
            {
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
            }
        )
    return cases


def _table(suite: str, cases: list[dict[str, Any]], baseline: str) -> Table:
    table = Table(title=f"{suite}: speed against {baseline}, medians")
    for name in ("shape", "what", "who", "ms", "±", "speed", "temp MiB", "compile s"):
        table.add_column(name, justify="left" if name in ("shape", "what", "who") else "right")
    for case in cases:
        table.add_row(
            case["shape"],
            case["what"],
            case["who"],
            f"{1e3 * case['median_seconds']:.1f}",
            f"{100 * case['spread']:.0f} %",
            f"{case['ratio']:.2f}",
            f"{case['temporary_bytes'] / 2**20:.0f}",
            f"{case['compile_seconds']:.1f}",
        )
    return table


def _seconds_to_prune() -> float:
    """Scoring, selection and surgery on the network of LRA's Image task."""
    network = _network(Shape(1, 1024, 512, 192, 6))
    started = time.perf_counter()
    small = lastax.prune(network, ratio=0.3)
    jax.block_until_ready(eqx.filter(small, eqx.is_array))
    return time.perf_counter() - started
