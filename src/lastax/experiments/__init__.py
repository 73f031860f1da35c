"""Pruning of runs, and sweeps over methods and ratios."""

from lastax.experiments._calibration_options import CalibrationOptions as CalibrationOptions
from lastax.experiments._cells import CELLS_FILE as CELLS_FILE
from lastax.experiments._cells import UNPRUNED as UNPRUNED
from lastax.experiments._cells import Grid as Grid
from lastax.experiments._cells import pack_correct as pack_correct
from lastax.experiments._cells import read_cells as read_cells
from lastax.experiments._cells import unpack_correct as unpack_correct
from lastax.experiments._cluster import local_cluster as local_cluster
from lastax.experiments._cluster import scheduler_cluster as scheduler_cluster
from lastax.experiments._default_calibration import default_calibration as default_calibration
from lastax.experiments._paired import PairedDifference as PairedDifference
from lastax.experiments._paired import paired_bootstrap as paired_bootstrap
from lastax.experiments._paired import paired_differences as paired_differences
from lastax.experiments._post_processing import PostProcessing as PostProcessing
from lastax.experiments._prune_options import AUTO as AUTO
from lastax.experiments._prune_options import DEFAULT_MAX_LOSS as DEFAULT_MAX_LOSS
from lastax.experiments._prune_options import OptionError as OptionError
from lastax.experiments._prune_options import PruneOptions as PruneOptions
from lastax.experiments._prune_run import PrunedRun as PrunedRun
from lastax.experiments._prune_run import prune_run as prune_run
from lastax.experiments._prune_run import pruning_key as pruning_key
from lastax.experiments._summary import SweepCurves as SweepCurves
from lastax.experiments._summary import compressible_ratio as compressible_ratio
from lastax.experiments._summary import sweep_groups as sweep_groups
from lastax.experiments._summary import sweep_summary as sweep_summary
from lastax.experiments._sweep import RECONSTRUCTION_STEPS as RECONSTRUCTION_STEPS
from lastax.experiments._sweep import SWEEP_FIGURE as SWEEP_FIGURE
from lastax.experiments._sweep import SWEEP_RESULTS as SWEEP_RESULTS
from lastax.experiments._sweep import SWEEP_TABLE as SWEEP_TABLE
from lastax.experiments._sweep import save_sweep as save_sweep
from lastax.experiments._sweep import sweep as sweep
from lastax.experiments._sweep import sweep_results as sweep_results

__all__ = [
    "AUTO",
    "CELLS_FILE",
    "DEFAULT_MAX_LOSS",
    "RECONSTRUCTION_STEPS",
    "SWEEP_FIGURE",
    "SWEEP_RESULTS",
    "SWEEP_TABLE",
    "UNPRUNED",
    "CalibrationOptions",
    "Grid",
    "OptionError",
    "PairedDifference",
    "PostProcessing",
    "PruneOptions",
    "PrunedRun",
    "SweepCurves",
    "compressible_ratio",
    "default_calibration",
    "local_cluster",
    "pack_correct",
    "paired_bootstrap",
    "paired_differences",
    "prune_run",
    "pruning_key",
    "read_cells",
    "save_sweep",
    "scheduler_cluster",
    "sweep",
    "sweep_groups",
    "sweep_results",
    "sweep_summary",
    "unpack_correct",
]
