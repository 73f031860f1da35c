"""Refits on unlabeled calibration data.

`refit` removes states and fits the remaining ones in closed form. `calibrate` measures what it
needs, once for many sizes. `reconstruct` fits all parameters of a pruned model block by block, and
`recalibrate_batch_norm` recomputes the statistics of batch normalization. The other functions are
the parts that these are made of.
"""

from lastax.calibration._allocation import interpolated_curve as interpolated_curve
from lastax.calibration._allocation import least_sum_counts as least_sum_counts
from lastax.calibration._allocation import minimax_counts as minimax_counts
from lastax.calibration._allocation import probe_sizes as probe_sizes
from lastax.calibration._batch_norm import recalibrate_batch_norm as recalibrate_batch_norm
from lastax.calibration._budgets import BUDGETS as BUDGETS
from lastax.calibration._budgets import Budget as Budget
from lastax.calibration._budgets import BudgetContext as BudgetContext
from lastax.calibration._calibration import Calibration as Calibration
from lastax.calibration._calibration import calibrate as calibrate
from lastax.calibration._closed_forms import HEAD_RIDGES as HEAD_RIDGES
from lastax.calibration._closed_forms import refit_dense_outputs as refit_dense_outputs
from lastax.calibration._closed_forms import refit_head as refit_head
from lastax.calibration._closed_forms import refit_linear as refit_linear
from lastax.calibration._closed_forms import refit_outputs as refit_outputs
from lastax.calibration._data_free import singular_perturbation as singular_perturbation
from lastax.calibration._data_free import white_moments as white_moments
from lastax.calibration._data_free import white_refit as white_refit
from lastax.calibration._elimination import EliminationPath as EliminationPath
from lastax.calibration._elimination import LayerPath as LayerPath
from lastax.calibration._elimination import eliminate as eliminate
from lastax.calibration._elimination import isotonic as isotonic
from lastax.calibration._elimination import merge_paths as merge_paths
from lastax.calibration._features import RegressionSystem as RegressionSystem
from lastax.calibration._features import feedthrough_states as feedthrough_states
from lastax.calibration._features import feedthrough_weights as feedthrough_weights
from lastax.calibration._features import moments_of_rows as moments_of_rows
from lastax.calibration._features import output_weights as output_weights
from lastax.calibration._features import state_features as state_features
from lastax.calibration._features import state_slots as state_slots
from lastax.calibration._features import with_output_weights as with_output_weights
from lastax.calibration._forward_check import UncheckedForwardWarning as UncheckedForwardWarning
from lastax.calibration._gramians import empirical_gramians as empirical_gramians
from lastax.calibration._layer_errors import layer_errors as layer_errors
from lastax.calibration._moments import Moments as Moments
from lastax.calibration._moments import state_energies as state_energies
from lastax.calibration._reconstruction import reconstruct as reconstruct
from lastax.calibration._refit import refit as refit
from lastax.calibration._report import LayerReport as LayerReport
from lastax.calibration._report import RefitReport as RefitReport
from lastax.calibration._report import mean_kl_divergence as mean_kl_divergence

__all__ = [
    "BUDGETS",
    "HEAD_RIDGES",
    "Budget",
    "BudgetContext",
    "Calibration",
    "EliminationPath",
    "LayerPath",
    "LayerReport",
    "Moments",
    "RefitReport",
    "RegressionSystem",
    "UncheckedForwardWarning",
    "calibrate",
    "eliminate",
    "empirical_gramians",
    "feedthrough_states",
    "feedthrough_weights",
    "interpolated_curve",
    "isotonic",
    "layer_errors",
    "least_sum_counts",
    "mean_kl_divergence",
    "merge_paths",
    "minimax_counts",
    "moments_of_rows",
    "output_weights",
    "probe_sizes",
    "recalibrate_batch_norm",
    "reconstruct",
    "refit",
    "refit_dense_outputs",
    "refit_head",
    "refit_linear",
    "refit_outputs",
    "singular_perturbation",
    "state_energies",
    "state_features",
    "state_slots",
    "white_moments",
    "white_refit",
    "with_output_weights",
]
