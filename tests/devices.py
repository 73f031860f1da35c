"""Programs of tests that need several devices, in a process of their own."""

import os
import subprocess
import sys
import textwrap


def run_on_devices(program: str, count: int, *arguments: str) -> None:
    """Run a Python program with `count` virtual CPU devices, and require that it succeeds."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        # On a machine with a GPU, JAX would use the GPU and ignore the virtual devices.
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
