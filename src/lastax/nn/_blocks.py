"""The residual block of a deep state-space model: normalization, layer, gate, skip connection."""

from __future__ import annotations

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lastax._typing import Array, PRNGKeyArray, StepRescale
from lastax.nn._checks import check_complete
from lastax.nn._layer import Layer
from lastax.nn._normalization import Axis, BatchNorm, LayerNorm
from lastax.ssm._precision import in_dtype_of
from lastax.ssm._products import add_row, product

Activation = Literal["full_glu", "half_glu1", "half_glu2", "gelu"]
Gelu = Literal["tanh", "exact"]


class Linear(eqx.Module):
    """The map `x W + b` on the last axis of an array.

    Attributes:
        weight: `W`, shape `(n, m)` for `n` inputs and `m` outputs.
        bias: `b`, shape `(m,)`.
    """

    weight: Float[Array, "n m"]
    bias: Float[Array, " m"]

    @classmethod
    def initialize(cls, inputs: int, outputs: int, *, key: PRNGKeyArray) -> Linear:
        """Draw `W` from a truncated normal of standard deviation `1/sqrt(inputs)`; `b` is 0."""
        weight = jax.nn.initializers.lecun_normal()(key, (inputs, outputs))
        return cls(weight, jnp.zeros(outputs))

    def __call__(
        self, x: Float[Array, "*shape n"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*shape m"]:
        """Apply the map to the last axis. 16-bit inputs give outputs of their dtype.

        `key` is ignored; `equinox.nn.Sequential` passes it.
        """
        del key
        check_complete(self)
        # The derivatives of `product` and `add_row` need one dtype.
        weight, bias = (in_dtype_of(array, x) for array in (self.weight, self.bias))
        dtype = jnp.result_type(x, weight, bias)
        x, weight, bias = (jnp.asarray(array, dtype) for array in (x, weight, bias))
        if x.ndim != 2:
            y = x @ weight
            return y + jnp.broadcast_to(bias, y.shape)
        return add_row(product(x, weight), bias)

    def replaced(self, weight: Float[np.ndarray, "n m"], bias: Float[np.ndarray, " m"]) -> Linear:
        """A map with other values, converted to the dtypes of this one."""
        return Linear(jnp.asarray(weight, self.weight.dtype), jnp.asarray(bias, self.bias.dtype))

    def rows(self, index: Int[Array, "*shape"]) -> Float[Array, "*shape m"]:
        """Apply the map to one-hot vectors, given by the positions of their ones.

        A position outside `[0, n)` stands for the zero vector, as in `jax.nn.one_hot`.
        """
        weight = jnp.asarray(self.weight)
        # By default JAX clamps large indices and wraps negative ones, which gives other rows.
        y = weight.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return y + jnp.broadcast_to(self.bias, y.shape)


class Gate(eqx.Module):
    """The nonlinearity after a layer, in the four forms of S5.

    With `g = dropout(gelu(y))` and linear maps `V` (`value`) and `W` (`gate`):

    - `full_glu`: `V(g) sigmoid(W(g))`
    - `half_glu1`: `g sigmoid(W(g))`
    - `half_glu2`: `y sigmoid(W(g))`
    - `gelu`: `g`

    Attributes:
        value: map `(H, H)` of `full_glu`, else None.
        gate: map `(H, H)`, None for `gelu`.
        activation: form of the nonlinearity.
        gelu: GELU by its tanh approximation, the default in JAX, or its exact form, the default in
            PyTorch.
    """

    value: Linear | None
    gate: Linear | None
    activation: Activation = eqx.field(static=True)
    gelu: Gelu = eqx.field(static=True, default="tanh")

    @classmethod
    def initialize(
        cls, channels: int, activation: Activation, *, gelu: Gelu = "tanh", key: PRNGKeyArray
    ) -> Gate:
        """Draw the linear maps that `activation` uses."""
        value_key, gate_key = jax.random.split(key)

        def linear(key: PRNGKeyArray) -> Linear:
            return Linear.initialize(channels, channels, key=key)

        return cls(
            value=linear(value_key) if activation == "full_glu" else None,
            gate=linear(gate_key) if activation != "gelu" else None,
            activation=activation,
            gelu=gelu,
        )

    def __call__(
        self, y: Float[Array, "*steps H"], *, dropout: float = 0.0, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*steps H"]:
        """Apply to one sequence, or to one step.

        Args:
            y: output of the layer, shape `(L, H)` or `(H,)`.
            dropout: dropout rate. It needs a sequence.
            key: random key of dropout; None disables dropout.

        Returns:
            Gated sequence or step, of the shape of `y`.
        """
        g = drop_channels(gelu(y, self.gelu), dropout, key)
        if self.gate is None:
            return g
        passed = y if self.activation == "half_glu2" else g
        if self.value is not None:
            passed = self.value(g)
        return passed * jax.nn.sigmoid(self.gate(g))


class Block(eqx.Module):
    """`x + dropout(gate(layer(norm(x))))`, or `norm(x + dropout(gate(layer(x))))` for postnorm.

    Attributes:
        norm: normalization over `H` channels.
        layer: state-space layer, any class with the methods of `Layer`.
        gate: nonlinearity after the layer.
        prenorm: normalize the input of the layer, instead of the sum.
        dropout: dropout rate.
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
        step_rescale: StepRescale = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
    ) -> tuple[Float[Array, "L H"], Block]:
        """Apply to one sequence.

        Args:
            x: sequence, shape `(L, H)`.
            mask: true for each valid step, false for padding. Masked steps are left out of batch
                statistics, and their input to the layer is zero. A backward recurrence therefore
                starts at the last valid step.
            step_rescale: factor on all step sizes of the layer, or one per step, shape `(L,)`.
            key: random key of dropout; None disables dropout.
            axis: name of the `vmap` axis of the batch; enables batch statistics.

        Returns:
            The output, shape `(L, H)`, and the block with updated running statistics.
        """
        gate_key, out_key = (None, None) if key is None else jax.random.split(key)
        norm, y = self.norm, x
        if self.prenorm:
            y, norm = self.norm(y, mask, axis=axis)
        if mask is not None:
            y = jnp.where(mask[:, None], y, 0)
        y = in_dtype_of(self.layer(y, step_rescale=step_rescale), x)
        y = self.gate(y, dropout=self.dropout, key=gate_key)
        y = x + drop_channels(y, self.dropout, out_key)
        if not self.prenorm:
            y, norm = self.norm(y, mask, axis=axis)
        return y, dataclasses.replace(self, norm=norm)


def gelu(x: Float[Array, "*shape"], form: Gelu) -> Float[Array, "*shape"]:
    """GELU in one of its two forms. Their values differ by at most 5e-4.

    Args:
        x: array of any shape.
        form: `tanh` for the approximation, `exact` for the form with the error function.

    Returns:
        Array of the same shape.
    """
    return jax.nn.gelu(x, approximate=form == "tanh")


def drop_channels(
    x: Float[Array, "*steps H"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "*steps H"]:
    """Apply dropout with one mask for all steps: a dropped channel is zero in every step.

    Args:
        x: sequence, shape `(L, H)`.
        rate: probability of dropping a channel. Remaining channels are divided by `1 - rate`.
        key: random key; None returns `x`.

    Returns:
        Sequence, shape `(L, H)`.
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (x.shape[-1],))
    return jnp.where(kept[None], x / (1 - rate), 0)
