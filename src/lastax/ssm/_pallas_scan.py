"""The recurrence `x_k = lam * x_{k-1} + b_k` as GPU kernels, in Pallas with its Triton lowering.

A sequence is cut into chunks of `T` steps. Three kernels compute the states:

1. `ends`: the last state of each chunk, starting from zero. It writes nothing else.
2. `starts`: a recurrence over these states with the factor `lam^T`.
3. `states`: the recurrence again, from the true state before each chunk.

One program computes one chunk for a tile of states, in all directions of time. It reads the rows of
the arrays in place: no array is padded, transposed or copied. States are in registers, with the
precision of `lam`, whatever the storage type of the sequences.

The adjoint runs the same kernels in the opposite directions. Its third kernel also computes the
sums of the gradient of `lam`, and adds up the gradients of both directions. It therefore needs no
other pass over the sequences.

Shapes are those of `_scan_methods`. The sequences of `D` directions can also be one joined array,
`(..., L, 2 D P)`: real and imaginary parts of the first direction, then those of the second. One
matrix product then reads all of them. Inside this module, an array of sequences is `(N, L, 2, P)`
or `(N, L, 2 D, P)` for `N` sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lastax._typing import Array
from lastax.ssm._pallas_layout import Kernels, Layout
from lastax.ssm._pallas_rows import Rows
from lastax.ssm._powers import SplitComplex, add, multiply, squared_repeatedly


def kernel_scan(
    directions: tuple[bool, ...],
    lam: Array,
    inputs: tuple[Array, ...],
    *,
    kernels: Kernels,
    joined: bool = False,
) -> tuple[Array, ...]:
    """The states of one recurrence per direction.

    Args:
        directions: for each recurrence, whether it runs in reverse.
        lam: eigenvalues, shape `(..., P)`.
        inputs: driving input for each recurrence, or one for all, shape `(..., L, 2 P)`.
        kernels: how the kernels run.
        joined: return one joined array.

    Returns:
        The states of each recurrence, shape `(..., L, 2 P)`, or the joined array.
    """
    plan = KernelCalls.of(directions, lam, inputs, kernels.forward, interpret=kernels.interpret)
    (factor, power), entering = plan.factors(lam), plan.sequences(inputs)
    starts = plan.starts(factor, power, entering)
    return plan.original(plan.states(factor, starts, entering, joined=joined))


def kernel_adjoint(
    directions: tuple[bool, ...],
    lam: Array,
    states: tuple[Array, ...],
    bars: tuple[Array, ...],
    *,
    shared: bool,
    kernels: Kernels,
) -> tuple[Array, tuple[Array, ...]]:
    """The transposed recurrences, and the gradient of `lam`.

    Args:
        directions: for each recurrence of the forward pass, whether it runs in reverse.
        lam: eigenvalues, shape `(..., P)`.
        states: states of the forward pass, shape `(..., L, 2 P)` each, or one joined array.
        bars: cotangents of these states, or one joined array.
        shared: whether all recurrences have the same input.
        kernels: how the kernels run.

    Returns:
        The cotangent of `lam`, shape `(..., P)`, and those of the inputs, shape `(..., L, 2 P)`:
        one per recurrence, or their sum if `shared`.
    """
    opposite = tuple(not reverse for reverse in directions)
    sequences = (*states, *bars)
    plan = KernelCalls.of(opposite, lam, sequences, kernels.adjoint, interpret=kernels.interpret)
    (factor, power), driving = plan.factors(lam.conj()), plan.sequences(bars)
    starts = plan.starts(factor, power, driving)
    # A single direction must not be added to its output, which nothing has written before.
    merged = shared and len(directions) > 1
    *adjoints, sums = plan.states(
        factor, starts, driving, passed=plan.sequences(states), merged=merged
    )
    re, im = jnp.moveaxis(sums.sum(axis=1), 1, 0)
    # In JAX, the cotangent of a complex number is the conjugate of its gradient.
    lam_bar = jax.lax.complex(re, -im).reshape(*plan.batch, plan.count)
    return lam_bar, plan.original(adjoints)


class KernelCalls(Layout):
    """The calls of the kernels."""

    def sequences(self, arrays: Sequence[Array]) -> list[Array]:
        """Arrays `(..., L, 2 P)` as `(N, L, 2, P)`, joined arrays likewise."""
        batches = [jnp.broadcast_to(x, (*self.batch, *x.shape[-2:])) for x in arrays]
        return [x.reshape(-1, self.length, x.shape[-1] // self.count, self.count) for x in batches]

    def original(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """The inverse of `sequences`."""
        return tuple(x.reshape(*self.batch, self.length, x.shape[2] * self.count) for x in arrays)

    def factors(self, lam: Array) -> tuple[Array, Array]:
        """`lam` and `lam^T`, shape `(N, 1, 2, P)`, with `N = 1` if all sequences share them."""
        if lam.size > self.count:
            lam = jnp.broadcast_to(lam, (*self.batch, self.count))
        power = squared_repeatedly(lam, self.tile.steps.bit_length() - 1)

        def separate(x: Array) -> Array:
            return jnp.stack([x.real, x.imag], axis=-2).reshape(-1, 1, 2, self.count)

        return separate(lam), separate(power)

    def starts(self, factor: Array, power: Array, entering: Sequence[Array]) -> Array | None:
        """The states before each chunk, shape `(N, n, 2 D, P)` for `D` directions.

        None if there is one chunk, which starts from zero.
        """
        if self.chunks == 1:
            return None
        parts = 2 * len(self.directions)
        shape = jax.ShapeDtypeStruct(
            (entering[0].shape[0], self.chunks, parts, self.count), self.dtype
        )
        chunk = self.block(1, parts)
        ends = self.call(
            self._ends_kernel,
            self.grid,
            [self.factor_block(factor), *map(self.sequence_block, entering)],
            [chunk],
            [shape],
        )(factor, *entering)[0]
        every = self.block(self.chunks, parts)
        sequences, _, states = self.grid
        return self.call(
            self._starts_kernel,
            (sequences, 1, states),
            [self.factor_block(power), every],
            [every],
            [shape],
        )(power, ends)[0]

    def states(
        self,
        factor: Array,
        starts: Array | None,
        entering: Sequence[Array],
        *,
        passed: Sequence[Array] = (),
        merged: bool = False,
        joined: bool = False,
    ) -> Sequence[Array]:
        """All states `(N, L, 2, P)` of each direction, `merged` into their sum, or `joined`.

        With the states `passed` in the forward pass, the last result is the sums of the gradient of
        `lam` in each chunk, shape `(N, n, 2, P)`.
        """
        given = [*([] if starts is None else [starts]), *entering, *passed]
        blocks = [
            *([] if starts is None else [self.block(1, 2 * len(self.directions))]),
            *map(self.sequence_block, (*entering, *passed)),
        ]
        count = 1 if merged or joined else len(self.directions)
        components = 2 * len(self.directions) if joined else 2
        shape = (entering[0].shape[0], self.length, components, self.count)
        shapes = [jax.ShapeDtypeStruct(shape, entering[0].dtype)] * count
        results = [self.sequence_block(one) for one in shapes]
        if passed:
            size = (entering[0].shape[0], self.chunks, 2, self.count)
            shapes.append(jax.ShapeDtypeStruct(size, self.dtype))
            results.append(self.block(1, 2))

        def kernel(factor_ref: Any, *refs: Any) -> None:
            refs_left = list(refs)

            def take(number: int) -> list[Any]:
                taken = refs_left[:number]
                del refs_left[:number]
                return taken

            start = take(0 if starts is None else 1)
            inputs, states, outputs = take(len(entering)), take(len(passed)), take(count)
            self._states_kernel(factor_ref, start, inputs, states, outputs, refs_left, merged)

        return self.call(kernel, self.grid, [self.factor_block(factor), *blocks], results, shapes)(
            factor, *given
        )

    def _ends_kernel(self, factor_ref: Any, *refs: Any) -> None:
        *input_refs, ends_ref = refs
        rows = Rows(self)
        factor = rows.factor(factor_ref)

        def group(first: Array, states: list[SplitComplex]) -> list[SplitComplex]:
            loaded = rows.inputs(input_refs, first)
            for step in range(self.tile.unroll):
                states = [
                    add(multiply(factor, state), values[step])
                    for state, values in zip(states, loaded, strict=True)
                ]
            return states

        states = rows.loop(self.tile.steps, group, [rows.zero] * len(self.directions))
        for index, state in enumerate(states):
            rows.store(ends_ref, 0, state, component=2 * index)

    def _starts_kernel(self, factor_ref: Any, ends_ref: Any, starts_ref: Any) -> None:
        rows, chunks, unroll = Rows(self), self.chunks, self.tile.unroll
        factor = rows.factor(factor_ref)

        def advance(first: Any, count: int, states: list[SplitComplex]) -> list[SplitComplex]:
            places = [
                [rows.place(reverse, first + k, chunks) for k in range(count)]
                for reverse in self.directions
            ]
            loaded = [
                [rows.complex(ends_ref, place, component=2 * index) for place in along]
                for index, along in enumerate(places)
            ]
            following = []
            for index, state in enumerate(states):
                for place, end in zip(places[index], loaded[index], strict=True):
                    rows.store(starts_ref, place, state, component=2 * index)
                    state = add(multiply(factor, state), end)
                following.append(state)
            return following

        groups = chunks // unroll
        states = jax.lax.fori_loop(
            np.int32(0),
            np.int32(groups),
            lambda index, states: advance(index * unroll, unroll, states),
            [rows.zero] * len(self.directions),
        )
        if chunks % unroll:
            advance(np.int32(groups * unroll), chunks % unroll, states)

    def _states_kernel(
        self,
        factor_ref: Any,
        start_refs: list[Any],
        input_refs: list[Any],
        passed_refs: list[Any],
        output_refs: list[Any],
        sums_refs: list[Any],
        merged: bool,
    ) -> None:
        rows, unroll = Rows(self), self.tile.unroll
        factor = rows.factor(factor_ref)
        states = [
            rows.complex(start_refs[0], 0, component=2 * index) if start_refs else rows.zero
            for index in range(len(self.directions))
        ]
        sums = [rows.zero] if passed_refs else []

        def group(first: Array, carry: tuple, *, adding: bool) -> tuple:
            states, sums = carry
            # All loads come before all stores: the compiler does not move a load across a store.
            places = [
                [rows.place(reverse, first + step, self.tile.steps) for step in range(unroll)]
                for reverse in self.directions
            ]
            loaded = rows.inputs(input_refs, first)
            passed = rows.inputs(passed_refs, first) if passed_refs else []
            present = rows.inputs(output_refs, first) if adding else []
            following = []
            for index, state in enumerate(states):
                output, component = rows.of_direction(output_refs, index)
                for step, place in enumerate(places[index]):
                    if passed:
                        # `d x_{k+1} / d lam = x_k`, times the adjoint of step `k + 1`.
                        (x_re, x_im), (re, im) = passed[index][step], state
                        product = x_re * re + x_im * im, x_re * im - x_im * re
                        sums = [add(sums[0], product)]
                    state = add(multiply(factor, state), loaded[index][step])
                    written = add(state, present[index][step]) if adding else state
                    rows.store(output, place, written, component=component, sequence=True)
                following.append(state)
            return following, sums

        def part(first: int, last: int, carry: tuple, *, adding: bool) -> tuple:
            return rows.loop(
                last - first,
                lambda step, carry: group(first + step, carry, adding=adding),
                carry,
            )

        carry = (states, sums)
        if merged:
            # In the first half, each direction writes rows that the other one has not reached.
            half = self.tile.steps // 2
            carry = part(0, half, carry, adding=False)
            rows.wait()
            carry = part(half, self.tile.steps, carry, adding=True)
        else:
            carry = part(0, self.tile.steps, carry, adding=False)
        for total, ref in zip(carry[1], sums_refs, strict=True):
            rows.store(ref, 0, total)

    def block(self, rows: int, components: int) -> Any:
        """A block of an array `(N, chunks or steps, components, P)`."""
        from jax.experimental import pallas as pl

        sequences, states = self.lanes
        shape = (sequences, rows, components, states)
        return pl.BlockSpec(shape, lambda b, i, j: (b, i, 0, j))

    def sequence_block(self, sequence: Any) -> Any:
        """The steps of a chunk."""
        return self.block(self.tile.steps, sequence.shape[2])

    def factor_block(self, factor: Array) -> Any:
        """The factors of the states."""
        from jax.experimental import pallas as pl

        sequences, states = self.lanes
        if factor.shape[0] == 1:
            return pl.BlockSpec((1, 1, 2, states), lambda b, i, j: (0, 0, 0, j))
        return pl.BlockSpec((sequences, 1, 2, states), lambda b, i, j: (b, 0, 0, j))

    def call(
        self,
        kernel: Callable[..., None],
        grid: tuple[int, int, int],
        in_specs: list[Any],
        out_specs: list[Any],
        out_shape: list[jax.ShapeDtypeStruct],
    ) -> Callable[..., Sequence[Array]]:
        """A function that runs a kernel."""
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import triton

        params = triton.CompilerParams(num_warps=self.tile.warps, num_stages=1)
        return pl.pallas_call(
            kernel,
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            out_shape=out_shape,
            interpret=self.interpret,
            compiler_params=params,
        )
