"""Names shared by every signature."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

# Systems and the closed forms on them follow the array library of their input: numpy float64 on
# the host, where `1 - |lam|` needs the digits, and JAX under `jit` and `grad`. Static checkers,
# which cannot say "the same library as the input", are told of JAX alone.
if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray

Scalar = float | int | Float[Array, ""]

# Is told, in a few words, what long work has come to.
Progress = Callable[[str], None]


def silent(doing: str) -> None:
    """Tell nobody."""


__all__ = ["Array", "PRNGKeyArray", "Progress", "Scalar", "silent"]
