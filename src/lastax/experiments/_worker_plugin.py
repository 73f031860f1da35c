"""What a Dask worker does before its first task. Imported only where Dask is installed."""

import os
from collections.abc import Callable

from distributed import Worker, WorkerPlugin


class PrepareWorker(WorkerPlugin):
    """Restricts a worker to its share of the cores and calls a function.

    Args:
        prepare: the function, which can be pickled.
        shares: number of workers that divide the cores of this machine, named 0, 1, and so on;
            None if every worker may use all cores.
    """

    idempotent = True
    name = "lastax"

    def __init__(self, prepare: Callable[[], None], shares: int | None) -> None:
        self._prepare, self._shares = prepare, shares

    def setup(self, worker: Worker) -> None:
        """Called by Dask when a worker starts."""
        # Threads that start later inherit the cores of this one. Without this call, the scheduler
        # of the system decides.
        if self._shares is not None and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[int(worker.name) :: self._shares] or cores)
        self._prepare()
