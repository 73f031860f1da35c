"""TODO nn._prediction."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Float

from lastax._typing import Array, Batch, Scalar
from lastax.nn._networks import Network


def predict(
    model: Network, batch: Batch, *, step_rescale: Scalar = 1.0
) -> Float[Array, "batch classes"]:
    """Logits of a batch in evaluation mode."""
    return eqx.filter_vmap(
        lambda x, length: model(x, length, step_rescale=step_rescale),
        in_axes=(0, eqx.if_array(0)),
    )(batch["x"], batch.get("length"))
