"""The cell that a program with rounded numbers computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lastax.calibration._chunks import CalibrationBatches
from lastax.deployment._constants import cell_of, float32_cell
from lastax.deployment._rounding import Quantization, rounded_cell
from lastax.nn._networks import Network
from lastax.nn._streaming_cell import StreamingCell


def quantized_cell(
    model: Network | StreamingCell,
    quantize: Quantization = "int8",
    *,
    compensated: bool | None = None,
    calibration: CalibrationBatches | None = None,
) -> StreamingCell:
    """The cell with the weights that `to_c` and `to_onnx` write with `quantize`, in float32.

    With `calibration`, the cell also rounds the inputs of its matrices, as these programs do. Use
    it to measure what rounding costs, for example with `lastax.predict` or
    `lastax.training.compare_split`.

    Args:
        model: a unidirectional classifier, or its cell.
        quantize: `int8` for weights in 8 bits.
        compensated: carry the rounding errors of the states along; see `to_c`.
        calibration: unlabeled sequences for the scales of activations; see `to_c`.

    Raises:
        ValueError: if the model cannot stream, has an unstable state, or values that are not
            finite, or if the calibration data do not fit.
    """
    cell = float32_cell("quantized_cell", cell_of(model, compensated))
    cell = rounded_cell("quantized_cell", cell, quantize, calibration)
    return jax.tree.map(jnp.asarray, cell)
