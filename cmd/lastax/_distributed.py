"""One process of a distributed training, and its message when another process fails.

When a process ends, JAX aborts the other processes of the same training. An aborted process prints
a stack trace of JAX and cannot print anything else. So the command starts itself a second time. The
outer process passes on signals and output, and explains in one line how the inner one ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import IO, Any, TextIO, TypeVar

import click

from lastax._errors import RunError
from lastax.cmd._console import err, fail, out
from lastax.cmd._options import require_flag

Command = TypeVar("Command", bound=Callable)

# Seconds without an answer after which a process counts as lost.
HEARTBEAT_TIMEOUT = 30
# The pid of the outer process, in the environment of the inner one.
OUTER_VARIABLE = "LASTAX_OUTER_PROCESS"
# The flags of the command, by the names that JAX has for them.
DISTRIBUTED_FLAGS = {
    "coordinator_address": "--coordinator",
    "process_id": "--process",
    "num_processes": "--processes",
    "join_timeout": "--join-timeout",
}
# Help text of options whose values JAX can find.
_DETECTED = "[default: from Slurm, Kubernetes or MPI]"

# Errors of collective operations. They may show a loss before JAX reports it.
_LOST = re.compile(r"Gloo|NCCL|[Cc]onnection (reset|closed)|coordination service")
_FATAL = re.compile(r"F\d{4} .*JAX distributed service")
_JAX_LOG = re.compile(r"[EWI]\d{4} \d|\[Gloo\]")


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of the processes this one is. JAX finds the values that are None.

    Attributes:
        coordinator_address: host and port of the first process.
        process_id: number of this process, from 0.
        num_processes: number of processes.
        timeout: seconds to wait until all processes have joined.
    """

    coordinator_address: str | None
    process_id: int | None
    num_processes: int | None
    timeout: int

    def __str__(self) -> str:
        """The name of this process in messages."""
        return "this process" if self.process_id is None else f"process {self.process_id}"

    @property
    def lost_another(self) -> str:
        """The message when another process is lost."""
        return (
            f"{self}: another process ended or does not respond: read its output, then start all "
            "processes again with --resume"
        )

    @contextlib.contextmanager
    def explain_losses(self) -> Iterator[None]:
        """Explain in one line that another process ended inside the block.

        Raises:
            RunError: if a connection to another process is lost.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if _LOST.search(str(error)) is None:
                raise
            raise RunError(self.lost_another) from error

    def join(self) -> None:
        """Connect to the other processes. Then `jax.devices()` has the devices of all processes.

        Raises:
            RunError: if a flag is missing and JAX finds no Slurm, Kubernetes or MPI.
        """
        threading.Thread(target=_end_with_outer_process, daemon=True).start()
        import jax

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        try:
            jax.distributed.initialize(
                self.coordinator_address,
                self.num_processes,
                self.process_id,
                initialization_timeout=self.timeout,
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            )
        except (RuntimeError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise RunError(
                f"--distributed: {reason}; pass --coordinator, --process and --processes"
            ) from error
        if jax.process_index() > 0:
            out.quiet = err.quiet = True


def _host_and_port(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    if value is not None and re.fullmatch(r".+:\d+", value) is None:
        raise click.BadParameter(f"{value!r} is no HOST:PORT, as in 10.0.0.1:9876")
    return value


def distributed_options(command: Command) -> Command:
    """`--distributed` and its options, which the command gets as one argument `distributed`."""

    @functools.wraps(command)
    def with_processes(
        *arguments: Any,
        distributed: bool,
        coordinator_address: str | None,
        process_id: int | None,
        num_processes: int | None,
        join_timeout: int,
        **options: Any,
    ) -> Any:
        if not distributed:
            require_flag(DISTRIBUTED_FLAGS, "--distributed")
        if process_id is not None and num_processes is not None and process_id >= num_processes:
            raise click.UsageError(
                f"--process {process_id}: with --processes {num_processes}, choose 0 to "
                f"{num_processes - 1}"
            )
        chosen = Processes(coordinator_address, process_id, num_processes, join_timeout)
        return command(*arguments, distributed=chosen if distributed else None, **options)

    decorated: Any = with_processes
    for option in (
        click.option(
            "--join-timeout",
            type=click.IntRange(1),
            default=120,
            help="Seconds to wait until all processes have joined.",
        ),
        click.option(
            "--processes",
            "num_processes",
            type=click.IntRange(1),
            help=f"Number of processes.  {_DETECTED}",
        ),
        click.option(
            "--process",
            "process_id",
            type=click.IntRange(0),
            help=f"Index of this process, from 0.  {_DETECTED}",
        ),
        click.option(
            "--coordinator",
            "coordinator_address",
            metavar="HOST:PORT",
            callback=_host_and_port,
            help=f"Address of process 0.  {_DETECTED}",
        ),
        click.option(
            "--distributed",
            is_flag=True,
            help="Train with several processes, of which this is one.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def is_inner_process() -> bool:
    """Whether an outer process explains how this one ends."""
    return OUTER_VARIABLE in os.environ


def run_inner_process(processes: Processes) -> int:
    """Run this command again as the inner process, and return its exit status."""
    inner = subprocess.Popen(
        [sys.executable, "-u", "-m", "lastax.cmd.main", *sys.argv[1:]],
        env={**os.environ, OUTER_VARIABLE: str(os.getpid())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )

    def pass_on(number: int, frame: FrameType | None) -> None:
        inner.send_signal(number)

    # A terminal sends an interrupt to both processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, pass_on)
    assert inner.stdout is not None
    assert inner.stderr is not None
    output = threading.Thread(target=_copy, args=(inner.stdout, sys.stdout))
    output.start()
    fatal = _copy(inner.stderr, sys.stderr)
    output.join()
    status = inner.wait()
    if status >= 0:
        return status
    if any("RegisterTask" in line for line in fatal):
        address = processes.coordinator_address or "the coordinator"
        return fail(
            f"{processes}: not all {processes.num_processes or 'other'} processes reached "
            f"{address} within {processes.timeout} s: check the address, and start all processes "
            "at about the same time",
            1,
        )
    if fatal:
        return fail(processes.lost_another, 1)
    return fail(f"{processes}: killed by {signal.Signals(-status).name}", 1)


def _copy(source: IO[str], target: TextIO) -> list[str]:
    """Pass on all lines except those of JAX. Returns what JAX wrote when it aborted the process."""
    fatal: list[str] = []
    for line in source:
        if fatal or _FATAL.match(line):
            fatal.append(line)
        elif not _JAX_LOG.match(line):
            target.write(line)
            target.flush()
    return fatal


def end_inner_process(status: int) -> None:
    """End at once after a failure: a normal exit would wait for the other processes.

    They detect it within `HEARTBEAT_TIMEOUT` seconds.
    """
    import jax

    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized() and jax.process_index() == 0:
        # JAX aborts the others when process 0 ends. They may be about to print the same error.
        time.sleep(2)
    os._exit(status)


def _end_with_outer_process() -> None:
    while os.getppid() == int(os.environ[OUTER_VARIABLE]):
        time.sleep(1)
    os._exit(1)
