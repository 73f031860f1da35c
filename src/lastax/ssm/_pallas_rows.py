"""Access to the rows of arrays inside a GPU kernel: loads, stores, masks and loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lastax._typing import Array
from lastax.ssm._pallas_layout import Layout
from lastax.ssm._powers import SplitComplex


class Rows:
    """Access to the rows of a program's tile, `(sequences, 1, 1, states)` each."""

    def __init__(self, layout: Layout) -> None:
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import triton

        self._pl, self._triton, self._layout = pl, triton, layout
        sequences, states = layout.lanes
        self._shape = (sequences, 1, 1, states)
        self._chunk = pl.program_id(1)
        # Powers of two rarely divide the sizes, so the last tile of an axis extends past the array.
        self._inside = [
            *self._inside_axis(0, 0, math.prod(layout.batch), self._shape),
            *self._inside_axis(3, 2, layout.count, self._shape),
        ]

    def _inside_axis(
        self, axis: int, grid_axis: int, size: int, shape: tuple[int, ...]
    ) -> list[Array]:
        if size % shape[axis] == 0:
            return []
        first = self._pl.program_id(grid_axis) * shape[axis]
        return [first + jax.lax.broadcasted_iota(jnp.int32, shape, axis) < size]

    def factor(self, ref: Any) -> SplitComplex:
        """The factors of the states, for each sequence or for all."""
        shape = (ref.shape[0], *self._shape[1:])
        sequences = math.prod(self._layout.batch)
        inside = [
            *(self._inside_axis(0, 0, sequences, shape) if shape[0] > 1 else []),
            *self._inside_axis(3, 2, self._layout.count, shape),
        ]
        return self._load(ref, 0, 0, self._all(inside, shape))

    @property
    def zero(self) -> SplitComplex:
        zero = jnp.zeros(self._shape, self._layout.dtype)
        return zero, zero

    @staticmethod
    def place(reverse: bool, step: Any, steps: int) -> Any:
        return steps - 1 - step if reverse else step

    @staticmethod
    def of_direction(refs: list[Any], index: int) -> tuple[Any, int]:
        """The array of a direction, and its first component there.

        One array may serve all directions, or hold all of them.
        """
        if len(refs) > 1:
            return refs[index], 0
        return refs[0], 2 * index if refs[0].shape[2] > 2 else 0

    def inputs(self, refs: list[Any], first: Array) -> list[list[SplitComplex]]:
        """The values of the next steps for each direction."""
        layout = self._layout
        values = []
        for index, reverse in enumerate(layout.directions):
            ref, component = self.of_direction(refs, index)
            places = [
                self.place(reverse, first + step, layout.tile.steps)
                for step in range(layout.tile.unroll)
            ]
            values.append(
                [self.complex(ref, place, component=component, sequence=True) for place in places]
            )
        return values

    def loop(self, steps: int, group: Callable[[Array, Any], Any], carry: Any) -> Any:
        """Run `group(first step, carry)` for each group of unrolled steps."""
        unroll = self._layout.tile.unroll
        # With 64-bit types enabled, Python integers would give a 64-bit counter.
        return jax.lax.fori_loop(
            np.int32(0),
            np.int32(steps // unroll),
            lambda index, carry: group(index * np.int32(unroll), carry),
            carry,
        )

    def complex(
        self, ref: Any, row: Any, *, component: int = 0, sequence: bool = False
    ) -> SplitComplex:
        """Real and imaginary parts of a row, zero outside the array."""
        return self._load(ref, row, component, self._mask(row, sequence))

    def store(
        self, ref: Any, row: Any, value: SplitComplex, *, component: int = 0, sequence: bool = False
    ) -> None:
        mask = self._mask(row, sequence)
        for part in (0, 1):
            self._triton.store(
                self._row(ref, row, component + part), value[part].astype(ref.dtype), mask=mask
            )

    def wait(self) -> None:
        """Let all threads of the program see what has been written."""
        if not self._layout.interpret:
            self._triton.debug_barrier()

    def _row(self, ref: Any, row: Any, component: int) -> Any:
        sequences, _, _, states = self._shape
        sizes = (min(ref.shape[0], sequences), 1, 1, states)
        # Interpreted loads take slices of one row instead of integers, and all of the same type.
        places = (
            self._pl.ds(jnp.asarray(start, jnp.int32), size)
            for start, size in zip((0, row, component, 0), sizes, strict=True)
        )
        return ref.at[tuple(places)]

    def _load(self, ref: Any, row: Any, component: int, mask: Array | None) -> SplitComplex:
        zero = None if mask is None else 0.0
        re, im = (
            self._triton.load(self._row(ref, row, component + part), mask=mask, other=zero)
            for part in (0, 1)
        )
        return re.astype(self._layout.dtype), im.astype(self._layout.dtype)

    def _mask(self, row: Any, sequence: bool) -> Array | None:
        """Where a row is inside the array; None if it is everywhere."""
        layout, conditions = self._layout, list(self._inside)
        if sequence and layout.length % layout.tile.steps:
            conditions.append(self._chunk * layout.tile.steps + row < layout.length)
        return self._all(conditions, self._shape)

    @staticmethod
    def _all(conditions: list[Array], shape: tuple[int, ...]) -> Array | None:
        if not conditions:
            return None
        inside = conditions[0]
        for condition in conditions[1:]:
            inside = inside & condition
        return jnp.broadcast_to(inside, shape)
