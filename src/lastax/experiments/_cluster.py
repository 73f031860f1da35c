"""Executors of a Dask cluster: with workers on this machine, or with a running scheduler."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from lastax._errors import MissingPackageError, RunError
from lastax.training._run_config import installed_versions

if TYPE_CHECKING:
    from distributed import Client

# Seconds to wait for a scheduler to answer, and for its first worker.
CONNECT_TIMEOUT = 20.0
WORKER_TIMEOUT = 120.0


def do_nothing() -> None:
    """A picklable function that prepares nothing in a worker."""


@contextlib.contextmanager
def local_cluster(jobs: int, *, prepare: Callable[[], None] = do_nothing) -> Iterator[Executor]:
    """An executor with `jobs` worker processes on this machine.

    Each worker runs on its own share of the cores, because threads of several processes on the same
    cores would mostly wait for each other. If a worker dies, a new one repeats its work.

    Args:
        jobs: number of worker processes.
        prepare: called once in each worker; a function at the top level of a module.

    Raises:
        MissingPackageError: if Dask is not installed.
    """
    with _needs_dask("local_cluster"):
        import dask
        from distributed import LocalCluster
    # A training starts processes, which a daemon must not do.
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            memory_limit=None,
            # Any free port: several sweeps may run at the same time.
            dashboard_address=":0",
        ) as cluster,
        _client("local_cluster", cluster) as client,
        _executor(client, prepare, jobs) as executor,
    ):
        yield executor


@contextlib.contextmanager
def scheduler_cluster(
    address: str, *, prepare: Callable[[], None] = do_nothing
) -> Iterator[Executor]:
    """An executor with the workers of a running Dask scheduler.

    Workers may join and leave at any time. The work of a worker that dies is repeated elsewhere.
    Runs and data must have the same paths on all machines.

    Args:
        address: address of the scheduler, for example `tcp://10.0.0.1:8786`.
        prepare: called once in each worker; a function at the top level of a module.

    Raises:
        MissingPackageError: if Dask is not installed.
        RunError: if no scheduler answers at the address, if no worker joins, or if a worker has
            other versions of lastax, JAX, or the packages that results depend on.
    """
    with _client("scheduler_cluster", address) as client:
        try:
            client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
        except TimeoutError as error:
            raise RunError(
                f"scheduler_cluster: the scheduler {address} has no workers after "
                f"{WORKER_TIMEOUT:g} s: start some with dask worker {address}"
            ) from error
        _check_versions(client)
        with _executor(client, prepare) as executor:
            yield executor


@contextlib.contextmanager
def _needs_dask(caller: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(caller, error, extra="cluster") from error


@contextlib.contextmanager
def _client(caller: str, cluster: Any) -> Iterator["Client"]:
    with _needs_dask(caller):
        from distributed import Client
    try:
        client = Client(cluster, timeout=CONNECT_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise RunError(
            f"{caller}: no Dask scheduler answers at {cluster}: "
            "check the address, or start one with dask scheduler"
        ) from error
    with client:
        yield client


@contextlib.contextmanager
def _executor(
    client: "Client", prepare: Callable[[], None], shares: int | None = None
) -> Iterator[Executor]:
    from lastax.experiments._worker_plugin import worker_plugin

    # Dask calls the plugin in workers that join later, too.
    name = f"lastax {client.id}"
    client.register_plugin(worker_plugin(prepare, shares, installed_versions()), name)
    executor = client.get_executor(pure=False)
    try:
        yield executor
    finally:
        # After an error, no further work may begin.
        executor.shutdown(wait=False)
        # Later sweeps may have other versions. The scheduler may be gone.
        with contextlib.suppress(OSError):
            client.unregister_worker_plugin(name)


def _check_versions(client: "Client") -> None:
    from lastax.experiments._worker_plugin import version_check

    for worker, difference in client.run(version_check(installed_versions())).items():
        if difference is not None:
            raise RunError(f"scheduler_cluster: worker {worker} {difference}")
