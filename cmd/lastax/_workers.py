"""Work shared out to processes, each with cores of its own."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from lastax.cmd._console import keep_compiled_programs

Answer = TypeVar("Answer")


def work_apart(
    function: Callable[[Any], Answer], work: Sequence[Any], jobs: int
) -> Iterator[Answer]:
    """What `function` answers to each piece of work, in order, `jobs` of them at a time.

    Threads of several processes on the same cores would mostly wait for each other.
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
        jobs, mp_context=context, initializer=_begin, initargs=(shares,)
    ) as pool:
        yield from pool.map(function, work)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _begin(shares: Any) -> None:
    own = shares.get()
    # Where a system has no such call its scheduler decides.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, own)
    keep_compiled_programs()
