"""Work distributed over processes, each with CPU cores of its own."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


def do_nothing() -> None:
    """A picklable function for `map_processes` that initializes nothing."""


def map_processes(
    function: Callable[[Work], Result],
    work: Sequence[Work],
    jobs: int,
    *,
    initialize: Callable[[], None] = do_nothing,
) -> Iterator[Result]:
    """The results of `function`, in the order of `work`, computed by `jobs` processes.

    Threads of several processes on the same cores would mostly wait for each other, so each
    process runs on its own share of the cores.

    Args:
        function: a function at the top level of a module, so that it can be pickled.
        work: its arguments.
        jobs: number of processes.
        initialize: called once in each process, also picklable.
    """
    if not work:
        return
    context = multiprocessing.get_context("spawn")
    jobs = min(jobs, len(work))
    shares = context.SimpleQueue()
    cores = _cores()
    for job in range(jobs):
        shares.put(set(cores[job::jobs]) or set(cores))
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, initargs=(shares, initialize)
    ) as pool:
        yield from pool.map(function, work)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _begin(shares: SimpleQueue, initialize: Callable[[], None]) -> None:
    own = shares.get()
    # Without this call, the scheduler of the system decides.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, own)
    initialize()
