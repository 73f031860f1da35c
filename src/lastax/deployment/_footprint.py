"""What a cell needs on a small device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lastax.calibration._chunks import CalibrationBatches
from lastax.deployment._constants import cell_of, float32_cell
from lastax.deployment._parts import Part, make_parts
from lastax.deployment._rounding import Quantization, rounded_cell
from lastax.nn._networks import Network
from lastax.nn._streaming_cell import StreamingCell


class Footprint(NamedTuple):
    """The size of a cell and its work per step, as `to_c` writes it.

    Attributes:
        parameters: number of constants.
        flash_bytes: bytes of the constants. The code needs a few kilobytes more.
        state_bytes: bytes of the state of one stream.
        multiply_adds: multiplications, most of them with an addition, per step. Exponentials and
            divisions are not included.
    """

    parameters: int
    flash_bytes: int
    state_bytes: int
    multiply_adds: int


def footprint(
    model: Network | StreamingCell,
    *,
    compensated: bool | None = None,
    quantize: Quantization | None = None,
    calibration: CalibrationBatches | None = None,
) -> Footprint:
    """Count what `to_c` with the same arguments writes.

    Args:
        model: a unidirectional classifier, or its cell.
        compensated: carry the rounding errors of the states along; see `to_c`.
        quantize: `int8` for weights in 8 bits.
        calibration: unlabeled sequences for activations in 8 bits.

    Returns:
        The counts.

    Raises:
        ValueError: if the model cannot stream, has an unstable state, or values that are not
            finite, or if the calibration data do not fit.
    """
    cell = float32_cell("footprint", cell_of(model, compensated))
    cell = rounded_cell("footprint", cell, quantize, calibration)
    return footprint_of(make_parts(cell, quantize))


def footprint_of(parts: Sequence[Part]) -> Footprint:
    """The sums over all parts of a program."""
    constants = [constant.values for part in parts for constant in part.constants]
    return Footprint(
        parameters=sum(values.size for values in constants),
        flash_bytes=sum(values.nbytes for values in constants),
        # Without a state, C still needs one byte.
        state_bytes=sum(4 * size for part in parts for _, size in part.state) or 1,
        multiply_adds=sum(part.multiply_adds for part in parts),
    )
