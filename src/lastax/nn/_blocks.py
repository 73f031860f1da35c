"""One residual block of a deep state-space model: norm, layer, gate, skip."""

from __future__ import annotations

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.nn._layer import Layer
from lastax.nn._normalization import Axis, BatchNorm, LayerNorm
from lastax.ssm._products import add_row, product

Activation = Literal["full_glu", "half_glu1", "half_glu2", "gelu"]


class Linear(eqx.Module):
    """`x W + b` on the last axis of any array, `W (in, out)`."""

    weight: Float[Array, "n m"]
    bias: Float[Array, " m"]

    @classmethod
    def initialize(cls, inputs: int, outputs: int, *, key: PRNGKeyArray) -> Linear:
        """Truncated normal of deviation `1/sqrt(inputs)` (LeCun), bias 0."""
        weight = jax.nn.initializers.lecun_normal()(key, (inputs, outputs))
        return cls(weight, jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*shape n"]) -> Float[Array, "*shape m"]:
        """Apply the map to the last axis."""
        if x.ndim != 2:
            y = x @ self.weight
            return y + jnp.broadcast_to(self.bias, y.shape)
        return add_row(product(x, self.weight), self.bias)

    def replaced(self, weight: Float[np.ndarray, "n m"], bias: Float[np.ndarray, " m"]) -> Linear:
        """Another map, its numbers of the same kind."""
        kinds = self.weight.dtype, self.bias.dtype
        return Linear(jnp.asarray(weight, kinds[0]), jnp.asarray(bias, kinds[1]))

    def rows(self, index: Int[Array, "*shape"]) -> Float[Array, "*shape m"]:
        """The map of the one-hot vectors of `index`, without making them."""
        weight = jnp.asarray(self.weight)
        # A number that has no place in the vectors leaves them zero; it is no other row's.
        y = weight.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return y + jnp.broadcast_to(self.bias, y.shape)


class Gate(eqx.Module):
    """The pointwise nonlinearity after a layer, as S5 names its four kinds.

    With `g = dropout(gelu(y))`: `full_glu` is `(g W1) sigmoid(g W2)`, `half_glu1` is
    `g sigmoid(g W2)`, `half_glu2` is `y sigmoid(g W2)`, `gelu` is `g`. GELU in its tanh form.
    """

    value: Linear | None
    gate: Linear | None
    activation: Activation = eqx.field(static=True)

    @classmethod
    def initialize(cls, channels: int, activation: Activation, *, key: PRNGKeyArray) -> Gate:
        """Draw the linear maps that `activation` needs."""
        value_key, gate_key = jax.random.split(key)

        def linear(key: PRNGKeyArray) -> Linear:
            return Linear.initialize(channels, channels, key=key)

        return cls(
            value=linear(value_key) if activation == "full_glu" else None,
            gate=linear(gate_key) if activation != "gelu" else None,
            activation=activation,
        )

    def __call__(
        self, y: Float[Array, "L H"], *, dropout: float, key: PRNGKeyArray | None
    ) -> Float[Array, "L H"]:
        """Apply to one sequence; `dropout` acts if there is a key, one draw for all steps."""
        g = drop_channels(jax.nn.gelu(y, approximate=True), dropout, key)
        if self.gate is None:
            return g
        passed = y if self.activation == "half_glu2" else g
        if self.value is not None:
            passed = self.value(g)
        return passed * jax.nn.sigmoid(self.gate(g))


class Block(eqx.Module):
    """`x + drop(gate(layer(norm(x))))`, or the norm after the sum (`prenorm=False`).

    The layer may be of any kind that has the methods of `Layer`. Where a mask is given, its steps
    enter the statistics and the recurrence alone: padding is zero to the layer, so that a
    recurrence from the end starts at the true end.
    """

    norm: BatchNorm | LayerNorm
    layer: Layer
    gate: Gate
    prenorm: bool = eqx.field(static=True, default=True)
    dropout: float = eqx.field(static=True, default=0.0)

    def __call__(
        self,
        x: Float[Array, "L H"],
        mask: Bool[Array, " L"] | None = None,
        *,
        step_rescale: Scalar = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
    ) -> tuple[Float[Array, "L H"], Block]:
        """Apply to one sequence; also return the block with its running statistics moved.

        Args:
            x: the sequence.
            mask: true where the sequence is, false where it is padded.
            step_rescale: factor on all step sizes of the layer.
            key: switches dropout on.
            axis: name of the batch's `vmap` axis: switches batch statistics on.
        """
        gate_key, out_key = (None, None) if key is None else jax.random.split(key)
        norm, y = self.norm, x
        if self.prenorm:
            y, norm = self.norm(y, mask, axis=axis)
        if mask is not None:
            y = jnp.where(mask[:, None], y, 0)
        y = self.layer(y, step_rescale=step_rescale)
        y = self.gate(y, dropout=self.dropout, key=gate_key)
        y = x + drop_channels(y, self.dropout, out_key)
        if not self.prenorm:
            y, norm = self.norm(y, mask, axis=axis)
        return y, dataclasses.replace(self, norm=norm)


def drop_channels(
    x: Float[Array, "L H"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "L H"]:
    """Dropout whose mask all steps share: a channel is dropped for the whole sequence."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (x.shape[-1],))
    return jnp.where(kept[None], x / (1 - rate), 0)
