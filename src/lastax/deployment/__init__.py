"""Networks as code for other machines: streaming cells in C."""

from lastax.deployment._footprint import Footprint as Footprint
from lastax.deployment._footprint import footprint as footprint
from lastax.deployment._rounding import Quantization as Quantization
from lastax.deployment._to_c import to_c as to_c

__all__ = [
    "Footprint",
    "Quantization",
    "footprint",
    "to_c",
]
