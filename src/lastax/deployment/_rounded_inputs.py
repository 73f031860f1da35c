"""Inputs of matrix products in 8 bits, with one scale per tensor.

States are no such inputs: the products with `C` read them in float32.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.calibration._chunks import CalibrationBatches, calibration_chunks
from lastax.nn._blocks import Linear, gelu
from lastax.nn._recurrence import Recurrence
from lastax.nn._streaming_cell import StreamingCell, StreamingState

SMALLEST, LARGEST = -128, 127
# With more inputs, a sum of products of two 8-bit numbers could exceed 32 bits.
_MOST_INPUTS = (2**31 - 1) // (-SMALLEST * LARGEST)
# Below it, the inverse of a scale may not be a number of 32 bits.
_SMALLEST_PEAK = 1e-30


class RoundedLinear(Linear):
    """A linear map that rounds its input to 8 bits.

    Attributes:
        input_scale: difference of two neighboring values of the input.
        offset: added to the input, as a share of `input_scale`, before it is rounded.
    """

    input_scale: Float[Array, ""]
    offset: Scalar = 0.0

    def __call__(
        self, x: Float[Array, "*shape n"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*shape m"]:
        """Apply the map to the last axis of the rounded array."""
        return super().__call__(_rounded(x, self.input_scale, self.offset), key=key)


class RoundedRecurrence(Recurrence):
    """A recurrence that rounds the input of `B`, and of a dense `D`, to 8 bits.

    Attributes:
        input_scale: difference of two neighboring values of the input.
        offset: added to the input, as a share of `input_scale`, before it is rounded.
    """

    input_scale: Float[Array, ""] = dataclasses.field(kw_only=True)
    offset: Scalar = 0.0

    def drive(self, u: Float[Array, " H"]) -> Float[Array, " Q"]:
        """The driving input of the states, shape `(2 P,)`."""
        return super().drive(_rounded(u, self.input_scale, self.offset))

    def feedthrough(self, u: Float[Array, " H"]) -> Float[Array, " H"]:
        """The part of the output that depends on the current input only, shape `(H,)`."""
        if self.D.ndim == 2:
            u = _rounded(u, self.input_scale, self.offset)
        return super().feedthrough(u)


def input_scale(part: Linear | Recurrence) -> np.float32 | None:
    """The scale of rounded inputs; None for inputs in float32."""
    if isinstance(part, RoundedLinear | RoundedRecurrence):
        return np.float32(part.input_scale)
    return None


def rounds_inputs(cell: StreamingCell) -> bool:
    """Whether a cell rounds the inputs of its matrices."""
    return input_scale(cell.head) is not None


def with_offset(cell: StreamingCell, offset: Scalar) -> StreamingCell:
    """The cell that adds an offset to all inputs before it rounds them.

    Args:
        cell: a cell of `with_rounded_inputs`.
        offset: as a share of the difference of two neighboring values.
    """

    def shifted(part: object) -> object:
        if isinstance(part, RoundedLinear | RoundedRecurrence):
            return dataclasses.replace(part, offset=offset)
        return part

    kinds = (RoundedLinear, RoundedRecurrence)
    return jax.tree.map(shifted, cell, is_leaf=lambda part: isinstance(part, kinds))


def with_rounded_inputs(
    function: str, cell: StreamingCell, calibration: CalibrationBatches
) -> StreamingCell:
    """The cell whose matrices read inputs of 8 bits.

    The largest absolute value of each tensor in the calibration data becomes 127.

    Args:
        function: the function that the user called, for messages.
        cell: a cell in float32, as `rounded_cell` returns it.
        calibration: unlabeled sequences.

    Raises:
        ValueError: if the sequences do not fit the cell, if a tensor is zero on all of them
            or not finite, or if a matrix has too many inputs.
    """
    largest = _largest_inputs(function, cell, calibration)

    def scale(name: str) -> Array:
        if not _SMALLEST_PEAK < largest[name] < np.inf:
            found = "only zeros" if largest[name] < 1 else "values that are not finite"
            raise ValueError(
                f"{function}: with these calibration data, {name} has {found}, so that there is no "
                "scale for 8 bits; pass sequences of the task, or leave calibration out "
                "(--calibration 0)"
            )
        return jnp.asarray(largest[name] / LARGEST, jnp.float32)

    def linear(part: Linear, scale: Array) -> RoundedLinear:
        _check_inputs(function, part.weight)
        return RoundedLinear(part.weight, part.bias, scale)

    blocks = []
    for number, block in enumerate(cell.blocks):
        recurrence, gate = block.recurrence, block.gate
        if _has_matrix_input(recurrence):
            _check_inputs(function, recurrence.D)
            fields = {f.name: getattr(recurrence, f.name) for f in dataclasses.fields(Recurrence)}
            recurrence = RoundedRecurrence(**fields, input_scale=scale(_layer(number)))
        if gate.gate is not None:
            features = scale(_gate(number))
            value = None if gate.value is None else linear(gate.value, features)
            gate = dataclasses.replace(gate, value=value, gate=linear(gate.gate, features))
        blocks.append(dataclasses.replace(block, recurrence=recurrence, gate=gate))
    return dataclasses.replace(
        cell,
        embed=cell.embed if cell.tokens else linear(cell.embed, scale(_EMBED)),
        blocks=tuple(blocks),
        head=linear(cell.head, scale(_HEAD)),
    )


def _check_inputs(function: str, weights: Array) -> None:
    if len(weights) > _MOST_INPUTS:
        raise ValueError(
            f"{function}: a sum of 32 bits has space for {_MOST_INPUTS:,} products of 8-bit "
            f"numbers, but a matrix has {len(weights):,} inputs; leave calibration out "
            "(--calibration 0)"
        )


def _has_matrix_input(recurrence: Recurrence) -> bool:
    """Whether a matrix reads the input. In a `ChannelRecurrence`, vectors do."""
    B, D = recurrence.B, recurrence.D
    return bool(D.ndim == 2 or (B.ndim == 2 and B.shape[1]))


# Names of inputs, as messages show them.
_EMBED, _HEAD = "the input of the first matrix", "the input of the head"


def _layer(number: int) -> str:
    return f"the input of the layer of block {number}"


def _gate(number: int) -> str:
    return f"the GELU of block {number}"


def _largest_inputs(
    function: str, cell: StreamingCell, calibration: CalibrationBatches
) -> dict[str, float]:
    """The largest absolute value of each input by name. It is NaN if a value is NaN."""
    inputs = len(cell.embed.weight)
    found: dict[str, float] = {}
    for chunk in calibration_chunks(function, calibration):
        shape, integers = chunk.x.shape[1:], np.issubdtype(chunk.x.dtype, np.integer)
        fits = integers and len(shape) == 1 if cell.tokens else shape[1:] == (inputs,)
        real = chunk.x.dtype.kind in "biuf" or chunk.x.dtype == jnp.bfloat16
        if not fits or not real or shape[0] < 1:
            expected = "of tokens of shape (N, L)" if cell.tokens else f"of shape (N, L, {inputs})"
            raise ValueError(
                f"{function}: calibration data must be sequences {expected} with L >= 1, got "
                f"{chunk.x.dtype} "
                f"of shape {chunk.x.shape}"
            )
        length = np.full(len(chunk.x), shape[0]) if chunk.length is None else chunk.length
        for name, largest in _peaks(cell, chunk.x, length).items():
            found[name] = float(np.maximum(found.get(name, 0.0), np.asarray(largest)))
    return found


@jax.jit
def _peaks(
    cell: StreamingCell, x: Shaped[Array, "N L *d"], length: Int[Array, " N"]
) -> dict[str, Float[Array, ""]]:
    """Step by step, as in a stream: the memory does not depend on the length."""

    def sequence(x: Array, length: Array) -> dict[str, Array]:
        def step(
            carry: tuple[StreamingState, Array], x: Array
        ) -> tuple[tuple[StreamingState, Array], dict[str, Array]]:
            state, steps = carry
            state, read = _matrix_inputs(cell, state, x)
            peaks = {name: jnp.max(jnp.abs(values)) for name, values in read.items()}
            valid = steps < length
            return (state, steps + 1), {n: jnp.where(valid, peak, 0) for n, peak in peaks.items()}

        return jax.lax.scan(step, (cell.init(), jnp.zeros((), length.dtype)), x)[1]

    return {name: jnp.max(peaks) for name, peaks in jax.vmap(sequence)(x, length).items()}


def _matrix_inputs(
    cell: StreamingCell, state: StreamingState, x: Shaped[Array, "*d"]
) -> tuple[StreamingState, dict[str, Array]]:
    """The next state, and what the matrices read in this step."""
    read = {} if cell.tokens else {_EMBED: x}
    h = cell.embed.rows(x) if cell.tokens else cell.embed(x)
    layers, pooled = [], state.pooled
    for number, (block, layer) in enumerate(zip(cell.blocks, state.layers, strict=True)):
        layer, h, (u, y) = block.step_with_signals(layer, h)
        read |= {_layer(number): u, _gate(number): gelu(y, block.gate.gelu)}
        layers.append(layer)
    if pooled is not None:
        # The logits of a stream are those of the mean after any of its steps.
        pooled, h = pooled.step(h)
    return StreamingState(tuple(layers), pooled), {**read, _HEAD: h}


def _rounded(x: Array, scale: Array, offset: Scalar) -> Array:
    return jnp.clip(jnp.round(x / scale + offset), SMALLEST, LARGEST) * scale
