"""Timing of compiled programs: median and spread over repeats that alternate between programs."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lastax._typing import OnProgress, silent


@dataclasses.dataclass(frozen=True)
class Timing:
    """Measurements of one program.

    Attributes:
        times: seconds of each run.
        compile_seconds: seconds to compile.
        temporary_bytes: bytes of temporary arrays, as the compiled program reports them.
    """

    times: tuple[float, ...]
    compile_seconds: float
    temporary_bytes: int

    @property
    def median(self) -> float:
        """Median of the times, in seconds."""
        return float(np.median(self.times))

    @property
    def spread(self) -> float:
        """Interquartile range of the times, divided by their median."""
        low, high = np.percentile(self.times, [25, 75])
        return float((high - low) / self.median)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Rates that the device reaches in a large matrix product and in a pass over memory."""

    operations_per_second: float
    bytes_per_second: float

    def seconds(self, operations: int, bytes_moved: int) -> float:
        """Least time for an amount of work, if arithmetic and memory traffic do not overlap."""
        return operations / self.operations_per_second + bytes_moved / self.bytes_per_second


def measure(
    programs: Mapping[str, tuple[Callable, tuple[Any, ...]]],
    *,
    repeats: int,
    threads: int = 1,
    on_progress: OnProgress = silent,
) -> dict[str, Timing]:
    """Compile every function for its arguments, then run the functions in turns.

    The turns spread the effect of other load on the machine evenly over the programs.

    Args:
        programs: by name, a function and its arguments.
        repeats: number of timed runs per program.
        threads: number of programs that are compiled at the same time.
        on_progress: called with each name before the program is compiled.
    """

    def compile_one(lowered: Any) -> tuple[Any, float]:
        started = time.perf_counter()
        return lowered.compile(), time.perf_counter() - started

    with ThreadPoolExecutor(threads) as pool:
        waiting = {}
        for name, (function, arguments) in programs.items():
            on_progress(name)
            lowered = cast(Any, eqx.filter_jit(function)).lower(*arguments)
            waiting[name] = pool.submit(compile_one, lowered)
            if threads == 1:
                waiting[name].result()
        results = {name: future.result() for name, future in waiting.items()}
    compiled = {name: program for name, (program, _) in results.items()}
    seconds = {name: duration for name, (_, duration) in results.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, (_, arguments) in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(compiled[name](*arguments))
            # The first turn is not timed: it maps memory.
            if turn:
                times[name].append(time.perf_counter() - started)
    return {
        name: Timing(
            tuple(times[name]),
            seconds[name],
            int(compiled[name].compiled.memory_analysis().temp_size_in_bytes),
        )
        for name in programs
    }


def measure_machine(size: int = 1024, length: int = 4 * 2**20) -> Machine:
    """Time a matrix product and a pass over memory on the default device.

    Args:
        size: rows and columns of the matrices.
        length: number of values that are read and written.
    """
    square, line = jnp.ones((size, size)), jnp.ones(length)
    programs = {
        "product": (lambda x: x @ x, (square,)),
        "traffic": (lambda x: x * 1.5, (line,)),
    }
    results = measure(programs, repeats=9)
    # The best repeat is the limit of the machine; the others include other load.
    return Machine(
        2 * size**3 / min(results["product"].times),
        2 * line.nbytes / min(results["traffic"].times),
    )
