"""Normalization over batch and time, or over channels. Running statistics are data, not effects."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from lastax._typing import Array, Model
from lastax.ssm._products import add_row, multiply_row, total

Axis = Hashable


class RunningStatistics(eqx.Module):
    """Mean and variance that evaluation uses. Never trained: see `split_trainable`."""

    mean: Float[Array, " H"]
    variance: Float[Array, " H"]


class BatchNorm(eqx.Module):
    """Zero mean and unit variance a channel, over all steps of all sequences of the batch.

    Ioffe & Szegedy, ICML 2015. Steps where the mask does not hold are left out of the statistics.
    """

    scale: Float[Array, " H"]
    bias: Float[Array, " H"]
    running: RunningStatistics
    momentum: float = eqx.field(static=True, default=0.95)
    epsilon: float = eqx.field(static=True, default=1e-5)

    @classmethod
    def initialize(cls, channels: int, *, momentum: float = 0.95) -> BatchNorm:
        """Scale 1, bias 0, running mean 0 and variance 1."""
        zeros, ones = jnp.zeros(channels), jnp.ones(channels)
        return cls(ones, zeros, RunningStatistics(zeros, ones), momentum)

    def __call__(
        self, x: Float[Array, "L H"], mask: Bool[Array, " L"] | None = None, *, axis: Axis = None
    ) -> tuple[Float[Array, "L H"], BatchNorm]:
        """Normalize one sequence; also return what the norm is after it.

        With `axis`, the name of the `vmap` axis of the batch (or several), statistics are those of
        the batch, and move the running ones by `1 - momentum`. Without, the running ones are used
        and stay.
        """
        if axis is None:
            return self._apply(x, self.running), self
        batch = _statistics(x, mask, axis)
        running = jax.tree.map(
            lambda old, new: self.momentum * old + (1 - self.momentum) * new, self.running, batch
        )
        return self._apply(x, batch), dataclasses.replace(self, running=running)

    def _apply(self, x: Array, statistics: RunningStatistics) -> Array:
        factor = self.scale * jax.lax.rsqrt(statistics.variance + self.epsilon)
        return add_row(multiply_row(x - statistics.mean[None], factor), self.bias)


class LayerNorm(eqx.Module):
    """Zero mean and unit variance over the channels of each step. Ba et al., 2016."""

    scale: Float[Array, " H"]
    bias: Float[Array, " H"]
    epsilon: float = eqx.field(static=True, default=1e-6)

    @classmethod
    def initialize(cls, channels: int) -> LayerNorm:
        """Scale 1, bias 0."""
        return cls(jnp.ones(channels), jnp.zeros(channels))

    def __call__(
        self, x: Float[Array, "L H"], mask: Bool[Array, " L"] | None = None, *, axis: Axis = None
    ) -> tuple[Float[Array, "L H"], LayerNorm]:
        """Normalize one sequence. Mask and batch play no part; they are there for `BatchNorm`."""
        del mask, axis
        centered = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centered**2, axis=-1, keepdims=True)
        y = centered * jax.lax.rsqrt(variance + self.epsilon)
        return y * self.scale[None] + self.bias[None], self


def _statistics(x: Array, mask: Array | None, axis: Axis) -> RunningStatistics:
    def average(x: Array) -> Array:
        return (
            jax.lax.psum(total(x if mask is None else jnp.where(mask[:, None], x, 0)), axis) / count
        )

    steps = x.shape[0] if mask is None else jnp.sum(mask)
    count = jax.lax.psum(jnp.asarray(steps, x.dtype), axis)
    mean = average(x)
    # A second pass: the mean of squares less the square of the mean cancels where means are large.
    variance = average((x - mean[None]) ** 2)
    return RunningStatistics(mean, variance)


def split_trainable(model: Model) -> tuple[Model, Model]:
    """The parameters that gradients move, and the rest: running statistics, static leaves."""

    def is_statistics(node: Any) -> bool:
        return isinstance(node, RunningStatistics)

    spec = jax.tree.map(
        lambda node: not is_statistics(node) and eqx.is_inexact_array(node),
        model,
        is_leaf=is_statistics,
    )
    return eqx.partition(model, spec)
