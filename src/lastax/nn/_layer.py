"""Protocols of layers: the extension point for new kinds of state-space layers."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import Array, Scalar, StepRescale
from lastax.ssm._multi_siso import AnySystem


@runtime_checkable
class Layer(Protocol):
    """A layer whose states can be scored and removed.

    Any `equinox.Module` with these three methods is a layer: `find_layers` finds it in a model, and
    `score_states`, `prune` and `keep_states` work on it. No base class and no registration is
    needed.
    """

    def system(self, step_rescale: Scalar = 1.0) -> AnySystem:
        """Discretize the layer.

        Args:
            step_rescale: factor on all step sizes. 2 runs the layer on data of half the sampling
                rate.

        Returns:
            The discrete system that the layer applies.
        """

    def __call__(
        self, u: Float[Array, "L H"], *, step_rescale: StepRescale = 1.0
    ) -> Float[Array, "L H"]:
        """Apply the layer to one sequence. The initial state is zero.

        `step_rescale` is one factor for all steps. S5, S4D and LRU also accept one per step, shape
        `(L,)`.
        """

    def keep(self, mask: Bool[np.ndarray, " P"]) -> "Layer":
        """Remove states.

        Args:
            mask: true for each state to keep, in the order of `system().lam`.

        Returns:
            A smaller layer of the same class. Its states keep their order.
        """


@runtime_checkable
class WritableLayer(Layer, Protocol):
    """A layer that can also take the parameters of a given system.

    Methods that compute new states or output maps need this fourth method: refits, balanced
    truncation and `expand_to_original`.
    """

    # A layer accepts only its own class of systems, which a protocol cannot express.
    def with_system(self, system: Any) -> "WritableLayer":
        """Set the parameters such that `system()` returns the given system.

        Args:
            system: a system with the shapes of `system()`.

        Returns:
            A layer of the same class.
        """
