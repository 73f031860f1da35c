"""Timing of compiled programs: median and spread over repeats that alternate between programs."""

import contextlib
import dataclasses
import functools
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from lastax._typing import OnProgress, silent
from lastax.nn import PRECISIONS

FLOAT32: Final = "float32"


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
    """Rates that the device reaches in large matrix products and in a pass over memory.

    Attributes:
        products: operations per second, by precision in `lastax.nn.PRECISIONS`.
        bytes_per_second: bytes read and written per second.
    """

    products: Mapping[str, float]
    bytes_per_second: float

    def seconds(self, operations: int, bytes_moved: int, precision: str) -> float:
        """Least time for an amount of work, if arithmetic and memory traffic do not overlap."""
        return operations / self.products[precision] + bytes_moved / self.bytes_per_second


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A compiled function with its arguments.

    Attributes:
        function: the compiled function.
        arguments: its arguments.
        seconds: seconds to compile.
    """

    function: Any
    arguments: tuple[Any, ...]
    seconds: float

    def run(self, calls: int = 1) -> float:
        """Call the function, and return the seconds per call."""
        started = time.perf_counter()
        result = None
        for _ in range(calls):
            result = self.function(*self.arguments)
        jax.block_until_ready(result)
        return (time.perf_counter() - started) / calls

    @property
    def temporary_bytes(self) -> int:
        """Bytes of temporary arrays, as the compiled program reports them."""
        return int(self.function.memory_analysis().temp_size_in_bytes)


# Called with the name of a program that cannot be compiled or run.
OnFailure = Callable[[str, Exception], None]


def raise_failure(name: str, error: Exception) -> None:
    """Raise the error of a program."""
    raise error


def compile_programs(
    programs: Mapping[str, tuple[Callable, tuple[Any, ...]]],
    *,
    threads: int = 1,
    on_progress: OnProgress = silent,
    on_failure: OnFailure = raise_failure,
) -> dict[str, CompiledProgram]:
    """Compile every function for its arguments.

    Args:
        programs: by name, a function and its arguments.
        threads: number of programs that are compiled at the same time.
        on_progress: called with each name before the program is compiled.
        on_failure: called for programs that cannot be compiled. If it returns, the result lacks
            the program.
    """

    def compile_one(lowered: Any) -> tuple[Any, float]:
        started = time.perf_counter()
        return lowered.compile(), time.perf_counter() - started

    compiled: dict[str, CompiledProgram] = {}
    with ThreadPoolExecutor(threads) as pool:
        waiting: dict[str, Future[tuple[Any, float]]] = {}
        for name, (function, arguments) in programs.items():
            on_progress(name)
            try:
                lowered = jax.jit(function).lower(*arguments)
            except Exception as error:
                on_failure(name, error)
                continue
            waiting[name] = pool.submit(compile_one, lowered)
            if threads == 1:
                wait([waiting[name]])
        for name, future in waiting.items():
            try:
                function, seconds = future.result()
            except Exception as error:
                on_failure(name, error)
            else:
                compiled[name] = CompiledProgram(function, programs[name][1], seconds)
    return compiled


def run_in_turns(
    programs: Mapping[str, CompiledProgram],
    *,
    repeats: int,
    seconds: float = 0.0,
    on_failure: OnFailure = raise_failure,
) -> dict[str, Timing]:
    """Time programs in turns.

    The turns spread the effect of other load on the machine evenly over the programs.

    Args:
        programs: by name, the compiled programs.
        repeats: number of timed runs per program.
        seconds: about the least duration of a run. A run calls a shorter program several times; a
            device that computes asynchronously then does not wait for the calls.
        on_failure: called for programs that cannot be run. If it returns, the result lacks the
            program.
    """
    calls: dict[str, int] = {}
    for name, program in programs.items():
        try:
            # The first call is not timed: it maps memory.
            program.run()
            calls[name] = math.ceil(seconds / program.run()) if seconds else 1
        except Exception as error:
            on_failure(name, error)
    times: dict[str, list[float]] = {name: [] for name in calls}
    with _without_garbage_collection():
        for _ in range(repeats):
            for name, count in calls.items():
                times[name].append(programs[name].run(count))
    return {
        name: Timing(tuple(found), programs[name].seconds, programs[name].temporary_bytes)
        for name, found in times.items()
    }


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """As in `timeit`: a collection takes long after many programs have been traced."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def measure_machine(
    size: int = 1024, length: int = 4 * 2**20, precisions: Sequence[str] = (FLOAT32,)
) -> Machine:
    """Time matrix products and a pass over memory on the default device.

    Args:
        size: rows and columns of the matrices.
        length: number of values that are read and written.
        precisions: names of precisions of the products.
    """
    square, line = jnp.ones((size, size)), jnp.ones(length)

    def product(precision: str, x: jax.Array) -> jax.Array:
        with PRECISIONS[precision].active():
            return x @ x

    compiled = compile_programs(
        {name: (functools.partial(product, name), (square,)) for name in precisions}
        | {"traffic": (lambda x: x * 1.5, (line,))}
    )
    # The best repeat is the limit of the machine; the others include other load.
    best = {name: min(one.times) for name, one in run_in_turns(compiled, repeats=9).items()}
    products = {name: 2 * size**3 / best[name] for name in precisions}
    return Machine(products, 2 * line.nbytes / best["traffic"])
