"""Exported C code on an emulated Cortex-M4 with its FPU."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lastax.deployment import to_c

from .networks import UNIDIRECTIONAL, inputs

START = Path(__file__).parents[2] / "examples/device/cortex_m"
COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-mthumb")
CORE = ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "--specs=rdimon.specs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, (COMPILER, EMULATOR))),
        reason="needs a compiler and an emulator: apt-get install gcc-arm-none-eabi "
        "libnewlib-arm-none-eabi qemu-system-arm",
    ),
]


@pytest.mark.parametrize("compensated", [True, False])
@pytest.mark.parametrize("quantize", [None, "int8", "int8 + activations"])
@pytest.mark.parametrize("name", UNIDIRECTIONAL)
def test_the_code_computes_the_outputs_of_the_cell(name, quantize, compensated, tmp_path):
    """The written test passes on the device."""
    folder = tmp_path / "c"
    model, options = UNIDIRECTIONAL[name](), {"compensated": compensated, "quantize": quantize}
    if quantize == "int8 + activations":
        options |= {"quantize": "int8", "calibration": inputs(model, 4, 20)}
    sizes = to_c(model, folder, **options)
    sources = [START / "start.c", folder / "model.c", folder / "model_test.c"]
    program = tmp_path / "model.elf"
    linked = ("-T", START / "flash.ld", "-o", program)
    subprocess.run([COMPILER, *FLAGS, *CORE, *sources, "-lm", *linked], check=True)
    command = [EMULATOR, "-M", "mps2-an386", "-nographic", "-semihosting", "-kernel", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model: passed, largest difference " in done.stdout
    assert f"{sizes.state_bytes} bytes of state" in done.stdout
