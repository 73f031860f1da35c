"""Numbers in 8 bits: weights with one scale per output channel, and inputs of matrices.

States and `lam` keep float32.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int8

from lastax.calibration._chunks import CalibrationBatches
from lastax.deployment._rounded_inputs import LARGEST, rounds_inputs, with_rounded_inputs
from lastax.nn._blocks import Linear
from lastax.nn._cell_block import CellBlock
from lastax.nn._channel_recurrence import ChannelRecurrence
from lastax.nn._recurrence import Recurrence
from lastax.nn._streaming_cell import StreamingCell

Quantization = Literal["int8"]


def to_int8(
    rows: Float[np.ndarray, "m n"],
) -> tuple[Int8[np.ndarray, "m n"], Float[np.ndarray, " m"]]:
    """Integers and one scale per row, whose products are nearest to `rows`."""
    largest = np.abs(rows).max(axis=1, initial=0)
    # The scale of a row of tiny numbers can be imprecise or zero in float32. They count as zeros.
    scales = (largest / LARGEST).astype(np.float32)
    scales = np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1))
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


def channels_to_int8(
    weights: Float[np.ndarray, " weights"], channel: Int[np.ndarray, " P"]
) -> tuple[Int8[np.ndarray, " weights"], Float[np.ndarray, " H"]]:
    """Integers, and one scale per channel.

    Args:
        weights: real, then imaginary parts of the weights of states.
        channel: the channel of each state.
    """
    channels = np.tile(channel, 2)
    integers = np.zeros(len(weights), np.int8)
    scales = np.ones(channel.max(initial=-1) + 1, np.float32)
    for number in range(len(scales)):
        here = channels == number
        rounded, scale = to_int8(weights[None, here])
        integers[here], scales[number] = rounded[0], scale[0]
    return integers, scales


def rounded_cell(
    function: str,
    cell: StreamingCell,
    quantize: Quantization | None,
    calibration: CalibrationBatches | None = None,
) -> StreamingCell:
    """The cell with the values that its weights, and inputs of matrices, have in 8 bits.

    Args:
        function: the function that the user called, for messages.
        cell: a cell in float32, as `float32_cell` returns it.
        quantize: `int8`, or None for the cell itself.
        calibration: unlabeled sequences for the scales of the inputs of matrices. Without them,
            these inputs stay as they are.

    Raises:
        ValueError: if `quantize` is anything else, or if the calibration data do not fit.
    """
    if quantize is None:
        if calibration is not None:
            raise ValueError(f"{function}: calibration has no effect without quantize='int8'")
        if rounds_inputs(cell):
            raise ValueError(
                f"{function}: the cell is one of quantized_cell with rounded activations; pass "
                "quantize='int8'"
            )
        return cell
    if quantize != "int8":
        raise ValueError(f"{function}: quantize must be 'int8' or None, got {quantize!r}")
    cell = dataclasses.replace(
        cell,
        embed=_linear(cell.embed),
        blocks=tuple(map(_block, cell.blocks)),
        head=_linear(cell.head),
    )
    return cell if calibration is None else with_rounded_inputs(function, cell, calibration)


def _rounded(rows: np.ndarray) -> np.ndarray:
    integers, scales = to_int8(rows)
    return integers * scales[:, None]


def _linear(linear: Linear) -> Linear:
    weight = jnp.asarray(_rounded(np.asarray(linear.weight).T).T)
    return dataclasses.replace(linear, weight=weight)


def _block(block: CellBlock) -> CellBlock:
    gate = dataclasses.replace(
        block.gate,
        value=None if block.gate.value is None else _linear(block.gate.value),
        gate=None if block.gate.gate is None else _linear(block.gate.gate),
    )
    return dataclasses.replace(block, gate=gate, recurrence=_recurrence(block.recurrence))


def _recurrence(recurrence: Recurrence) -> Recurrence:
    B, C, D = map(np.asarray, (recurrence.B, recurrence.C, recurrence.D))
    if isinstance(recurrence, ChannelRecurrence):
        channel = np.repeat(np.arange(len(recurrence.counts)), recurrence.counts)
        integers, scales = channels_to_int8(C, channel)
        rounded = integers * scales[np.tile(channel, 2)]
        return dataclasses.replace(recurrence, C=jnp.asarray(rounded))
    # States have units of their own. In these units, the largest output weight of each state is 1,
    # so that the states share the 8 bits of an output channel fairly.
    states = len(recurrence.lam_re)
    largest = np.abs(C).reshape(2, states, C.shape[1]).max(axis=(0, 2), initial=0)
    units = np.tile(np.where(largest > 0, largest, 1), 2).astype(np.float32)
    return dataclasses.replace(
        recurrence,
        B=jnp.asarray(_rounded((B * units).T).T),
        C=jnp.asarray(_rounded((C / units[:, None]).T).T),
        D=jnp.asarray(_rounded(D.T).T) if D.ndim == 2 else recurrence.D,
    )
