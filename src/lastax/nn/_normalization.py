"""Batch and layer normalization. Running statistics are returned instead of updated in place."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from lastax._typing import Array, Model
from lastax.nn._checks import check_complete
from lastax.ssm._precision import at_least_float32, in_dtype_of
from lastax.ssm._products import add_row, multiply_row, scale_and_add, total

# Name of one `vmap` axis, a tuple of names, or None.
Axis = Hashable


class RunningStatistics(eqx.Module):
    """Statistics for evaluation mode. Gradients do not update them: see `split_trainable`.

    Attributes:
        mean: shape `(H,)`.
        variance: shape `(H,)`.
    """

    mean: Float[Array, " H"]
    variance: Float[Array, " H"]


class BatchNorm(eqx.Module):
    """Normalize each channel over all valid steps of all sequences of a batch.

    Ioffe & Szegedy, ICML 2015.

    Attributes:
        scale: factor per channel, shape `(H,)`.
        bias: offset per channel, shape `(H,)`.
        running: running mean and variance.
        momentum: weight of the old running statistics in an update.
        epsilon: added to the variance.
    """

    scale: Float[Array, " H"]
    bias: Float[Array, " H"]
    running: RunningStatistics
    momentum: float = eqx.field(static=True, default=0.95)
    epsilon: float = eqx.field(static=True, default=1e-5)

    @classmethod
    def initialize(cls, channels: int, *, momentum: float = 0.95) -> BatchNorm:
        """Set scale to 1, bias to 0, running mean to 0 and running variance to 1."""
        zeros, ones = jnp.zeros(channels), jnp.ones(channels)
        return cls(ones, zeros, RunningStatistics(zeros, ones), momentum)

    def __call__(
        self, x: Float[Array, "L H"], mask: Bool[Array, " L"] | None = None, *, axis: Axis = None
    ) -> tuple[Float[Array, "L H"], BatchNorm]:
        """Normalize one sequence.

        Args:
            x: sequence, shape `(L, H)`.
            mask: true for each step that counts for batch statistics; None for all steps.
            axis: name (or names) of the `vmap` axis of the batch. None uses the running statistics
                and leaves them unchanged.

        Returns:
            The normalized sequence, shape `(L, H)`, and the norm with updated running statistics.
        """
        check_complete(self)
        check_complete(self.running)
        wide = at_least_float32(x)
        if axis is None:
            return in_dtype_of(self._apply_running(wide), x), self
        scale, bias = map(at_least_float32, (self.scale, self.bias))
        y, batch = _normalize(axis, self.epsilon, wide, mask, scale, bias)

        def moved(old: Array, new: Array) -> Array:
            return in_dtype_of(self.momentum * old + (1 - self.momentum) * new, old)

        running = jax.tree.map(moved, self.running, batch)
        return in_dtype_of(y, x), dataclasses.replace(self, running=running)

    def _apply_running(self, x: Array) -> Array:
        arrays = (self.scale, self.bias, self.running.mean, self.running.variance)
        scale, bias, mean, variance = map(at_least_float32, arrays)
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        return add_row(multiply_row(x - mean[None], factor), bias)


class LayerNorm(eqx.Module):
    """Normalize each step over its channels. Ba et al., 2016.

    Attributes:
        scale: factor per channel, shape `(H,)`.
        bias: offset per channel, shape `(H,)`.
        epsilon: added to the variance.
    """

    scale: Float[Array, " H"]
    bias: Float[Array, " H"]
    epsilon: float = eqx.field(static=True, default=1e-6)

    @classmethod
    def initialize(cls, channels: int) -> LayerNorm:
        """Set scale to 1 and bias to 0."""
        return cls(jnp.ones(channels), jnp.zeros(channels))

    def __call__(
        self, x: Float[Array, "L H"], mask: Bool[Array, " L"] | None = None, *, axis: Axis = None
    ) -> tuple[Float[Array, "L H"], LayerNorm]:
        """Normalize one sequence.

        Args:
            x: sequence, shape `(L, H)`.
            mask: ignored; the signature is that of `BatchNorm`.
            axis: ignored.

        Returns:
            The normalized sequence, shape `(L, H)`, and this norm.
        """
        del mask, axis
        check_complete(self)
        wide = at_least_float32(x)
        centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centered**2, axis=-1, keepdims=True)
        y = centered * jax.lax.rsqrt(variance + self.epsilon)
        return in_dtype_of(y * self.scale[None] + self.bias[None], x), self


def split_trainable(model: Model) -> tuple[Model, Model]:
    """Split a model into its trainable parameters and everything else.

    Args:
        model: any PyTree.

    Returns:
        Two trees that `equinox.combine` joins: the floating-point arrays outside
        `RunningStatistics`, and the other leaves.
    """

    def is_statistics(node: object) -> bool:
        return isinstance(node, RunningStatistics)

    spec = jax.tree.map(
        lambda node: not is_statistics(node) and eqx.is_inexact_array(node),
        model,
        is_leaf=is_statistics,
    )
    return eqx.partition(model, spec)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _normalize(
    axis: Axis, epsilon: float, x: Array, mask: Array | None, scale: Array, bias: Array
) -> tuple[Array, RunningStatistics]:
    """Normalize by the statistics of the batch, and return them."""
    batch = _statistics(x, mask, axis)
    standard = multiply_row(x - batch.mean[None], jax.lax.rsqrt(batch.variance + epsilon))
    return add_row(multiply_row(standard, scale), bias), batch


@_normalize.defjvp
def _normalize_jvp(
    axis: Axis,
    epsilon: float,
    primals: tuple[Array, Array | None, Array, Array],
    tangents: tuple[Array, Array | None, Array, Array],
) -> tuple[tuple[Array, RunningStatistics], tuple[Array, RunningStatistics]]:
    (x, mask, scale, bias), (x_dot, _, scale_dot, bias_dot) = primals, tangents
    batch = _statistics(x, mask, axis)
    rate = jax.lax.rsqrt(batch.variance + epsilon)
    standard = multiply_row(x - batch.mean[None], rate)
    # In reverse mode, `scale_and_add` sums over time for the gradients of `scale` and `bias`. The
    # gradient of `x` needs the same two sums, and no other.
    mean_dot = _average(x_dot, mask, axis)
    covariance = _average(standard * x_dot, mask, axis)
    factor = scale * rate
    y_dot = multiply_row(x_dot, factor) + scale_and_add(
        standard, scale_dot - factor * covariance, bias_dot - factor * mean_dot
    )
    y = add_row(multiply_row(standard, scale), bias)
    return (y, batch), (y_dot, RunningStatistics(mean_dot, 2 * covariance / rate))


def _statistics(x: Array, mask: Array | None, axis: Axis) -> RunningStatistics:
    """Mean and variance over all valid steps of the batch."""
    mean = _average(x, mask, axis)
    # E[(x - mean)^2] needs a second pass, but E[x^2] - mean^2 cancels where means are large.
    return RunningStatistics(mean, _average((x - mean[None]) ** 2, mask, axis))


def _average(x: Array, mask: Array | None, axis: Axis) -> Array:
    steps = x.shape[0] if mask is None else jnp.sum(mask)
    count = jnp.maximum(jax.lax.psum(jnp.asarray(steps, x.dtype), axis), 1)
    valid = x if mask is None else jnp.where(mask[:, None], x, 0)
    return jax.lax.psum(total(valid), axis) / count
