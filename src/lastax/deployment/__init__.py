"""Exporting networks to files that run without lastax."""

from lastax.deployment._onnx import to_onnx as to_onnx
from lastax.deployment._stablehlo import to_stablehlo as to_stablehlo
from lastax.deployment._targets import TARGETS as TARGETS

__all__ = ["TARGETS", "to_onnx", "to_stablehlo"]
