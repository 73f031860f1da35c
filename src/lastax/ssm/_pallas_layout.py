"""The sizes of the GPU kernels of the recurrence, and how programs divide its operands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp

from lastax._typing import Array

OfLayout = TypeVar("OfLayout", bound="Layout")


class Tile(NamedTuple):
    """Sizes of a kernel.

    Attributes:
        steps: steps per chunk `T`, a power of two.
        lanes: number of states in a program, of one or several sequences, a power of two.
        unroll: steps whose values are loaded together, a power of two, at most `steps / 2`.
        warps: groups of 32 threads per program.
    """

    steps: int
    lanes: int
    unroll: int
    warps: int


class Kernels(NamedTuple):
    """How the kernels run.

    Attributes:
        forward: sizes of the kernels of the recurrence.
        adjoint: sizes of the kernels of its adjoint.
        interpret: run them as JAX operations, which every device can do, slowly.
    """

    forward: Tile
    adjoint: Tile
    interpret: bool


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sizes of the kernels for some operands.

    Attributes:
        directions: for each recurrence, whether it runs in reverse.
        batch: axes of the batch.
        length: number of steps `L`.
        count: number of states `P`.
        dtype: real dtype of the states.
        tile: sizes of the kernels.
        interpret: run the kernels as JAX operations.
    """

    directions: tuple[bool, ...]
    batch: tuple[int, ...]
    length: int
    count: int
    dtype: Any
    tile: Tile
    interpret: bool

    @classmethod
    def of(
        cls: type[OfLayout],
        directions: tuple[bool, ...],
        lam: Array,
        sequences: Sequence[Array],
        tile: Tile,
        *,
        interpret: bool,
    ) -> OfLayout:
        batch = jnp.broadcast_shapes(lam.shape[:-1], *(x.shape[:-2] for x in sequences))
        length, count = sequences[0].shape[-2], lam.shape[-1]
        # A short sequence is one chunk, with as few steps as the loops allow.
        steps = min(tile.steps, max(power_of_two_from(length), 2 * tile.unroll))
        tile = tile._replace(steps=steps)
        return cls(directions, batch, length, count, lam.real.dtype, tile, interpret)

    @property
    def chunks(self) -> int:
        return -(-self.length // self.tile.steps)

    @property
    def lanes(self) -> tuple[int, int]:
        """Sequences and states per program, both powers of two."""
        states = min(self.tile.lanes, power_of_two_from(self.count))
        return min(self.tile.lanes // states, power_of_two_from(math.prod(self.batch))), states

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs along sequences, chunks and states."""
        sequences, states = self.lanes
        return -(-math.prod(self.batch) // sequences), self.chunks, -(-self.count // states)


def power_of_two_from(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()
