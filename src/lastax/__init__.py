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
- `training`, `experiments`, `interop`, `deployment`, `plots`: training and pruning of runs, foreign
  checkpoints, files for other runtimes, figures and reports

`lastax.data` holds the Grain pipelines, `lastax.cmd` the command line. Names and packages are
loaded when they are first used: `import lastax` alone does not load JAX.
"""

from lastax import _typecheck as _typecheck  # isort: skip
import importlib
from typing import TYPE_CHECKING

_PACKAGES = (
    *("ssm", "analysis", "nn", "surgery", "calibration", "pruning"),
    *("serialization", "training", "experiments", "interop", "deployment", "plots"),
    *("data", "cmd"),
)

if TYPE_CHECKING:
    from lastax import analysis as analysis
    from lastax import calibration as calibration
    from lastax import cmd as cmd
    from lastax import data as data
    from lastax import deployment as deployment
    from lastax import experiments as experiments
    from lastax import interop as interop
    from lastax import nn as nn
    from lastax import plots as plots
    from lastax import pruning as pruning
    from lastax import serialization as serialization
    from lastax import ssm as ssm
    from lastax import surgery as surgery
    from lastax import training as training
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
    from lastax.nn import streaming as streaming
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
    from lastax.surgery import check_layer as check_layer
    from lastax.surgery import find_layers as find_layers
    from lastax.surgery import keep_count as keep_count
    from lastax.surgery import keep_states as keep_states
    from lastax.surgery import state_counts as state_counts
    from lastax.surgery import systems as systems

    __version__: str

# The names of each package that are names of `lastax` too.
_NAMES = {
    "analysis": (
        "balanced_truncation",
        "certify",
        "error_bound",
        "hankel_singular_values",
        "hinf_norms",
    ),
    "calibration": ("calibrate", "recalibrate_batch_norm", "reconstruct", "refit"),
    "nn": (
        "LRU",
        "S4D",
        "S5",
        "BlockwiseForward",
        "Classifier",
        "Layer",
        "ModelConfig",
        "build_network",
        "predict",
        "streaming",
    ),
    "pruning": (
        "METHODS",
        "Method",
        "last_scores",
        "plan_pruning",
        "prune",
        "register_method",
        "score_states",
        "select_global",
    ),
    "serialization": ("load", "save"),
    "ssm": ("MultiSISO", "System", "diagonal_scan", "discretize_bilinear", "discretize_zoh"),
    "surgery": (
        "check_layer",
        "find_layers",
        "keep_count",
        "keep_states",
        "state_counts",
        "systems",
    ),
}
_HOMES = {name: package for package, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # The imports above tell static checkers more.

    def __getattr__(name: str) -> object:
        """A name or a package, loaded when it is first used."""
        if name == "__version__":
            from importlib import metadata

            return metadata.version("lastax")
        if name in _PACKAGES:
            return importlib.import_module(f"lastax.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'lastax' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"lastax.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_PACKAGES, "__version__"})
