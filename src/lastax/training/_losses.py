"""Losses, one value per example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from lastax._typing import Array


def cross_entropy(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Cross-entropy in nats: `-log p(label)`.

    With label smoothing the share `smoothing` of the target is spread over all classes.
    """
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    return -(1 - smoothing) * chosen - smoothing * jnp.mean(log_p, axis=1)


def kl_divergence(
    original: Float[Array, "batch classes"], other: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """`KL(p || q)` in nats, with `p` and `q` the softmax of `original` and `other`."""
    log_p, log_q = jax.nn.log_softmax(original), jax.nn.log_softmax(other)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1)
