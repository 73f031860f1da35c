"""Training: configuration, presets, step, loop, checkpoints and runs."""

from lastax._errors import TrainingDivergedError as TrainingDivergedError
from lastax._settings import allowed_values as allowed_values
from lastax._settings import check_settings as check_settings
from lastax._typing import Batch as Batch
from lastax.training._batch_reader import Batches as Batches
from lastax.training._checkpoints import Checkpoints as Checkpoints
from lastax.training._configuration import DataConfig as DataConfig
from lastax.training._configuration import Preset as Preset
from lastax.training._configuration import Task as Task
from lastax.training._configuration import TrainingConfig as TrainingConfig
from lastax.training._data import TrainingData as TrainingData
from lastax.training._data import calibration_batch as calibration_batch
from lastax.training._data import compare_split as compare_split
from lastax.training._data import evaluate_split as evaluate_split
from lastax.training._evaluation import Evaluation as Evaluation
from lastax.training._evaluation import Fidelity as Fidelity
from lastax.training._evaluation import compare as compare
from lastax.training._evaluation import correct_predictions as correct_predictions
from lastax.training._evaluation import evaluate as evaluate
from lastax.training._fine_tune import fine_tune as fine_tune
from lastax.training._fit_network import fit_network as fit_network
from lastax.training._loop import FitResult as FitResult
from lastax.training._loop import fit as fit
from lastax.training._losses import cross_entropy as cross_entropy
from lastax.training._losses import kl_divergence as kl_divergence
from lastax.training._make_run_config import make_run_config as make_run_config
from lastax.training._optimizer import GROUPINGS as GROUPINGS
from lastax.training._optimizer import make_optimizer as make_optimizer
from lastax.training._optimizer import parameter_groups as parameter_groups
from lastax.training._placement import Placement as Placement
from lastax.training._presets import TASKS as TASKS
from lastax.training._reduction import InTrainingReduction as InTrainingReduction
from lastax.training._run_config import CONFIG_FILE as CONFIG_FILE
from lastax.training._run_config import RunConfig as RunConfig
from lastax.training._run_config import build_from_config as build_from_config
from lastax.training._run_config import installed_versions as installed_versions
from lastax.training._run_config import keep_in_config as keep_in_config
from lastax.training._run_config import kept_masks as kept_masks
from lastax.training._run_config import load_config as load_config
from lastax.training._run_config import packed_masks as packed_masks
from lastax.training._run_config import save_config as save_config
from lastax.training._run_config import untrained_counts as untrained_counts
from lastax.training._runs import METRICS_FILE as METRICS_FILE
from lastax.training._runs import failure_reason as failure_reason
from lastax.training._runs import find_runs as find_runs
from lastax.training._runs import has_finished as has_finished
from lastax.training._runs import layer_sizes as layer_sizes
from lastax.training._runs import load_results as load_results
from lastax.training._runs import load_run as load_run
from lastax.training._runs import save_results as save_results
from lastax.training._schedules import SCHEDULES as SCHEDULES
from lastax.training._schedules import Schedule as Schedule
from lastax.training._schedules import published_schedule as published_schedule
from lastax.training._schedules import warmup_cosine_schedule as warmup_cosine_schedule
from lastax.training._state_penalty import state_penalty as state_penalty
from lastax.training._step import StepMetrics as StepMetrics
from lastax.training._step import TrainState as TrainState
from lastax.training._step import train_step as train_step
from lastax.training._train import TrainedRun as TrainedRun
from lastax.training._train import train as train
from lastax.training._training_parts import optimizer_for as optimizer_for
from lastax.training._training_parts import steps_per_epoch as steps_per_epoch

__all__ = [
    "CONFIG_FILE",
    "GROUPINGS",
    "METRICS_FILE",
    "SCHEDULES",
    "TASKS",
    "Batch",
    "Batches",
    "Checkpoints",
    "DataConfig",
    "Evaluation",
    "Fidelity",
    "FitResult",
    "InTrainingReduction",
    "Placement",
    "Preset",
    "RunConfig",
    "Schedule",
    "StepMetrics",
    "Task",
    "TrainState",
    "TrainedRun",
    "TrainingConfig",
    "TrainingData",
    "TrainingDivergedError",
    "allowed_values",
    "build_from_config",
    "calibration_batch",
    "check_settings",
    "compare",
    "compare_split",
    "correct_predictions",
    "cross_entropy",
    "evaluate",
    "evaluate_split",
    "failure_reason",
    "find_runs",
    "fine_tune",
    "fit",
    "fit_network",
    "has_finished",
    "installed_versions",
    "keep_in_config",
    "kept_masks",
    "kl_divergence",
    "layer_sizes",
    "load_config",
    "load_results",
    "load_run",
    "make_optimizer",
    "make_run_config",
    "optimizer_for",
    "packed_masks",
    "parameter_groups",
    "published_schedule",
    "save_config",
    "save_results",
    "state_penalty",
    "steps_per_epoch",
    "train",
    "train_step",
    "untrained_counts",
    "warmup_cosine_schedule",
]
