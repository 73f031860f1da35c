"""The output of a recurrence as a GPU kernel, which does not write the states.

The kernels of `_pallas_scan` write all states, and a matrix product reads them again. Here one
program computes the states of a chunk, multiplies them, and writes only the output.

A program computes the states step by step, and a matrix product needs them as a tile. They pass
through a scratch array in device memory, since Pallas with Triton has no access to shared memory. A
program computes several chunks in turn with the same part of the scratch array, so that the scratch
array fits into the cache of the device.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lastax._typing import Array
from lastax.ssm._pallas_layout import Kernels, OutputTile, Tile, power_of_two_from
from lastax.ssm._pallas_rows import Rows, part_of
from lastax.ssm._pallas_scan import KernelCalls
from lastax.ssm._powers import SplitComplex, add, multiply


def kernel_output(
    directions: tuple[bool, ...],
    lam: Array,
    b: Array,
    weights: Array,
    *,
    kernels: Kernels,
    precision: str | None,
) -> Array:
    """The product of the states of all directions with a matrix.

    Args:
        directions: for each recurrence, whether it runs in reverse.
        lam: eigenvalues, shape `(..., P)`.
        b: driving input of all recurrences, shape `(..., L, 2 P)`.
        weights: matrix for the states in the order of a joined array, shape `(2 D P, H)`.
        kernels: how the kernels run, with sizes for the output.
        precision: precision of the product.

    Returns:
        The output, shape `(..., L, H)`.

    Raises:
        ValueError: if `kernels` has no sizes for the output.
    """
    sizes = kernels.output
    if sizes is None:
        raise ValueError("kernel_output: kernels.output is None; pass the sizes of the kernel")
    # One program has all states of a sequence, since it adds up their products.
    lanes = power_of_two_from(lam.shape[-1])
    tile = Tile(sizes.steps, lanes, sizes.unroll, sizes.warps)
    calls = _OutputCalls.of(directions, lam, (b,), tile, interpret=kernels.interpret)
    (factor, power), (entering,) = calls.factors(lam), calls.sequences((b,))
    starts = calls.starts(factor, power, (entering,))
    y = calls.output(factor, starts, entering, weights, sizes, precision)
    return y.reshape(*calls.batch, calls.length, weights.shape[1])


class _OutputCalls(KernelCalls):
    """The calls of the kernel."""

    def output(
        self,
        factor: Array,
        starts: Array | None,
        entering: Array,
        weights: Array,
        sizes: OutputTile,
        precision: str | None,
    ) -> Array:
        """The output, shape `(N, L, H)`."""
        from jax.experimental import pallas as pl

        count, states = len(entering), self.lanes[1]
        parts, channels = 2 * len(self.directions), weights.shape[1]
        columns = min(sizes.columns, power_of_two_from(channels))
        # Zero rows and columns, so that blocks of powers of two fill the matrix.
        W = jnp.pad(
            weights.reshape(parts, self.count, channels),
            ((0, 0), (0, states - self.count), (0, -channels % columns)),
        ).reshape(parts * states, -1)
        chunks = math.ceil(count * self.chunks / sizes.programs)
        programs = -(-self.chunks // chunks)
        shapes = [
            jax.ShapeDtypeStruct((count, self.length, channels), entering.dtype),
            jax.ShapeDtypeStruct((count * programs, self.tile.steps, parts, states), self.dtype),
        ]
        given = [*([] if starts is None else [starts]), entering, W]
        blocks = [
            *([] if starts is None else [self.block(chunks, parts)]),
            self.block(chunks * self.tile.steps, 2),
            pl.BlockSpec(W.shape, lambda b, i, j: (0, 0)),
        ]
        results = [
            pl.BlockSpec((1, chunks * self.tile.steps, W.shape[1]), lambda b, i, j: (b, i, 0)),
            pl.BlockSpec(
                (1, *shapes[1].shape[1:]), lambda b, i, j: (b * np.int32(programs) + i, 0, 0, 0)
            ),
        ]

        def kernel(factor_ref: Any, *refs: Any) -> None:
            *start_refs, input_ref, weights_ref, output_ref, scratch_ref = refs
            # The rows of a program are those of several chunks.
            tile = self.tile._replace(steps=chunks * self.tile.steps)
            rows = Rows(dataclasses.replace(self, tile=tile))
            own_factor = rows.factor(factor_ref)
            # Interpreted kernels cannot ask for the program inside of a loop.
            before = pl.program_id(1) * np.int32(chunks)

            def one_chunk(index: Array, carry: Array) -> Array:
                first = index * np.int32(self.tile.steps)
                start = [
                    rows.complex(start_refs[0], index, component=2 * part)
                    if start_refs
                    else rows.zero
                    for part in range(len(self.directions))
                ]
                self._write_states(rows, own_factor, start, input_ref, scratch_ref, first)
                rows.wait()
                remaining = self.length - (before * np.int32(self.tile.steps) + first)
                self._multiply(
                    weights_ref,
                    scratch_ref,
                    output_ref,
                    first,
                    (remaining, channels),
                    sizes,
                    precision,
                )
                rows.wait()
                return carry

            last = jnp.minimum(np.int32(chunks), np.int32(self.chunks) - before)
            jax.lax.fori_loop(np.int32(0), last, one_chunk, np.int32(0))

        return self.call(
            kernel,
            (count, programs, 1),
            [self.factor_block(factor), *blocks],
            results,
            shapes,
        )(factor, *given)[0]

    def _write_states(
        self,
        rows: Rows,
        factor: SplitComplex,
        start: list[SplitComplex],
        input_ref: Any,
        scratch_ref: Any,
        first: Array,
    ) -> None:
        """Write the states of the chunk that begins in row `first` to the scratch array."""

        def group(step: Array, states: list[SplitComplex]) -> list[SplitComplex]:
            places = [
                [rows.place(reverse, step + k, self.tile.steps) for k in range(self.tile.unroll)]
                for reverse in self.directions
            ]
            loaded = [
                [rows.complex(input_ref, first + place, sequence=True) for place in along]
                for along in places
            ]
            following = []
            for index, state in enumerate(states):
                for place, value in zip(places[index], loaded[index], strict=True):
                    state = add(multiply(factor, state), value)
                    rows.store(scratch_ref, place, state, component=2 * index)
                following.append(state)
            return following

        rows.loop(self.tile.steps, group, start)

    def _multiply(
        self,
        weights_ref: Any,
        scratch_ref: Any,
        output_ref: Any,
        first: Array,
        shape: tuple[Array, int],
        sizes: OutputTile,
        precision: str | None,
    ) -> None:
        """Write the output of the chunk that begins in row `first`.

        `shape` is the number of steps from there to the end, and the number of channels.
        """
        from jax.experimental.pallas import triton

        (_, states), (_, steps, parts, _) = self.lanes, scratch_ref.shape
        columns = min(sizes.columns, power_of_two_from(shape[1]))
        width = min(sizes.states, states)
        blocks = states // width
        row = jax.lax.broadcasted_iota(jnp.int32, (steps, columns), 0)
        column = jax.lax.broadcasted_iota(jnp.int32, (steps, columns), 1)
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, steps, 1, width), 3)
        for start in range(0, weights_ref.shape[1], columns):

            def block(index: Array, sums: Array, start: int = start) -> Array:
                # With 64-bit types enabled, the counter has 64 bits.
                index = index.astype(np.int32)
                part = jax.lax.div(index, np.int32(blocks))
                within = jax.lax.rem(index, np.int32(blocks)) * np.int32(width)
                # Lanes without a state are not written.
                inside = None if states == self.count else within + lane < self.count
                other = None if inside is None else 0.0
                written = part_of(scratch_ref, (0, 0, part, within), (1, steps, 1, width))
                x = triton.load(written, mask=inside, other=other)
                place = index * np.int32(width), start
                W = triton.load(part_of(weights_ref, place, (width, columns)))
                return sums + jnp.dot(x.reshape(steps, width), W, precision=precision)

            sums = jnp.zeros((steps, columns), self.dtype)
            sums = jax.lax.fori_loop(np.int32(0), np.int32(parts * blocks), block, sums)
            triton.store(
                part_of(output_ref, (0, first, start), (1, steps, columns)),
                sums[None].astype(output_ref.dtype),
                mask=((row < shape[0]) & (start + column < shape[1]))[None],
            )
