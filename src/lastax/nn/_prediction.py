"""Prediction for a batch."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from lastax._typing import Array, Batch, StepRescale
from lastax.nn._checks import check_input
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.nn._streaming_cell import StreamingCell

# What computes the logits of sequences.
Predictor = Network | StreamingCell


def predict(
    model: Predictor,
    batch: Batch,
    *,
    step_rescale: StepRescale | Float[Array, "batch L"] = 1.0,
) -> Float[Array, "batch classes"]:
    """Compute the logits of a batch in evaluation mode.

    Args:
        model: the network, or its streaming cell.
        batch: arrays `x` and, for padded sequences, `length`. Other entries are ignored.
        step_rescale: factor on all step sizes. 2 runs the network on data of half the sampling
            rate. For data that are sampled at irregular times, one factor per step, shape `(L,)`
            or `(batch, L)`.

    Returns:
        Logits, shape `(batch, classes)`.

    Raises:
        ValueError: if a shape, a dtype or a length does not fit the network.
    """
    x, length = batch["x"], batch.get("length")
    if isinstance(model, Classifier | Retrieval):
        leading = (None, 2) if isinstance(model, Retrieval) else (None,)
        model.encoder.check_input("predict", x, length, leading=leading)
    else:
        check_input("predict", model.embed.weight, model.tokens, x, length, leading=(None,))
    return eqx.filter_vmap(
        lambda x, length, factor: model(x, length, step_rescale=factor),
        in_axes=(0, eqx.if_array(0), 0 if jnp.ndim(step_rescale) == 2 else None),
    )(x, length, step_rescale)
