"""Timing programs side by side: compiled apart, run by turns, medians and spread over repeats."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Measured:
    """One program: seconds of its runs, seconds to compile, bytes of temporaries."""

    times: tuple[float, ...]
    compile_seconds: float
    temporary_bytes: int

    @property
    def median(self) -> float:
        """Seconds of the middle run."""
        return float(np.median(self.times))

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        low, high = np.percentile(self.times, [25, 75])
        return float((high - low) / self.median)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the device reaches in a large matrix product, and in reading and writing memory."""

    operations_per_second: float
    bytes_per_second: float

    def seconds(self, operations: int, bytes_moved: int) -> float:
        """What so much work takes at best, products and traffic one after the other."""
        return operations / self.operations_per_second + bytes_moved / self.bytes_per_second


def measure(
    programs: Mapping[str, tuple[Callable, tuple[Any, ...]]],
    *,
    repeats: int,
    on_program: Callable[[str], None] = lambda name: None,
) -> dict[str, Measured]:
    """Compile each function for its arguments, then run all by turns.

    By turns, since what else a machine does comes and goes: what is compared then suffers alike.
    """
    compiled, seconds = {}, {}
    for name, (function, arguments) in programs.items():
        on_program(name)
        lowered: Any = cast(Any, eqx.filter_jit(function)).lower(*arguments)
        started = time.perf_counter()
        compiled[name] = lowered.compile()
        seconds[name] = time.perf_counter() - started
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, (_, arguments) in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(compiled[name](*arguments))
            # The first turn touches memory for the first time.
            if turn:
                times[name].append(time.perf_counter() - started)
    return {
        name: Measured(
            tuple(times[name]),
            seconds[name],
            int(compiled[name].compiled.memory_analysis().temp_size_in_bytes),
        )
        for name in programs
    }


def measure_machine() -> Machine:
    """Time a matrix product and a pass over memory, on the default device."""
    size, length = 1024, 4 * 2**20
    square, line = jnp.ones((size, size)), jnp.ones(length)
    programs = {
        "product": (lambda x: x @ x, (square,)),
        "traffic": (lambda x: x * 1.5, (line,)),
    }
    results = measure(programs, repeats=9)
    # The best of several: the limit is the machine's, not that of what else runs on it.
    return Machine(
        2 * size**3 / min(results["product"].times),
        2 * line.nbytes / min(results["traffic"].times),
    )
