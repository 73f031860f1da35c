"""lastax: train diagonal state-space models, score their states, remove the unneeded ones.

Floors, each importing only from itself and those before it:

1. mathematics: arrays and systems in, arrays out
2. networks and surgery: layers, blocks, models; prune
3. training: tasks, optimizer, steps, runs on disk, pictures

`lastax.data` (Grain pipelines) and `lastax.cmd` (the command line) stand on top and are not
imported from here.
"""

from lastax import _typecheck as _typecheck  # isort: skip
from lastax._balance import balanced_truncation as balanced_truncation
from lastax._balance import hankel_scores as hankel_scores
from lastax._balance import hankel_singular_values as hankel_singular_values
from lastax._blocks import Block as Block
from lastax._blocks import Gate as Gate
from lastax._blocks import Linear as Linear
from lastax._blocks import drop_channels as drop_channels
from lastax._budgets import interpolated_curve as interpolated_curve
from lastax._budgets import minimax_counts as minimax_counts
from lastax._budgets import probe_sizes as probe_sizes
from lastax._calibrate import remeasure_statistics as remeasure_statistics
from lastax._certificates import Certificate as Certificate
from lastax._certificates import certify as certify
from lastax._certificates import difference as difference
from lastax._certificates import error_bound as error_bound
from lastax._certificates import error_h2 as error_h2
from lastax._certificates import error_hinf as error_hinf
from lastax._certificates import h2_norm as h2_norm
from lastax._certificates import hinf_norm as hinf_norm
from lastax._checkpoints import Checkpoints as Checkpoints
from lastax._convolution import channel_kernels as channel_kernels
from lastax._convolution import convolve as convolve
from lastax._data_free import singular_perturbation as singular_perturbation
from lastax._data_free import white_moments as white_moments
from lastax._data_free import white_refit as white_refit
from lastax._discretize import discretize_bilinear as discretize_bilinear
from lastax._discretize import discretize_zoh as discretize_zoh
from lastax._discretize import inverse_of as inverse_of
from lastax._discretize import invert_bilinear as invert_bilinear
from lastax._discretize import invert_zoh as invert_zoh
from lastax._elimination import EliminationPath as EliminationPath
from lastax._elimination import LayerPath as LayerPath
from lastax._elimination import eliminate as eliminate
from lastax._elimination import merge_paths as merge_paths
from lastax._elimination import pooled as pooled
from lastax._errors import RunError as RunError
from lastax._errors import TrainingDivergedError as TrainingDivergedError
from lastax._features import direct_weights as direct_weights
from lastax._features import full_D_states as full_D_states
from lastax._features import moments_of_rows as moments_of_rows
from lastax._features import output_weights as output_weights
from lastax._features import state_features as state_features
from lastax._features import state_slots as state_slots
from lastax._features import with_output_weights as with_output_weights
from lastax._fit import Batches as Batches
from lastax._fit import FitResult as FitResult
from lastax._fit import fit as fit
from lastax._hippo import BlockBasis as BlockBasis
from lastax._hippo import NormalPart as NormalPart
from lastax._hippo import hippo_block_basis as hippo_block_basis
from lastax._hippo import hippo_legs as hippo_legs
from lastax._hippo import hippo_low_rank as hippo_low_rank
from lastax._hippo import hippo_normal_part as hippo_normal_part
from lastax._initialize import as_complex as as_complex
from lastax._initialize import as_pair as as_pair
from lastax._initialize import complex_normal_C as complex_normal_C
from lastax._initialize import initialize_B as initialize_B
from lastax._initialize import initialize_log_step as initialize_log_step
from lastax._initialize import lecun_normal_C as lecun_normal_C
from lastax._initialize import truncated_standard_normal_C as truncated_standard_normal_C
from lastax._lru import LRU as LRU
from lastax._multi_siso import AnySystem as AnySystem
from lastax._multi_siso import MultiSISO as MultiSISO
from lastax._multi_siso import channel_systems as channel_systems
from lastax._networks import Classifier as Classifier
from lastax._networks import Encoder as Encoder
from lastax._networks import Network as Network
from lastax._networks import Retrieval as Retrieval
from lastax._normalize import BatchNorm as BatchNorm
from lastax._normalize import LayerNorm as LayerNorm
from lastax._normalize import RunningStatistics as RunningStatistics
from lastax._normalize import split_trainable as split_trainable
from lastax._norms import finite_horizon_hinf_norms as finite_horizon_hinf_norms
from lastax._norms import hinf_norms as hinf_norms
from lastax._norms import impulse_energies as impulse_energies
from lastax._norms import magnitudes as magnitudes
from lastax._norms import published_squared_hinf_norms as published_squared_hinf_norms
from lastax._norms import swept_hinf_norms as swept_hinf_norms
from lastax._optimize import GROUPINGS as GROUPINGS
from lastax._optimize import SCHEDULES as SCHEDULES
from lastax._optimize import make_optimizer as make_optimizer
from lastax._optimize import parameter_groups as parameter_groups
from lastax._optimize import published_schedule as published_schedule
from lastax._optimize import textbook_schedule as textbook_schedule
from lastax._pages import html_code as html_code
from lastax._pages import html_figure as html_figure
from lastax._pages import html_heading as html_heading
from lastax._pages import html_numbers as html_numbers
from lastax._pages import html_page as html_page
from lastax._pages import html_table as html_table
from lastax._pages import html_text as html_text
from lastax._polish import polish as polish
from lastax._presets import TASKS as TASKS
from lastax._prune import CALIBRATED as CALIBRATED
from lastax._prune import METHODS as METHODS
from lastax._prune import Method as Method
from lastax._prune import PruningPlan as PruningPlan
from lastax._prune import ScoreContext as ScoreContext
from lastax._prune import padded as padded
from lastax._prune import plan_pruning as plan_pruning
from lastax._prune import prune as prune
from lastax._prune import score_states as score_states
from lastax._recurrence import ScanMethod as ScanMethod
from lastax._recurrence import diagonal_scan as diagonal_scan
from lastax._recurrence import diagonal_step as diagonal_step
from lastax._reduce import BUDGETS as BUDGETS
from lastax._reduce import BudgetContext as BudgetContext
from lastax._reduce import Calibration as Calibration
from lastax._reduce import LayerReport as LayerReport
from lastax._reduce import RefitReport as RefitReport
from lastax._reduce import calibrate as calibrate
from lastax._reduce import mean_divergence as mean_divergence
from lastax._reduce import refit as refit
from lastax._refit import Moments as Moments
from lastax._refit import refit_full_outputs as refit_full_outputs
from lastax._refit import refit_head as refit_head
from lastax._refit import refit_linear as refit_linear
from lastax._refit import refit_outputs as refit_outputs
from lastax._refit import state_energies as state_energies
from lastax._reports import draw_layout as draw_layout
from lastax._reports import draw_learning as draw_learning
from lastax._reports import draw_poles as draw_poles
from lastax._reports import draw_speeds as draw_speeds
from lastax._reports import draw_states as draw_states
from lastax._reports import draw_sweep as draw_sweep
from lastax._runs import CONFIG_FILE as CONFIG_FILE
from lastax._runs import MODEL_FILE as MODEL_FILE
from lastax._runs import RunConfig as RunConfig
from lastax._runs import build_from_config as build_from_config
from lastax._runs import divergence as divergence
from lastax._runs import find_runs as find_runs
from lastax._runs import installed_versions as installed_versions
from lastax._runs import keep_in_config as keep_in_config
from lastax._runs import kept_masks as kept_masks
from lastax._runs import layer_sizes as layer_sizes
from lastax._runs import load_config as load_config
from lastax._runs import load_results as load_results
from lastax._runs import load_run as load_run
from lastax._runs import packed_masks as packed_masks
from lastax._runs import save_config as save_config
from lastax._runs import save_model as save_model
from lastax._runs import save_results as save_results
from lastax._runs import untrained_counts as untrained_counts
from lastax._s4d import S4D as S4D
from lastax._s4d import S4D_STARTS as S4D_STARTS
from lastax._s4d import s4d_inv as s4d_inv
from lastax._s4d import s4d_legs as s4d_legs
from lastax._s4d import s4d_lin as s4d_lin
from lastax._s4d import s4d_real as s4d_real
from lastax._s5 import S5 as S5
from lastax._scores import aire_scores as aire_scores
from lastax._scores import finite_horizon_last_scores as finite_horizon_last_scores
from lastax._scores import lamp_scores as lamp_scores
from lastax._scores import last_per_channel_scores as last_per_channel_scores
from lastax._scores import last_scores as last_scores
from lastax._scores import layer_adaptive as layer_adaptive
from lastax._scores import published_last_scores as published_last_scores
from lastax._scores import random_scores as random_scores
from lastax._selection import keep_count as keep_count
from lastax._selection import select_global as select_global
from lastax._selection import select_top as select_top
from lastax._selection import select_uniform as select_uniform
from lastax._selection import uniform_counts as uniform_counts
from lastax._settings import allowed_values as allowed_values
from lastax._settings import check_settings as check_settings
from lastax._stages import NetworkStages as NetworkStages
from lastax._stages import Stages as Stages
from lastax._stages import Stream as Stream
from lastax._surgery import Layer as Layer
from lastax._surgery import UnstableStatesWarning as UnstableStatesWarning
from lastax._surgery import WritableLayer as WritableLayer
from lastax._surgery import find_layers as find_layers
from lastax._surgery import keep_states as keep_states
from lastax._surgery import replace_layers as replace_layers
from lastax._surgery import state_counts as state_counts
from lastax._surgery import systems as systems
from lastax._surgery import with_full_D as with_full_D
from lastax._surgery import write_systems as write_systems
from lastax._sweeps import DISTILLED as DISTILLED
from lastax._sweeps import NORMS as NORMS
from lastax._sweeps import NOTHING as NOTHING
from lastax._sweeps import POLISHED as POLISHED
from lastax._sweeps import THEN as THEN
from lastax._sweeps import TUNED as TUNED
from lastax._sweeps import SweepCurves as SweepCurves
from lastax._sweeps import compressible_ratio as compressible_ratio
from lastax._sweeps import sweep_groups as sweep_groups
from lastax._sweeps import sweep_summary as sweep_summary
from lastax._system import System as System
from lastax._system import frequency_response as frequency_response
from lastax._system import impulse_response as impulse_response
from lastax._system import real_system as real_system
from lastax._system import transfer_function as transfer_function
from lastax._tasks import DataConfig as DataConfig
from lastax._tasks import ModelConfig as ModelConfig
from lastax._tasks import Preset as Preset
from lastax._tasks import Task as Task
from lastax._tasks import TrainingConfig as TrainingConfig
from lastax._tasks import build_network as build_network
from lastax._train import Batch as Batch
from lastax._train import Evaluation as Evaluation
from lastax._train import Fidelity as Fidelity
from lastax._train import StepMetrics as StepMetrics
from lastax._train import TrainState as TrainState
from lastax._train import compare as compare
from lastax._train import cross_entropy as cross_entropy
from lastax._train import evaluate as evaluate
from lastax._train import kl_divergence as kl_divergence
from lastax._train import predict as predict
from lastax._train import train_step as train_step

