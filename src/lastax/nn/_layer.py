"""TODO nn._layer."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from lastax._typing import Array, Scalar
from lastax.ssm._multi_siso import AnySystem


@runtime_checkable
class Layer(Protocol):
    """What scoring and surgery ask of a layer."""

    def system(self, step_rescale: Scalar = 1.0) -> AnySystem:
        """The discretized system that the layer applies."""

    def __call__(self, u: Array, *, step_rescale: Scalar = 1.0) -> Array:
        """The layer's answer to one sequence `(L, H)`."""

    def keep(self, mask: np.ndarray) -> "Layer":
        """A layer of the same kind with only the states where `mask` holds."""


@runtime_checkable
class WritableLayer(Layer, Protocol):
    """A layer into which a system can be written: what methods ask that change states."""

    def with_system(self, system: Any) -> "WritableLayer":
        """A layer of the same kind that applies the given system, of as many states."""
