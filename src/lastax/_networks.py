"""Whole networks: a stack of blocks under a classifier, or under a comparison of two documents."""

from __future__ import annotations

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lastax._blocks import Block, Linear
from lastax._normalize import Axis
from lastax._typing import Array, PRNGKeyArray, Scalar

Pooling = Literal["mean", "last"]
Length = int | np.integer | Int[Array, ""]


class Encoder(eqx.Module):
    """A linear map into the channels, the blocks, and one vector for the sequence.

    A sequence of whole numbers is one of tokens: the map's rows are looked up, which is what it
    makes of their one-hot vectors.

    `pooling` takes the mean over the steps of the sequence or its last step. With `mask_padding`
    what lies beyond a sequence's length is kept out of statistics and recurrences as well; without,
    as published, out of the pooling alone.
    """

    embed: Linear
    blocks: tuple[Block, ...]
    pooling: Pooling = eqx.field(static=True, default="mean")
    mask_padding: bool = eqx.field(static=True, default=True)

    def __call__(
        self,
        x: Float[Array, "L d"] | Int[Array, " L"],
        length: Length | None = None,
        *,
        step_rescale: Scalar = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
    ) -> tuple[Float[Array, " H"], Encoder]:
        """Features of one sequence, and the encoder with its running statistics moved."""
        mask = None if length is None else jnp.arange(x.shape[0]) < length
        tokens = jnp.issubdtype(x.dtype, jnp.integer)
        y = self.embed.rows(x) if tokens else self.embed(x)
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        blocks = []
        for block, block_key in zip(self.blocks, keys, strict=True):
            y, moved = block(
                y,
                mask if self.mask_padding else None,
                step_rescale=step_rescale,
                key=block_key,
                axis=axis,
            )
            blocks.append(moved)
        return self.pool(y, mask), dataclasses.replace(self, blocks=tuple(blocks))

    def pool(self, y: Float[Array, "L H"], mask: Bool[Array, " L"] | None) -> Float[Array, " H"]:
        """One vector for the steps where `mask` holds, or for all."""
        if mask is None:
            return y[-1] if self.pooling == "last" else jnp.mean(y, axis=0)
        if self.pooling == "last":
            return y[jnp.sum(mask) - 1]
        weight = mask.astype(y.dtype)
        return weight @ y / jnp.sum(weight)


class Classifier(eqx.Module):
    """Logits of one sequence.

    `model(x)` evaluates; `model.forward(x, key=..., axis=...)` is what training calls.
    """

    encoder: Encoder
    head: Linear

    def __call__(
        self,
        x: Float[Array, "L d"] | Int[Array, " L"],
        length: Length | None = None,
        *,
        step_rescale: Scalar = 1.0,
    ) -> Float[Array, " classes"]:
        """Logits in evaluation mode: running statistics, no dropout."""
        return self.forward(x, length, step_rescale=step_rescale)[0]

    def forward(
        self,
        x: Float[Array, "L d"] | Int[Array, " L"],
        length: Length | None = None,
        *,
        step_rescale: Scalar = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
    ) -> tuple[Float[Array, " classes"], Classifier]:
        """Logits, and the model with its running statistics moved.

        A key switches dropout on, the name of the batch's `vmap` axis batch statistics.
        """
        features, encoder = self.encoder(x, length, step_rescale=step_rescale, key=key, axis=axis)
        return self.head(features), dataclasses.replace(self, encoder=encoder)


class Retrieval(eqx.Module):
    """Logits of whether two documents belong together.

    One encoder reads both; from its features `a` and `b` the head sees `[a, b, a - b, a b]`, then
    a linear map, GELU and a linear map. Tay et al., LRA, ICLR 2021.
    """

    encoder: Encoder
    hidden: Linear
    head: Linear

    def __call__(
        self,
        x: Float[Array, "2 L d"] | Int[Array, "2 L"],
        length: Int[Array, " 2"] | None = None,
        *,
        step_rescale: Scalar = 1.0,
    ) -> Float[Array, " classes"]:
        """Logits in evaluation mode: running statistics, no dropout."""
        return self.forward(x, length, step_rescale=step_rescale)[0]

    def forward(
        self,
        x: Float[Array, "2 L d"] | Int[Array, "2 L"],
        length: Int[Array, " 2"] | None = None,
        *,
        step_rescale: Scalar = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
    ) -> tuple[Float[Array, " classes"], Retrieval]:
        """Logits, and the model with its running statistics moved over both documents."""
        axes = None if axis is None else (*(axis if isinstance(axis, tuple) else (axis,)), "pair")
        keys = None if key is None else jax.random.split(key)

        def encode(x: Array, length: Array | None, key: Array | None) -> tuple[Array, Encoder]:
            return self.encoder(x, length, step_rescale=step_rescale, key=key, axis=axes)

        # Statistics are the same for both documents: they are summed over the axis "pair".
        (a, b), encoder = eqx.filter_vmap(
            encode,
            in_axes=(0, eqx.if_array(0), eqx.if_array(0)),
            out_axes=(0, None),
            axis_name="pair",
        )(x, length, keys)
        features = jnp.concatenate([a, b, a - b, a * b])
        hidden = jax.nn.gelu(self.hidden(features), approximate=True)
        return self.head(hidden), dataclasses.replace(self, encoder=encoder)


Network = Classifier | Retrieval
