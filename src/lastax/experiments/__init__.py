"""Pruning of runs, and sweeps over methods and ratios."""

from lastax.experiments._summary import THEN as THEN
from lastax.experiments._summary import SweepCurves as SweepCurves
from lastax.experiments._summary import compressible_ratio as compressible_ratio
from lastax.experiments._summary import sweep_groups as sweep_groups
from lastax.experiments._summary import sweep_summary as sweep_summary

__all__ = [
    "THEN",
    "SweepCurves",
    "compressible_ratio",
    "sweep_groups",
    "sweep_summary",
]
