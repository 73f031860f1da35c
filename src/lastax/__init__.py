"""Train diagonal state-space models, score their states, and remove those that do little.

The names that most programs need are here; everything else is imported from its package. Each
package imports only from those before it:

- `ssm`: the discrete diagonal system, its recurrence and convolution
- `analysis`: norms, Hankel singular values, balanced truncation, certificates
- `nn`: layers, blocks and networks
- `surgery`: finding and replacing the layers of any PyTree
- `calibration`: closed-form refits on unlabeled data
- `pruning`: scores, selection, methods, plans
- `serialization`: saving and loading
- `training`, `experiments`, `interop`, `plots`: loaded when they are first used

`lastax.data` holds the Grain pipelines, `lastax.cmd` the command line.
"""

from lastax import _typecheck as _typecheck  # isort: skip
import importlib
from types import ModuleType

from lastax.analysis import balanced_truncation as balanced_truncation
from lastax.analysis import certify as certify
from lastax.analysis import error_bound as error_bound
from lastax.analysis import hankel_singular_values as hankel_singular_values
from lastax.analysis import hinf_norms as hinf_norms
from lastax.calibration import calibrate as calibrate
from lastax.calibration import recalibrate_batch_norm as recalibrate_batch_norm
from lastax.calibration import reconstruct as reconstruct
from lastax.calibration import refit as refit
from lastax.nn import LRU as LRU
from lastax.nn import S4D as S4D
from lastax.nn import S5 as S5
from lastax.nn import BlockwiseForward as BlockwiseForward
from lastax.nn import Classifier as Classifier
from lastax.nn import Layer as Layer
from lastax.nn import ModelConfig as ModelConfig
from lastax.nn import build_network as build_network
from lastax.nn import predict as predict
from lastax.pruning import METHODS as METHODS
from lastax.pruning import Method as Method
from lastax.pruning import last_scores as last_scores
from lastax.pruning import plan_pruning as plan_pruning
from lastax.pruning import prune as prune
from lastax.pruning import register_method as register_method
from lastax.pruning import score_states as score_states
from lastax.pruning import select_global as select_global
from lastax.serialization import load as load
from lastax.serialization import save as save
from lastax.ssm import MultiSISO as MultiSISO
from lastax.ssm import System as System
from lastax.ssm import diagonal_scan as diagonal_scan
from lastax.ssm import discretize_bilinear as discretize_bilinear
from lastax.ssm import discretize_zoh as discretize_zoh
from lastax.surgery import find_layers as find_layers
from lastax.surgery import keep_count as keep_count
from lastax.surgery import keep_states as keep_states
from lastax.surgery import replace_layers as replace_layers
from lastax.surgery import state_counts as state_counts
from lastax.surgery import systems as systems

__all__ = [
    "LRU",
    "METHODS",
    "S4D",
    "S5",
    "BlockwiseForward",
    "Classifier",
    "Layer",
    "Method",
    "ModelConfig",
    "MultiSISO",
    "System",
    "balanced_truncation",
    "build_network",
    "calibrate",
    "certify",
    "diagonal_scan",
    "discretize_bilinear",
    "discretize_zoh",
    "error_bound",
    "find_layers",
    "hankel_singular_values",
    "hinf_norms",
    "keep_count",
    "keep_states",
    "last_scores",
    "load",
    "plan_pruning",
    "predict",
    "prune",
    "recalibrate_batch_norm",
    "reconstruct",
    "refit",
    "register_method",
    "replace_layers",
    "save",
    "score_states",
    "select_global",
    "state_counts",
    "systems",
]

# Matplotlib, Orbax and Grain take seconds to import, so these wait until they are needed.
_LAZY = frozenset({"data", "experiments", "interop", "plots", "training"})


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"lastax.{name}")
    raise AttributeError(f"module 'lastax' has no attribute {name!r}")
