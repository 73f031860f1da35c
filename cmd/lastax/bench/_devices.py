"""`lastax bench devices`: a training step on several virtual devices and processes."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from typing import Any

import click
from rich.table import Table

from lastax._errors import RunError
from lastax.cmd._console import emit, err
from lastax.cmd._options import debug_option, json_option
from lastax.cmd._tables import print_table
from lastax.cmd.bench._programs import Shape

# Devices per process, and processes.
_CASES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (4, 2))
_SHAPE = Shape(batch=16, length=512, channels=64, states=32, layers=2)
_MORE_DEVICES = "--xla_force_host_platform_device_count"


@click.command()
@click.option("--steps", type=click.IntRange(1), default=9, help="Timed steps.")
@json_option
@debug_option
def devices(steps: int, as_json: bool) -> None:
    """Time a training step on 1, 2, 4 and 8 virtual devices, with 1 and 2 processes.

    Virtual devices share the cores of this machine, so the times show the overhead and not the
    speedup. The exchanged bytes are counted in the compiled program and hold for real devices.
    """
    results = []
    for per_process, processes in _CASES:
        err.print(f"{per_process * processes} devices, {processes} processes")
        results.append(_run(per_process, processes, steps))
    if as_json:
        emit({"shape": dataclasses.asdict(_SHAPE), "cases": results})
        return
    table = Table(title=f"training step, batch {_SHAPE.batch}, {_SHAPE.length} steps")
    for name in ("devices", "processes", "ms per step", "relative", "exchanged bytes"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            str(result["devices"]),
            str(result["processes"]),
            f"{1e3 * result['seconds']:.1f}",
            f"{result['seconds'] / results[0]['seconds']:.2f}",
            f"{result['exchanged_bytes']:,}",
        )
    print_table(table)


def _run(per_process: int, processes: int, steps: int) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_MORE_DEVICES}={per_process}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    settings = {"steps": steps, "shape": dataclasses.asdict(_SHAPE)}
    joined = {"coordinator_address": coordinator, "num_processes": processes}
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "lastax.cmd.bench._device_step",
                json.dumps(settings | {"processes": joined | {"process_id": process}}),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        outputs = [process.communicate() for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        if process.returncode:
            last = errors.strip().splitlines()[-1] if errors.strip() else "no message"
            raise RunError(f"bench devices: a process of {processes} ended: {last}")
    return json.loads(outputs[0][0].splitlines()[-1])
