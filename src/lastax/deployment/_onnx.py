"""ONNX: a streaming cell, or a whole sequence, as a file for ONNX runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lastax._errors import MissingPackageError
from lastax.calibration._chunks import CalibrationBatches
from lastax.deployment._constants import float32_cell
from lastax.deployment._rounding import Quantization, rounded_cell
from lastax.nn._networks import Network
from lastax.nn._streaming import streaming
from lastax.nn._streaming_cell import StreamingCell
from lastax.serialization._files import write_atomically


def to_onnx(
    model: Network | StreamingCell,
    file: str | Path,
    *,
    whole_sequence: bool = False,
    classes: Sequence[str] = (),
    quantize: Quantization | None = None,
    calibration: CalibrationBatches | None = None,
) -> None:
    """Write a unidirectional classifier as ONNX, in float32 and with real arithmetic only.

    The file holds one step of the streaming cell. Inputs are `x`, the features `(batch, d)` or
    tokens `(batch,)` of one step, and the states by name, `state.layers.0.value` and so on, which
    are zero at first. Outputs are `logits`, shape `(batch, classes)`, and the new states in the
    same order, `next.layers.0.value` and so on.

    With `whole_sequence`, the file reads a sequence with a `Scan` over the cell. The input is `x`,
    shape `(batch, length, d)` or `(batch, length)`, and the output `logits` is that of the network,
    shape `(batch, classes)`.

    The operator set is 20. The file records the names of the classes, the pooling and the numbers
    of states in its metadata.

    Args:
        model: the network, or a cell from `lastax.streaming`. A network is exported with
            compensated states; `streaming(model, compensated=False)` needs fewer operations.
        file: the file; replaced if it exists.
        whole_sequence: write a sequence instead of a step.
        classes: names of the classes.
        quantize: `int8` for weights in 8 bits, as in `to_c`. The file has integers and one scale
            per output channel; `DequantizeLinear` makes float32 numbers of them.
        calibration: unlabeled sequences for activations in 8 bits, as in `to_c`. The file then
            multiplies integers: `QuantizeLinear` and `MatMulInteger`.

    Raises:
        MissingPackageError: if onnx is not installed.
        RunError: if the file cannot be written.
        ValueError: if the model cannot be a stream, as in `streaming`, or if `classes` does not fit
            it. With `quantize`, also if a state is unstable or values are not finite, or if the
            calibration data do not fit.
    """
    cell = model if isinstance(model, StreamingCell) else streaming(model)
    outputs = cell.head.bias.shape[0]
    if len(classes) not in (0, outputs):
        raise ValueError(
            f"to_onnx: classes has {len(classes)} names, but the model has {outputs} outputs"
        )
    try:
        from lastax.deployment._onnx_cell import sequence_model, step_model
    except ModuleNotFoundError as error:
        raise MissingPackageError("to_onnx", error, extra="onnx") from error
    if quantize is not None:
        cell = float32_cell("to_onnx", cell)
    cell = rounded_cell("to_onnx", cell, quantize, calibration)
    write = sequence_model if whole_sequence else step_model
    write_atomically(file, write(cell, classes, quantize))
