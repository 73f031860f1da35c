"""A term of the loss that makes states redundant, so that more of them can be removed."""

from collections.abc import Mapping
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Float, PyTree

from lastax._typing import Array
from lastax.analysis._penalties import STATE_PENALTIES, SystemPenalty
from lastax.surgery._layers import find_layers

# The penalties of a system, by the names of `TrainingConfig.state_penalty`.
SYSTEM_PENALTIES: Mapping[str, SystemPenalty | None] = MappingProxyType(
    {"none": None, **STATE_PENALTIES}
)


def state_penalty(model: PyTree, penalty: SystemPenalty) -> Float[Array, ""]:
    """The mean of a penalty over all layers of a model.

    Args:
        model: any PyTree with layers.
        penalty: penalty of one layer's system, for example `lastax.analysis.modal_penalty`.

    Returns:
        A scalar; from 0 to 1 for the penalties of `lastax.analysis`.

    Raises:
        ValueError: if `penalty` is not a function.
    """
    if not callable(penalty):
        raise ValueError(
            "state_penalty: penalty must be a function of a system, for example "
            f"lastax.analysis.modal_penalty; got {penalty!r}"
        )
    values = [penalty(layer.system()) for layer in find_layers(model)]
    return jnp.mean(jnp.stack(values))
