"""Count the instructions per step of exported networks on an emulated Cortex-M4 with its FPU.

Usage: python device_instructions.py RUN...

It needs arm-none-eabi-gcc with newlib, and qemu-system-arm. On Debian: apt-get install
gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm.
"""

import subprocess
import tempfile
from pathlib import Path

import click
from device_checks import NUMBERS, SEQUENCES, export_options
from device_code import CODE, write_tables

import lastax

FLAGS = ("-std=c99", "-O2", "-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
START = CODE / "cortex_m"
BOARD = ("-M", "mps2-an386", "-nographic", "-semihosting", "-icount", "shift=0")


def compile_program(program, *sources, include=()):
    """Link a program for the emulated board."""
    command = ["arm-none-eabi-gcc", *FLAGS, "--specs=rdimon.specs", "-T", START / "flash.ld"]
    command += [f"-I{folder}" for folder in include]
    subprocess.run([*command, START / "start.c", *sources, "-lm", "-o", program], check=True)


def count(model, options, source):
    """Instructions per step of the features of a split, and of a network."""
    with tempfile.TemporaryDirectory() as folder:
        code, program = Path(folder) / "word", Path(folder) / "count.elf"
        lastax.deployment.to_c(model, code, name="word", **options)
        write_tables(code / "log_mel_tables.h", source.mean, source.std)
        sources = (START / "count.c", CODE / "log_mel.c", code / "word.c")
        compile_program(program, *sources, include=(CODE, code))
        command = ["qemu-system-arm", *BOARD, "-kernel", program]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return map(int, done.stdout.split())


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(runs):
    """Count the instructions of the networks of RUNS."""
    data = lastax.data.open_data("speech")
    source, batch = data.sources["test"], lastax.training.calibration_batch(data, SEQUENCES)
    for run in runs:
        _, model = lastax.training.load_run(run)
        for numbers in NUMBERS:
            features, network = count(model, export_options(numbers, batch), source)
            print(f"{run}, {numbers}: features {features:,}, network {network:,}", flush=True)


if __name__ == "__main__":
    main()
