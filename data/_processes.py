"""Work spread over processes, its results in order."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from lastax.data._errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 3  # items in work or waiting for each process: none is idle, and results stay few


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Generator[Result, None, None]:
    """`map(function, items)` by `workers` processes; `items` may be without end.

    Close the iterator to end the processes early. With one worker it is this process.
    `function` must be picklable, as must items and results.

    Raises:
        DataError: if a process is killed.
    """
    if workers < 1:
        raise DataError(f"workers is {workers}; make it 1 or more")
    if workers == 1:
        yield from map(function, items)
        return
    # Not forked: threads of JAX may hold locks that nobody in a child would free.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=stay_with_parent)
    try:
        remaining = iter(items)
        running = collections.deque(
            pool.submit(function, item) for item in itertools.islice(remaining, _AHEAD * workers)
        )
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, perhaps for lack of memory; start again with fewer"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def stay_with_parent() -> None:
    """Prepare a worker process: it ends when, and only when, its parent says so or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
