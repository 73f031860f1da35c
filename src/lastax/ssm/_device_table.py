"""The choices that depend on the device: the scan method, the tiles of GPU kernels, joint sums.

All choices of this kind are here. They are made when a program is compiled, by the platform that it
is compiled for. An explicit `scan_method` overrides the default.
"""

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from jax.export import is_symbolic_dim

from lastax._typing import Size
from lastax.ssm._pallas_layout import Kernels, Tile
from lastax.ssm._primitive import Target
from lastax.ssm._scan_methods import LONGEST_CHUNK, ScanMethod

# By platform: the method for sequences of up to a number of steps (None: of any length).
_METHODS: Mapping[str, tuple[tuple[int | None, ScanMethod], ...]] = MappingProxyType(
    {
        "cpu": ((LONGEST_CHUNK, "sequential"), (None, "chunked")),
        "cuda": ((None, "pallas"),),
    }
)

_ELSEWHERE: tuple[tuple[int | None, ScanMethod], ...] = ((None, "associative"),)

# Elsewhere, and in exported programs, an explicit `pallas` interprets the kernels.
_TRITON_PLATFORMS = ("cuda", "rocm")

# By number of stored states: the tiles of the forward pass and of the adjoint up to this number
# (None: any number). Measured on an H100: see docs/gpu.md.
_TILES: tuple[tuple[int | None, tuple[Tile, Tile]], ...] = (
    (
        None,
        (
            Tile(steps=32, lanes=32, unroll=8, warps=1),
            Tile(steps=64, lanes=32, unroll=4, warps=1),
        ),
    ),
)


def scan_method_for(target: Target, shape: tuple[Size, ...]) -> ScanMethod:
    """The default method for sequences of shape `(..., L, 2 P)`."""
    length = shape[-2]
    rules = _METHODS.get(target.platform, _ELSEWHERE)
    method = next(method for bound, method in rules if bound is None or length <= bound)
    if method == "pallas" and (target.portable or target.divided or not _fits_kernels(shape)):
        return "associative"
    return method


def kernels_for(target: Target, states: int) -> Kernels:
    """How the kernels of `pallas` run for layers of `states` stored states."""
    tiles = next(tiles for bound, tiles in _TILES if bound is None or states <= bound)
    if target.platform in _TRITON_PLATFORMS and not target.portable:
        return Kernels(*tiles, interpret=False)
    # In interpreted kernels, unrolled steps take long to compile and save no time.
    forward, adjoint = (tile._replace(unroll=1) for tile in tiles)
    return Kernels(forward, adjoint, interpret=True)


def sums_jointly(target: Target) -> bool:
    """Whether two sums over the same steps are computed as one complex sum."""
    return target.platform in _TRITON_PLATFORMS


def _fits_kernels(shape: tuple[Size, ...]) -> bool:
    """Whether the installed JAX has Pallas with its Triton lowering, which needs known sizes."""
    if any(is_symbolic_dim(size) for size in shape):
        return False
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None
