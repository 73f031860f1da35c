"""The runtimes that `lastax export --to` writes one file for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from lastax.calibration._chunks import CalibrationBatches
from lastax.deployment._onnx import to_onnx
from lastax.deployment._rounding import Quantization
from lastax.deployment._stablehlo import to_stablehlo
from lastax.nn._networks import Network
from lastax.nn._streaming import streaming

# Takes a network, the file to write, the names of the classes, how numbers are stored, and
# calibration data for activations in 8 bits.
Exporter = Callable[
    [Network, Path, Sequence[str], Quantization | None, CalibrationBatches | None], None
]


def _onnx(
    model: Network,
    file: Path,
    classes: Sequence[str],
    quantize: Quantization | None,
    calibration: CalibrationBatches | None,
) -> None:
    to_onnx(model, file, classes=classes, quantize=quantize, calibration=calibration)


def _onnx_sequence(
    model: Network,
    file: Path,
    classes: Sequence[str],
    quantize: Quantization | None,
    calibration: CalibrationBatches | None,
) -> None:
    to_onnx(
        model,
        file,
        whole_sequence=True,
        classes=classes,
        quantize=quantize,
        calibration=calibration,
    )


def _stablehlo(
    model: Network,
    file: Path,
    classes: Sequence[str],
    quantize: Quantization | None,
    calibration: CalibrationBatches | None,
) -> None:
    del classes, calibration
    _check_not_quantized(quantize)
    to_stablehlo(model, file)


def _stablehlo_step(
    model: Network,
    file: Path,
    classes: Sequence[str],
    quantize: Quantization | None,
    calibration: CalibrationBatches | None,
) -> None:
    del classes, calibration
    _check_not_quantized(quantize)
    to_stablehlo(streaming(model), file)


def _check_not_quantized(quantize: Quantization | None) -> None:
    if quantize is not None:
        raise ValueError(
            f"to_stablehlo: weights cannot be {quantize}; leave quantize out, or export to C or "
            "ONNX"
        )


TARGETS: Mapping[str, Exporter] = MappingProxyType(
    {
        "onnx": _onnx,
        "onnx-sequence": _onnx_sequence,
        "stablehlo": _stablehlo,
        "stablehlo-step": _stablehlo_step,
    }
)
