"""Networks for other runtimes: StableHLO, ONNX, and C code of streaming cells."""

from lastax.deployment._footprint import Footprint as Footprint
from lastax.deployment._footprint import footprint as footprint
from lastax.deployment._onnx import to_onnx as to_onnx
from lastax.deployment._quantized_cell import quantized_cell as quantized_cell
from lastax.deployment._rounding import Quantization as Quantization
from lastax.deployment._stablehlo import to_stablehlo as to_stablehlo
from lastax.deployment._targets import TARGETS as TARGETS
from lastax.deployment._to_c import to_c as to_c

__all__ = [
    "TARGETS",
    "Footprint",
    "Quantization",
    "footprint",
    "quantized_cell",
    "to_c",
    "to_onnx",
    "to_stablehlo",
]
