"""Predict the memory traffic of lastax on an H100: `python docs/gpu_traffic.py text`.

XLA compiles the programs of `lastax bench gpu` for an H100. The script adds up the bytes that each
instruction of a compiled program reads and writes. It needs the CUDA plugin of JAX, in an
environment of its own, but no GPU and no CUDA libraries:

    pip install --no-deps jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2
    JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 JAX_PLATFORMS=cpu python docs/gpu_traffic.py text --list
"""

import argparse
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from lastax.cmd.bench._programs import LASTAX, PAPER_SHAPES, build_network, network_programs

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Rate of a copy on the device that docs/gpu.md compares with, in bytes per second.
COPY_RATE = 2.55e12
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota"}
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")


class Instruction(NamedTuple):
    """One kernel of a program, and the bytes that it reads and writes."""

    name: str
    shape: str
    bytes: int


def size(shape: str) -> int:
    """Bytes of the arrays in a shape of HLO."""
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(
        BYTES[dtype] * math.prod(int(axis) for axis in axes.split(",") if axis)
        for dtype, axes in arrays
        if dtype in BYTES
    )


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions of the entry computation of a compiled program."""
    sizes: dict[str, int] = {}
    for line in text[text.index("\nENTRY ") :].splitlines()[1:]:
        found = INSTRUCTION.match(line)
        if found is None:
            continue
        name, shape, operation, rest = found.groups()
        sizes[name] = size(shape)
        if operation not in FREE:
            operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            moved = sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
            yield Instruction(name, re.sub(r"\{[^}]*\}", "", shape), moved)


def compile_for_h100(function: Callable, arguments: tuple[Any, ...]) -> Any:
    """Compile a function for an H100."""
    device = topologies.get_topology_desc(
        "", platform="cuda", topology="1x1x1", target_config=H100
    ).devices[0]
    sharding = SingleDeviceSharding(device)

    def is_array(leaf: object) -> bool:
        return eqx.is_array(leaf) or isinstance(leaf, np.ndarray)

    arrays, rest = eqx.partition(arguments, is_array)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arrays
    )

    def run(arrays: Any) -> Any:
        return eqx.filter(function(*eqx.combine(arrays, rest)), eqx.is_array)

    return jax.jit(run).lower(shapes).compile()


def main() -> None:
    """Print the traffic of evaluation and of a training step."""
    parser = argparse.ArgumentParser(description="Predict memory traffic on an H100.")
    names = [name.removeprefix("paper/") for name in PAPER_SHAPES]
    parser.add_argument("shapes", nargs="+", choices=names)
    parser.add_argument("--list", action="store_true", help="List the large instructions.")
    options = parser.parse_args()
    for name in options.shapes:
        shape = PAPER_SHAPES[f"paper/{name}"]
        programs = network_programs(shape, {LASTAX: build_network(shape)})
        for program, one in programs.items():
            compiled = compile_for_h100(one.function, one.arguments)
            found = list(instructions(compiled.as_text()))
            total = sum(instruction.bytes for instruction in found)
            temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
            print(
                f"{name} {program.partition('/')[0]}: {len(found)} kernels, {total / 1e9:.2f} GB, "
                f"{1e3 * total / COPY_RATE:.2f} ms, temporaries {temporary:.0f} MiB",
                flush=True,
            )
            for instruction in found if options.list else ():
                if instruction.bytes > 2 * shape.steps * shape.channels:
                    print(f"  {instruction.bytes / 1e6:7.1f} MB {instruction[0]} {instruction[1]}")


if __name__ == "__main__":
    main()
