"""The runtimes that `lastax export --to` writes one file for."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from lastax.calibration._chunks import CalibrationBatches
from lastax.deployment._onnx import to_onnx
from lastax.deployment._rounding import Quantization
from lastax.deployment._stablehlo import to_stablehlo
from lastax.nn._networks import Network
from lastax.nn._streaming import streaming
from lastax.nn._streaming_cell import StreamingCell


class Exporter(Protocol):
    """Writes a network to a file."""

    def __call__(
        self,
        model: Network,
        file: Path,
        *,
        classes: Sequence[str],
        quantize: Quantization | None,
        calibration: CalibrationBatches | None,
    ) -> None:
        """Write a network.

        Args:
            model: the network.
            file: the file.
            classes: names of the classes.
            quantize: how numbers are stored.
            calibration: unlabeled sequences for activations in 8 bits.
        """


def _stablehlo(
    model: Network | StreamingCell, file: Path, *, quantize: Quantization | None, **_: object
) -> None:
    if quantize is not None:
        raise ValueError(
            f"to_stablehlo: weights cannot be {quantize}; leave quantize out, or export to C or "
            "ONNX"
        )
    to_stablehlo(model, file)


def _stablehlo_step(
    model: Network, file: Path, *, quantize: Quantization | None, **_: object
) -> None:
    _stablehlo(streaming(model), file, quantize=quantize)


TARGETS: Mapping[str, Exporter] = MappingProxyType(
    {
        "onnx": to_onnx,
        "onnx-sequence": functools.partial(to_onnx, whole_sequence=True),
        "stablehlo": _stablehlo,
        "stablehlo-step": _stablehlo_step,
    }
)