__all__ = [
    # 1. mathematics
    "AnySystem",
    "BlockBasis",
    "Certificate",
    "EliminationPath",
    "LayerPath",
    "Moments",
    "MultiSISO",
    "NormalPart",
    "ScanMethod",
    "System",
    "aire_scores",
    "as_complex",
    "as_pair",
    "balanced_truncation",
    "certify",
    "channel_kernels",
    "channel_systems",
    "complex_normal_C",
    "convolve",
    "diagonal_scan",
    "diagonal_step",
    "difference",
    "direct_weights",
    "discretize_bilinear",
    "discretize_zoh",
    "eliminate",
    "error_bound",
    "error_h2",
    "error_hinf",
    "finite_horizon_hinf_norms",
    "finite_horizon_last_scores",
    "frequency_response",
    "full_D_states",
    "h2_norm",
    "hankel_scores",
    "hankel_singular_values",
    "hinf_norm",
    "hinf_norms",
    "hippo_block_basis",
    "hippo_legs",
    "hippo_low_rank",
    "hippo_normal_part",
    "impulse_energies",
    "impulse_response",
    "initialize_B",
    "initialize_log_step",
    "interpolated_curve",
    "inverse_of",
    "invert_bilinear",
    "invert_zoh",
    "keep_count",
    "lamp_scores",
    "last_per_channel_scores",
    "last_scores",
    "layer_adaptive",
    "lecun_normal_C",
    "magnitudes",
    "merge_paths",
    "minimax_counts",
    "moments_of_rows",
    "output_weights",
    "pooled",
    "probe_sizes",
    "published_last_scores",
    "published_squared_hinf_norms",
    "random_scores",
    "real_system",
    "refit_full_outputs",
    "refit_head",
    "refit_linear",
    "refit_outputs",
    "select_global",
    "select_top",
    "select_uniform",
    "singular_perturbation",
    "state_energies",
    "state_features",
    "state_slots",
    "swept_hinf_norms",
    "transfer_function",
    "truncated_standard_normal_C",
    "uniform_counts",
    "white_moments",
    "white_refit",
    "with_output_weights",
    # 2. networks and surgery
    "BUDGETS",
    "BatchNorm",
    "Block",
    "BudgetContext",
    "CALIBRATED",
    "Calibration",
    "Classifier",
    "Encoder",
    "Gate",
    "LRU",
    "Layer",
    "LayerNorm",
    "LayerReport",
    "Linear",
    "METHODS",
    "Method",
    "Network",
    "NetworkStages",
    "PruningPlan",
    "RefitReport",
    "Retrieval",
    "RunningStatistics",
    "S4D",
    "S4D_STARTS",
    "S5",
    "ScoreContext",
    "Stages",
    "Stream",
    "UnstableStatesWarning",
    "WritableLayer",
    "calibrate",
    "drop_channels",
    "find_layers",
    "keep_states",
    "mean_divergence",
    "padded",
    "plan_pruning",
    "polish",
    "prune",
    "refit",
    "remeasure_statistics",
    "replace_layers",
    "s4d_inv",
    "s4d_legs",
    "s4d_lin",
    "s4d_real",
    "score_states",
    "state_counts",
    "systems",
    "with_full_D",
    "write_systems",
    # 3. training
    "Batch",
    "Batches",
    "CONFIG_FILE",
    "Checkpoints",
    "DISTILLED",
    "DataConfig",
    "Evaluation",
    "Fidelity",
    "FitResult",
    "GROUPINGS",
    "MODEL_FILE",
    "ModelConfig",
    "NORMS",
    "POLISHED",
    "NOTHING",
    "Preset",
    "RunConfig",
    "RunError",
    "SCHEDULES",
    "StepMetrics",
    "SweepCurves",
    "TASKS",
    "THEN",
    "TUNED",
    "Task",
    "TrainState",
    "TrainingConfig",
    "TrainingDivergedError",
    "allowed_values",
    "build_from_config",
    "build_network",
    "check_settings",
    "compare",
    "compressible_ratio",
    "cross_entropy",
    "divergence",
    "draw_layout",
    "draw_learning",
    "draw_poles",
    "draw_speeds",
    "draw_states",
    "draw_sweep",
    "evaluate",
    "find_runs",
    "fit",
    "html_code",
    "html_figure",
    "html_heading",
    "html_numbers",
    "html_page",
    "html_table",
    "html_text",
    "installed_versions",
    "keep_in_config",
    "kl_divergence",
    "kept_masks",
    "layer_sizes",
    "load_config",
    "load_results",
    "load_run",
    "make_optimizer",
    "packed_masks",
    "parameter_groups",
    "predict",
    "published_schedule",
    "save_config",
    "save_model",
    "save_results",
    "split_trainable",
    "textbook_schedule",
    "sweep_groups",
    "sweep_summary",
    "train_step",
    "untrained_counts",
]
