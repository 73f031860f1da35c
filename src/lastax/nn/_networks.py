"""Networks: an encoder of residual blocks with a head for one sequence or for two documents."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from lastax._typing import Array, PRNGKeyArray, StepRescale
from lastax.nn._blocks import Block, Gelu, Linear, gelu
from lastax.nn._checks import Lengths, Values, check_complete, check_input
from lastax.nn._normalization import Axis, BatchNorm, LayerNorm
from lastax.nn._precision import FULL_PRECISION, Precision
from lastax.ssm._precision import at_least_float32, in_dtype_of
from lastax.ssm._products import precise_total

Pooling = Literal["mean", "last"]
Length = int | np.integer | Int[Array, ""]


class Encoder(eqx.Module):
    """A linear embedding, residual blocks, and pooling over time.

    The input is a sequence of features, or of tokens if `tokens` is true. Looking up rows of the
    embedding is the same as applying it to one-hot vectors.

    Attributes:
        embed: map from `d` input features (or tokens) to `H` channels.
        blocks: residual blocks.
        pooling: `mean` over the valid steps, or the `last` valid step.
        mask_padding: exclude padding from batch statistics and recurrences, whatever its values
            are. If false, as in the published code, padding is excluded from the pooling only.
        tokens: the input is integer token ids instead of features.
        precision: precision of the blocks, and of all matrix products.
    """

    embed: Linear
    blocks: tuple[Block, ...]
    pooling: Pooling = eqx.field(static=True, default="mean")
    mask_padding: bool = eqx.field(static=True, default=True)
    tokens: bool = eqx.field(static=True, default=False)
    precision: Precision = FULL_PRECISION

    def __call__(
        self,
        x: Shaped[Array, "*shape"],
        length: Length | None = None,
        *,
        step_rescale: StepRescale = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
        remat: bool = False,
        scan_layers: bool = False,
    ) -> tuple[Float[Array, " H"], Encoder]:
        """Compute the features of one sequence.

        Args:
            x: features, shape `(L, d)`, or tokens, shape `(L,)`.
            length: number of valid steps; None if there is no padding. With 0, features are zero.
                A traced length beyond `L` counts as `L`.
            step_rescale: factor on all step sizes, or one per step, shape `(L,)`.
            key: random key of dropout; None disables dropout.
            axis: name of the `vmap` axis of the batch; enables batch statistics.
            remat: store only the input of each block for the gradient, and recompute the rest.
                Implies `scan_layers`.
            scan_layers: apply adjacent blocks of equal shapes in a `jax.lax.scan`, whose body is
                compiled once.

        Returns:
            Features, shape `(H,)`, and the encoder with updated running statistics.

        Raises:
            ValueError: if a shape, a dtype or `length` does not fit the encoder.
        """
        self.check_input("Encoder", x, length)
        mask = None if length is None else jnp.arange(x.shape[0]) < length

        def apply(block: Block, y: Array, key: Array | None) -> tuple[Array, Block]:
            inside = mask if self.mask_padding else None
            return block(y, inside, step_rescale=step_rescale, key=key, axis=axis)

        with self.precision.active():
            embedded = self.embedded(x, mask)
            y, blocks = self._apply_blocks(
                apply, self.precision.rounded(embedded), key, remat=remat, scan_layers=scan_layers
            )
        features = self.pool(y.astype(embedded.dtype), mask)
        return features, dataclasses.replace(self, blocks=blocks)

    def _apply_blocks(
        self,
        apply: Callable[[Block, Array, Array | None], tuple[Array, Block]],
        y: Array,
        key: PRNGKeyArray | None,
        *,
        remat: bool,
        scan_layers: bool,
    ) -> tuple[Array, tuple[Block, ...]]:
        blocks: list[Block] = []
        keys = None if key is None else jax.random.split(key, len(self.blocks))
        scanned = remat or scan_layers
        for group in _runs_of_equal_blocks(self.blocks) if scanned else [(b,) for b in self.blocks]:
            group_keys = None if keys is None else keys[len(blocks) : len(blocks) + len(group)]
            # XLA merges a recomputation with the first computation, except in a loop.
            if remat or len(group) > 1:
                y, updated = _scan_blocks(apply, group, y, group_keys, remat=remat)
                blocks += updated
            else:
                y, block = apply(group[0], y, None if group_keys is None else group_keys[0])
                blocks.append(block)
        return y, tuple(blocks)

    def check_input(
        self,
        function: str,
        x: Values,
        length: Lengths | None,
        *,
        leading: tuple[int | None, ...] = (),
    ) -> None:
        """Check `x` and `length` before a call.

        Args:
            function: what the caller called, for the error message.
            x: features, shape `(*leading, L, d)`, or tokens, shape `(*leading, L)`.
            length: numbers of valid steps, shape `leading`. Traced values are not checked.
            leading: sizes of the axes before the axis of steps; None for the axis of a batch.

        Raises:
            ValueError: if a shape, a dtype or a length does not fit the encoder.
        """
        check_complete(self.embed)
        check_input(function, self.embed.weight, self.tokens, x, length, leading=leading)

    def embedded(
        self, x: Shaped[Array, "*shape"], mask: Bool[Array, " L"] | None
    ) -> Float[Array, "L H"]:
        """Embed one sequence. If `mask_padding` is true, masked features count as zero.

        Args:
            x: features, shape `(L, d)`, or tokens, shape `(L,)`.
            mask: true for each valid step; None for all steps.

        Returns:
            Hidden states, shape `(L, H)`.
        """
        if self.tokens:
            return self.embed.rows(x)
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(self.embed.weight.dtype)
        # The embedding does not round to the dtype of its input.
        x = x.astype(jnp.result_type(x, self.embed.weight))
        if mask is not None and self.mask_padding:
            # Values are NaN in some padding, and 0 times NaN is NaN.
            x = jnp.where(mask[:, None], x, 0)
        return self.embed(x)

    def pool(self, y: Float[Array, "L H"], mask: Bool[Array, " L"] | None) -> Float[Array, " H"]:
        """Pool a sequence over the steps where `mask` is true, or over all steps.

        Args:
            y: output of the last block, shape `(L, H)`.
            mask: true for each valid step; None for all steps.

        Returns:
            Features, shape `(H,)`; zero if no step is valid.
        """
        if mask is None and self.pooling == "last":
            return y[-1]
        wide = at_least_float32(y)
        if mask is None:
            return in_dtype_of(precise_total(wide) / y.shape[0], y)
        wide = jnp.where(mask[:, None], wide, 0)
        steps = jnp.maximum(jnp.sum(mask), 1)
        if self.pooling == "last":
            return in_dtype_of(wide[steps - 1], y)
        return in_dtype_of(precise_total(wide) / steps.astype(wide.dtype), y)


class Classifier(eqx.Module):
    """A classifier of sequences.

    Call the model for evaluation, and `forward` for training.

    Attributes:
        encoder: maps a sequence to `H` features.
        head: map from `H` features to logits.
    """

    encoder: Encoder
    head: Linear

    def __call__(
        self,
        x: Shaped[Array, "*shape"],
        length: Length | None = None,
        *,
        step_rescale: StepRescale = 1.0,
    ) -> Float[Array, " classes"]:
        """Compute the logits of one sequence in evaluation mode.

        Args:
            x: features, shape `(L, d)`, or tokens, shape `(L,)`.
            length: number of valid steps; None if there is no padding.
            step_rescale: factor on all step sizes, or one per step, shape `(L,)`.

        Returns:
            Logits, shape `(classes,)`.
        """
        return self.forward(x, length, step_rescale=step_rescale)[0]

    def forward(
        self,
        x: Shaped[Array, "*shape"],
        length: Length | None = None,
        *,
        step_rescale: StepRescale = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
        remat: bool = False,
        scan_layers: bool = False,
    ) -> tuple[Float[Array, " classes"], Classifier]:
        """Compute the logits of one sequence in training mode.

        Args:
            x: features, shape `(L, d)`, or tokens, shape `(L,)`.
            length: number of valid steps; None if there is no padding.
            step_rescale: factor on all step sizes, or one per step, shape `(L,)`.
            key: random key of dropout; None disables dropout.
            axis: name of the `vmap` axis of the batch; enables batch statistics.
            remat: store only the input of each block for the gradient, and recompute the rest.
                Implies `scan_layers`.
            scan_layers: apply adjacent blocks of equal shapes in a `jax.lax.scan`, whose body is
                compiled once.

        Returns:
            Logits, shape `(classes,)`, and the model with updated running statistics.

        Raises:
            ValueError: if a shape, a dtype or `length` does not fit the network.
        """
        self.encoder.check_input("Classifier", x, length)
        features, encoder = self.encoder(
            x,
            length,
            step_rescale=step_rescale,
            key=key,
            axis=axis,
            remat=remat,
            scan_layers=scan_layers,
        )
        with encoder.precision.active():
            return self.head(features), dataclasses.replace(self, encoder=encoder)


class Retrieval(eqx.Module):
    """A classifier of pairs of documents.

    One encoder computes the features `a` and `b` of both documents. The logits are
    `head(gelu(hidden([a, b, a - b, a b])))`. Tay et al., LRA, ICLR 2021.

    Attributes:
        encoder: maps a document to `H` features.
        hidden: map from `4 H` to `H` features.
        head: map from `H` features to logits.
        gelu: form of GELU, as in `Gate`.
    """

    encoder: Encoder
    hidden: Linear
    head: Linear
    gelu: Gelu = eqx.field(static=True, default="tanh")

    def __call__(
        self,
        x: Shaped[Array, "*shape"],
        length: Int[Array, " 2"] | None = None,
        *,
        step_rescale: StepRescale = 1.0,
    ) -> Float[Array, " classes"]:
        """Compute the logits of one pair in evaluation mode.

        Args:
            x: features, shape `(2, L, d)`, or tokens, shape `(2, L)`.
            length: number of valid steps of each document; None if there is no padding.
            step_rescale: factor on all step sizes, or one per step, shape `(L,)`.

        Returns:
            Logits, shape `(classes,)`.
        """
        return self.forward(x, length, step_rescale=step_rescale)[0]

    def forward(
        self,
        x: Shaped[Array, "*shape"],
        length: Int[Array, " 2"] | None = None,
        *,
        step_rescale: StepRescale = 1.0,
        key: PRNGKeyArray | None = None,
        axis: Axis = None,
        remat: bool = False,
        scan_layers: bool = False,
    ) -> tuple[Float[Array, " classes"], Retrieval]:
        """Compute the logits of one pair in training mode.

        Arguments are those of `Classifier.forward`, with the two documents on the first axis of `x`
        and `length`. Batch statistics are over both documents of all pairs.

        Returns:
            Logits, shape `(classes,)`, and the model with updated running statistics.

        Raises:
            ValueError: if a shape, a dtype or `length` does not fit the network.
        """
        self.encoder.check_input("Retrieval", x, length, leading=(2,))
        axes = None if axis is None else (*(axis if isinstance(axis, tuple) else (axis,)), "pair")
        keys = None if key is None else jax.random.split(key)

        def encode(x: Array, length: Array | None, key: Array | None) -> tuple[Array, Encoder]:
            return self.encoder(
                x,
                length,
                step_rescale=step_rescale,
                key=key,
                axis=axes,
                remat=remat,
                scan_layers=scan_layers,
            )

        # `encode` sums statistics over the axis "pair", so both documents return the same encoder.
        (a, b), encoder = eqx.filter_vmap(
            encode,
            in_axes=(0, eqx.if_array(0), eqx.if_array(0)),
            out_axes=(0, None),
            axis_name="pair",
        )(x, length, keys)
        features = jnp.concatenate([a, b, a - b, a * b])
        with encoder.precision.active():
            hidden = gelu(self.hidden(features), self.gelu)
            return self.head(hidden), dataclasses.replace(self, encoder=encoder)


Network = Classifier | Retrieval
NetworkT = TypeVar("NetworkT", bound=Network)


def with_precision(network: NetworkT, precision: Precision) -> NetworkT:
    """A network with the same parameters that computes in another precision.

    Args:
        network: the network.
        precision: for example an entry of `PRECISIONS`.
    """
    encoder = dataclasses.replace(network.encoder, precision=precision)
    return dataclasses.replace(network, encoder=encoder)


def _runs_of_equal_blocks(blocks: tuple[Block, ...]) -> list[tuple[Block, ...]]:
    """Group adjacent blocks of the same structure and shapes."""

    def shapes(block: Block) -> tuple[jax.tree_util.PyTreeDef, list[object]]:
        return jax.tree.structure(block), [
            (leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf
            for leaf in jax.tree.leaves(block)
        ]

    return [tuple(run) for _, run in itertools.groupby(blocks, key=shapes)]


def _scan_blocks(
    apply: Callable[[Block, Array, Array | None], tuple[Array, Block]],
    blocks: tuple[Block, ...],
    y: Array,
    keys: Array | None,
    *,
    remat: bool,
) -> tuple[Array, list[Block]]:
    """Apply equal blocks one after another, in a loop whose body is compiled once."""
    arrays = [eqx.partition(block, eqx.is_array)[0] for block in blocks]
    static = eqx.partition(blocks[0], eqx.is_array)[1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)

    def body(y: Array, inputs: tuple[Block, Array | None]) -> tuple[Array, BatchNorm | LayerNorm]:
        arrays, key = inputs
        y, updated = apply(eqx.combine(arrays, static), y, key)
        # A forward pass changes nothing else of a block.
        return y, updated.norm

    y, norms = jax.lax.scan(jax.checkpoint(body) if remat else body, y, (stacked, keys))
    updated = [
        dataclasses.replace(block, norm=jax.tree.map(lambda leaf, n=number: leaf[n], norms))
        for number, block in enumerate(blocks)
    ]
    return y, updated
