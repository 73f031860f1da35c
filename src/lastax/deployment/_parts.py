"""The parts of a cell as constants, state and statements of C."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lastax._typing import Array
from lastax.deployment._rounded_inputs import input_scale
from lastax.deployment._rounding import Quantization, to_int8
from lastax.nn._blocks import Gate, Linear
from lastax.nn._cell_block import CellBlock, CellNorm
from lastax.nn._channel_recurrence import ChannelRecurrence
from lastax.nn._recurrence import Recurrence
from lastax.nn._streaming_cell import StreamingCell

# The state has this entry if logits are those of a mean.
STEPS = "steps"


class Constant(NamedTuple):
    """A constant array.

    Attributes:
        name: its name in C.
        values: its values, of dtype float32, int8 or uint16.
    """

    name: str
    values: Array | np.ndarray


class Part(NamedTuple):
    """A part of one step.

    Attributes:
        title: what it does.
        statements: calls of the functions in `_functions`, on the arrays `h` (hidden state), `u`
            (input of a recurrence), `b` (driving input of its states), `y` (its output), `g`, and
            `q` (an input in 8 bits).
        constants: the constants that they use.
        state: name and number of elements of each array of the state. All elements have 4 bytes.
        multiply_adds: number of multiplications.
    """

    title: str
    statements: tuple[str, ...]
    constants: tuple[Constant, ...] = ()
    state: tuple[tuple[str, int], ...] = ()
    multiply_adds: int = 0


def make_parts(cell: StreamingCell, quantize: Quantization | None = None) -> list[Part]:
    """The parts of a step, in order.

    Args:
        cell: a cell in float32, as `float32_cell` returns it.
        quantize: `int8` for a cell of `rounded_cell`.
    """
    int8 = quantize == "int8"
    parts = [_embedding(cell, int8)]
    for number, block in enumerate(cell.blocks):
        parts += _block(f"block{number}", block, int8)
    channels = len(cell.head.weight)
    if cell.pooling == "mean":
        state = (("sum", channels), ("sum_error", channels), (STEPS, 1))
        call = f"add_to_mean({channels}, h, state->sum, state->sum_error, &state->{STEPS});"
        parts.append(Part("mean over all steps", (call,), (), state, channels))
    return [*parts, _linear("head", cell.head, "h", "logits", int8)]


def _embedding(cell: StreamingCell, int8: bool) -> Part:
    if not cell.tokens:
        return _linear("embed", cell.embed, "input", "h", int8)
    inputs, channels = cell.embed.weight.shape
    bias = Constant("embed_bias", cell.embed.bias)
    # One scale per channel, but one row per token.
    weights, names, suffix = _matrix("embed_weight", cell.embed.weight.T, int8)
    weights = (weights[0]._replace(values=weights[0].values.T), *weights[1:])
    statements = (
        f"copy({channels}, embed_bias, h);",
        f"add_row{suffix}({inputs}, {channels}, {names}, token, h);",
    )
    return Part("embedding", statements, (*weights, bias))


def _block(name: str, block: CellBlock, int8: bool) -> list[Part]:
    u = "u" if block.prenorm else "h"
    norm = _norm(name, block.norm, "h", u)
    layer = _recurrence(name, block.recurrence, u, int8)
    gate = _gate(name, block.gate, len(block.norm.scale), int8)
    return [norm, layer, *gate] if block.prenorm else [layer, *gate, norm]


def _norm(name: str, norm: CellNorm, x: str, y: str) -> Part:
    channels = len(norm.scale)
    scale, bias = (
        Constant(f"{name}_norm_scale", norm.scale),
        Constant(f"{name}_norm_bias", norm.bias),
    )
    statements: tuple[str, ...] = (
        f"scale_and_shift({channels}, {scale.name}, {bias.name}, {x}, {y});",
    )
    if norm.epsilon is not None:
        statements = (
            f"normalize({channels}, {literal(norm.epsilon)}, {x}, {y});",
            f"scale_and_shift({channels}, {scale.name}, {bias.name}, {y}, {y});",
        )
    work = channels if norm.epsilon is None else 3 * channels
    return Part(f"{name}: normalization", statements, (scale, bias), (), work)


def _recurrence(name: str, recurrence: Recurrence, u: str, int8: bool) -> Part:
    states, D, scale = len(recurrence.lam_re), recurrence.D, input_scale(recurrence)
    channels = len(D)
    work, q, statements = _rounded_input(channels, u, scale)
    work += D.size
    if D.ndim == 2:
        constants, product = _product(f"{name}_D", D.T, q, "y", int8, scale)
        statements += [f"clear({channels}, y);", product]
    else:
        constants = (Constant(f"{name}_D", D),)
        statements.append(f"multiply({channels}, {name}_D, {u}, y);")
    if states == 0:
        return Part(f"{name}: layer without states", tuple(statements), constants, (), work)
    lam = Constant(f"{name}_lam", _interleaved(recurrence.lam_re, recurrence.lam_im))
    state, ending = [(f"{name}_states", 2 * states)], ""
    values = f"state->{name}_states"
    if recurrence.compensated:
        state.append((f"{name}_errors", 2 * states))
        values, ending = f"{values}, state->{name}_errors", "_compensated"
    work += (12 if recurrence.compensated else 4) * states
    if isinstance(recurrence, ChannelRecurrence):
        counts = Constant(f"{name}_counts", np.asarray(recurrence.counts, np.uint16))
        C, names, suffix = _channel_weights(name, recurrence, int8)
        statements += [
            f"advance_channels{ending}({channels}, {counts.name}, {lam.name}, {u}, {values});",
            f"observe_channels{suffix}({channels}, {counts.name}, {names}, "
            f"state->{name}_states, y);",
        ]
        constants = (*constants, lam, counts, *C)
        work += 2 * states
    else:
        order = _interleaved(np.arange(states), np.arange(states, 2 * states))
        B, driving = _product(f"{name}_B", recurrence.B.T[order], q, "b", int8, scale)
        rows = 2 * states
        weights = recurrence.C.T[:, order]
        C, observing = _product(f"{name}_C", weights, f"state->{name}_states", "y", int8)
        statements += [
            f"clear({rows}, b);",
            driving,
            f"advance{ending}({states}, {lam.name}, b, {values});",
            observing,
        ]
        constants = (*constants, lam, *B, *C)
        work += 2 * rows * channels
    title = f"{name}: {states} states"
    return Part(title, tuple(statements), constants, tuple(state), work)


def _channel_weights(
    name: str, recurrence: ChannelRecurrence, int8: bool
) -> tuple[tuple[Constant, ...], str, str]:
    weights = _interleaved(*np.split(recurrence.C, 2))
    if not int8:
        return (Constant(f"{name}_C", weights),), f"{name}_C", ""
    edges = 2 * np.cumsum(recurrence.counts)[:-1]
    rows = [to_int8(row[None]) for row in np.split(weights, edges)]
    integers = np.concatenate([row[0][0] for row in rows])
    scales = np.concatenate([row[1] for row in rows])
    names = f"{name}_C, {name}_C_scale"
    return (Constant(f"{name}_C", integers), Constant(f"{name}_C_scale", scales)), names, "_int8"


def _gate(name: str, gate: Gate, channels: int, int8: bool) -> list[Part]:
    # `half_glu2` needs the output of the layer later. The array `u` is free after the recurrence.
    features = "g" if gate.activation == "half_glu2" else "y"
    activation = f"gelu_{gate.gelu}({channels}, y, {features});"
    title = f"{name}: {gate.activation}"
    if gate.gate is None:
        return [Part(title, (activation, f"add({channels}, y, h);"))]
    scale = input_scale(gate.gate)
    work, q, statements = _rounded_input(channels, features, scale)
    parts, passed = [Part(title, (activation, *statements), (), (), work)], "y"
    if gate.value is not None:
        passed = "g"
        parts.append(_affine(f"{name}_value", gate.value, q, passed, int8))
    parts.append(_affine(f"{name}_gate", gate.gate, q, "u", int8))
    residual = f"add_gated({channels}, {passed}, u, h);"
    return [*parts, Part(f"{name}: residual", (residual,), (), (), channels)]


def _linear(name: str, linear: Linear, x: str, y: str, int8: bool) -> Part:
    """A linear map, which rounds its input if it has to."""
    work, q, statements = _rounded_input(len(linear.weight), x, input_scale(linear))
    part = _affine(name, linear, q, y, int8)
    return part._replace(
        statements=(*statements, *part.statements), multiply_adds=work + part.multiply_adds
    )


def _affine(name: str, linear: Linear, x: str, y: str, int8: bool) -> Part:
    """A linear map of `x`, or of integers if its inputs are rounded."""
    scale = input_scale(linear)
    weights, product = _product(f"{name}_weight", linear.weight.T, x, y, int8, scale)
    statements = (f"copy({linear.weight.shape[1]}, {name}_bias, {y});", product)
    bias = Constant(f"{name}_bias", linear.bias)
    return Part(name, statements, (*weights, bias), (), linear.weight.size)


def _rounded_input(size: int, x: str, scale: np.float32 | None) -> tuple[int, str, list[str]]:
    """The work of rounding an input, the array with the result, and the statements."""
    if scale is None:
        return 0, x, []
    return size, "q", [f"to_integers({size}, {literal(1 / scale)}, {x}, q);"]


def _product(
    name: str, rows: Array, x: str, y: str, int8: bool, scale: np.float32 | None = None
) -> tuple[tuple[Constant, ...], str]:
    """The constants of a matrix, and the statement that adds its product with `x` to `y`.

    Args:
        name: name of the matrix.
        rows: its values. Rows are outputs.
        x: the array that it reads.
        y: the array to which the product is added.
        int8: whether weights have 8 bits.
        scale: the scale of `x` if it holds integers.
    """
    constants, names, suffix = _matrix(name, rows, int8)
    if scale is not None:
        integers, scales = constants
        constants = (integers, scales._replace(values=scales.values * scale))
        suffix = "_of_integers"
    outputs, inputs = rows.shape
    return constants, f"add_product{suffix}({inputs}, {outputs}, {names}, {x}, {y});"


def _matrix(name: str, rows: Array, int8: bool) -> tuple[tuple[Constant, ...], str, str]:
    """The constants of a matrix, the arguments that name them, and the end of a function's name."""
    if not int8:
        return (Constant(name, rows),), name, ""
    integers, scales = to_int8(np.asarray(rows))
    constants = (Constant(name, integers), Constant(f"{name}_scale", scales))
    return constants, f"{name}, {name}_scale", "_int8"


def _interleaved(real: Array | np.ndarray, imaginary: Array | np.ndarray) -> np.ndarray:
    return np.stack([real, imaginary], axis=-1).reshape(-1)


def literal(value: float | np.float32) -> str:
    """A number as a constant of C, which reads back as the same float32."""
    return f"{np.float32(value)!s}f"
