"""An ordered parallel map."""

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

_AHEAD = 3  # items in flight per process: keeps processes busy and limits memory


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Generator[Result, None, None]:
    """`map(function, items)` in `workers` processes. `items` may be endless.

    With one worker, this process does the work. Close the iterator to stop the processes early.
    `function`, items and results must be picklable.

    Raises:
        DataError: if `workers` is below 1, or a process is killed.
    """
    if workers < 1:
        raise DataError(f"workers must be 1 or more; got {workers}")
    if workers == 1:
        yield from map(function, items)
        return
    # Not forked: threads of JAX may hold locks that no thread of a child would release.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=exit_with_parent)
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
            "a worker process was killed, perhaps because memory ran out; use fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def exit_with_parent() -> None:
    """Initialize a worker process: ignore SIGINT, and exit when the parent process dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
