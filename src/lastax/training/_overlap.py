"""Overlap of host and device: batches are read ahead, and results are read late."""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

import jax

Result = TypeVar("Result")
Item_co = TypeVar("Item_co", covariant=True)

# One batch in use, and two that wait on the device. More would only take memory.
_AHEAD = 2


@runtime_checkable
class Items(Protocol[Item_co]):
    """Anything that `next` accepts."""

    def __next__(self) -> Item_co:
        """The next item."""


def read_ahead(
    items: Items[Item_co], prepare: Callable[[Item_co], Result]
) -> Generator[Result, None, None]:
    """`map(prepare, items)`, computed in a thread that is up to two items ahead.

    Only the thread uses `items`, so `prepare` may read their position. An exception in the thread
    is raised where its item would be returned. Close the generator to stop the thread, which then
    finishes its current item.

    Args:
        items: an iterator, which may be endless. Each item must have its own arrays.
        prepare: applied to each item in the thread.
    """

    def read() -> tuple[Result, ...]:
        try:
            item = next(items)
        except StopIteration:
            return ()
        # JAX keeps its settings per thread.
        with jax.enable_x64(double):
            return (prepare(item),)

    double = jax.config.read("jax_enable_x64")
    thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        reading = collections.deque(thread.submit(read) for _ in range(_AHEAD))
        while result := reading.popleft().result():
            reading.append(thread.submit(read))
            yield from result
    finally:
        thread.shutdown(cancel_futures=True)


def one_late(results: Iterable[Result]) -> Iterator[Result]:
    """Yield each result only after the computation of the next one has started.

    JAX returns before the device has finished. A loop that reads a result while the device computes
    the next one does not make the device wait.
    """
    previous: tuple[Result, ...] = ()
    for result in results:
        yield from previous
        previous = (result,)
    yield from previous
