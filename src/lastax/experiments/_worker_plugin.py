"""What a Dask worker does before its first task. Imported only where Dask is installed.

Dask pickles local functions and classes by value. A worker that has no lastax, or another version,
can therefore load these and say what it lacks.
"""

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from importlib import metadata

from distributed import Worker, WorkerPlugin
from distributed.protocol import pickle


def version_check(wanted: Mapping[str, str]) -> Callable[[], str | None]:
    """A function for workers: it names the first package with another version, or returns None."""

    def difference() -> str | None:
        for name, version in wanted.items():
            try:
                found = metadata.version(name)
            except metadata.PackageNotFoundError:
                found = "not installed"
            if found != version:
                return (
                    f"has {name} {found}, but this sweep has {version}: install the same versions "
                    "on all machines"
                )
        return None

    # Decorators that check types, as in the tests, cannot be pickled.
    return inspect.unwrap(difference)


def worker_plugin(
    prepare: Callable[[], None], shares: int | None, versions: Mapping[str, str]
) -> WorkerPlugin:
    """A plugin that checks versions, restricts a worker to its cores, and calls a function.

    Args:
        prepare: the function, which can be pickled.
        shares: number of workers that divide the cores of this machine, named 0, 1, and so on;
            None if every worker may use all cores.
        versions: the versions that a worker must have. A worker with others closes itself.
    """
    difference = version_check(versions)
    packed = pickle.dumps(prepare)

    def setup(plugin: WorkerPlugin, worker: Worker) -> None:
        """Called by Dask when a worker starts."""
        found = difference()
        if found is not None:
            message = f"worker {worker.address} {found}; it closes"
            logging.getLogger("distributed.worker.lastax").error(message)
            # Dask prints this at the client, on stderr.
            worker.log_event("print", {"args": (f"lastax: {message}",), "file": 2})
            # Dask would only log an error of this function, and send work to the worker.
            worker.loop.add_callback(worker.close_gracefully, restart=False, reason="versions")
            return
        # Threads that start later inherit the cores of this one. Without this call, the scheduler
        # of the system decides.
        if shares is not None and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[int(worker.name) :: shares] or cores)
        pickle.loads(packed)()

    plugin: WorkerPlugin = type("WorkerSetup", (WorkerPlugin,), {"setup": inspect.unwrap(setup)})()
    return plugin
