"""Whole networks: a stack of blocks under a classifier, or under a comparison of two documents."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.nn._blocks import Block, Linear
from lastax.nn._normalization import Axis
from lastax.ssm._products import total

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
        remat: bool = False,
    ) -> tuple[Float[Array, " H"], Encoder]:
        """Features of one sequence, and the encoder with its running statistics moved."""
        mask = None if length is None else jnp.arange(x.shape[0]) < length

        def apply(block: Block, y: Array, key: Array | None) -> tuple[Array, Block]:
            inside = mask if self.mask_padding else None
            return block(y, inside, step_rescale=step_rescale, key=key, axis=axis)

        tokens = jnp.issubdtype(x.dtype, jnp.integer)
        y = self.embed.rows(x) if tokens else self.embed(x)
        blocks: list[Block] = []
        keys = None if key is None else jax.random.split(key, len(self.blocks))
        if remat:
            for group in _equal_in_a_row(self.blocks):
                start = len(blocks)
                group_keys = None if keys is None else keys[start : start + len(group)]
                y, moved = _scan_blocks(apply, group, y, group_keys)
                blocks += moved
        else:
            for number, block in enumerate(self.blocks):
                y, moved_block = apply(block, y, None if keys is None else keys[number])
                blocks.append(moved_block)
        return self.pool(y, mask), dataclasses.replace(self, blocks=tuple(blocks))

    def pool(self, y: Float[Array, "L H"], mask: Bool[Array, " L"] | None) -> Float[Array, " H"]:
        """One vector for the steps where `mask` holds, or for all."""
        if mask is None:
            return y[-1] if self.pooling == "last" else total(y) / y.shape[0]
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
        remat: bool = False,
    ) -> tuple[Float[Array, " classes"], Classifier]:
        """Logits, and the model with its running statistics moved.

        A key switches dropout on, the name of the batch's `vmap` axis batch statistics. With
        `remat` a derivative keeps what enters each block and computes the rest again.
        """
        features, encoder = self.encoder(
            x, length, step_rescale=step_rescale, key=key, axis=axis, remat=remat
        )
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
        remat: bool = False,
    ) -> tuple[Float[Array, " classes"], Retrieval]:
        """Logits, and the model with its running statistics moved over both documents."""
        axes = None if axis is None else (*(axis if isinstance(axis, tuple) else (axis,)), "pair")
        keys = None if key is None else jax.random.split(key)

        def encode(x: Array, length: Array | None, key: Array | None) -> tuple[Array, Encoder]:
            return self.encoder(
                x, length, step_rescale=step_rescale, key=key, axis=axes, remat=remat
            )

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


def _equal_in_a_row(blocks: tuple[Block, ...]) -> list[tuple[Block, ...]]:
    """The blocks in their order, neighbors of the same kind and shapes together."""

    def shapes(block: Block) -> Any:
        return jax.tree.structure(block), [
            (leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf
            for leaf in jax.tree.leaves(block)
        ]

    return [tuple(group) for _, group in itertools.groupby(blocks, key=shapes)]


def _scan_blocks(
    apply: Callable[[Block, Array, Array | None], tuple[Array, Block]],
    blocks: tuple[Block, ...],
    y: Array,
    keys: Array | None,
) -> tuple[Array, list[Block]]:
    """One block after another in a loop that is compiled once."""
    arrays = [eqx.partition(block, eqx.is_array)[0] for block in blocks]
    static = eqx.partition(blocks[0], eqx.is_array)[1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)

    @jax.checkpoint
    def body(y: Array, inputs: tuple[Any, Array | None]) -> tuple[Array, Any]:
        arrays, key = inputs
        y, moved = apply(eqx.combine(arrays, static), y, key)
        # Nothing else of a block moves.
        return y, moved.norm

    y, norms = jax.lax.scan(body, y, (stacked, keys))
    moved = [
        dataclasses.replace(block, norm=jax.tree.map(lambda leaf, n=number: leaf[n], norms))
        for number, block in enumerate(blocks)
    ]
    return y, moved
