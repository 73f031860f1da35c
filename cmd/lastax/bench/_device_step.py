"""One process of `lastax bench devices`: it times a training step shared by several devices.

Run as a module by the command, since the number of virtual devices is fixed when JAX starts.
"""

import functools
import json
import re
import sys
import time
from typing import Any

import jax
import numpy as np

import lastax
from lastax.cmd.bench._programs import CLASSES, INPUT_SIZE, Shape, build_network
from lastax.training import Placement

_COLLECTIVE = re.compile(
    r"= (?P<shapes>\(.*?\)|\S+) "
    r"(?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def exchanged_bytes(program: str) -> int:
    """Bytes of the results of all collective operations, in the text of a compiled program."""
    total = 0
    for found in _COLLECTIVE.finditer(program):
        for _, bits, sizes in _ARRAY.findall(found["shapes"]):
            total += int(bits) // 8 * int(np.prod([int(n) for n in sizes.split(",") if n]))
    return total


def time_step(shape: Shape, steps: int) -> dict[str, Any]:
    """Median seconds of a training step on all devices, and what it exchanges."""
    placement = Placement.over(jax.devices())
    optimizer = lastax.training.make_optimizer(1e-3, 1e-3, weight_decay=0.05)
    state = placement.state(lastax.training.TrainState.initialize(build_network(shape), optimizer))
    own = shape.batch // jax.process_count()
    x = np.random.default_rng(0).normal(size=(own, shape.length, INPUT_SIZE))
    batch = placement.batch(
        {"x": x.astype(np.float32), "label": (np.arange(own) % CLASSES).astype(np.int32)}
    )
    key = placement.state(jax.random.key(1))
    step = jax.jit(functools.partial(lastax.training.train_step, optimizer=optimizer))
    compiled = step.lower(state, batch, key=key).compile()
    times = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch, key=key))
        times.append(time.perf_counter() - started)
    return {
        "devices": placement.devices,
        "processes": jax.process_count(),
        "seconds": float(np.median(times[1:])),
        "exchanged_bytes": exchanged_bytes(compiled.as_text() or ""),
    }


def main() -> None:
    """Join the other processes, time the step, and print the result as JSON."""
    settings = json.loads(sys.argv[1])
    if settings["processes"]["num_processes"] > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(**settings["processes"])
    result = time_step(Shape(**settings["shape"]), settings["steps"])
    if jax.process_index() == 0:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
