"""Types shared by the signatures of several packages."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

# Systems and their closed forms keep the array library of their input: NumPy float64 on the host,
# where `1 - |lam|` needs the precision, and JAX under `jit` and `grad`. Static checkers cannot
# express "the same library as the input", so they see only JAX arrays.
if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray

Scalar = float | int | Float[Array, ""]

# A factor on all step sizes, or one factor per step.
StepRescale = Scalar | Float[Array, " L"]

# Any PyTree. A function that takes a `Model` and returns a `Model` returns the same type.
Model = TypeVar("Model")

# Size of an axis: an int or, while `jax.export` traces a function, an expression with symbols. The
# class of such expressions has no public name.
Size = Any

# Arrays with a leading batch axis: `x` and, where they apply, `label`, `length` and `weight`.
Batch = Mapping[str, jax.Array | np.ndarray]

# One JSON object: a line of a log, the results of a run, a cell of a sweep.
Record = dict[str, Any]

# Called with a short description of what a long computation is doing.
OnProgress = Callable[[str], None]


def silent(doing: str) -> None:
    """Report no progress."""


__all__ = [
    "Array",
    "Batch",
    "Model",
    "OnProgress",
    "PRNGKeyArray",
    "Record",
    "Scalar",
    "Size",
    "StepRescale",
    "silent",
]
