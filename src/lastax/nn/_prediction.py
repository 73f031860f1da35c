"""Prediction for a batch."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Float

from lastax._typing import Array, Batch, Scalar
from lastax.nn._networks import Classifier, Network, Retrieval


def predict(
    model: Network, batch: Batch, *, step_rescale: Scalar = 1.0
) -> Float[Array, "batch classes"]:
    """Compute the logits of a batch in evaluation mode.

    Args:
        model: the network.
        batch: arrays `x` and, for padded sequences, `length`. Other entries are ignored.
        step_rescale: factor on all step sizes. 2 runs the network on data of half the sampling
            rate.

    Returns:
        Logits, shape `(batch, classes)`.

    Raises:
        ValueError: if a shape, a dtype or a length does not fit the network.
    """
    x, length = batch["x"], batch.get("length")
    if isinstance(model, Classifier | Retrieval):
        leading = (None, 2) if isinstance(model, Retrieval) else (None,)
        model.encoder.check_input("predict", x, length, leading=leading)
    return eqx.filter_vmap(
        lambda x, length: model(x, length, step_rescale=step_rescale),
        in_axes=(0, eqx.if_array(0)),
    )(x, length)
