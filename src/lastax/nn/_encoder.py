"""Encoder: an embedding, residual blocks, and pooling over time."""

from __future__ import annotations

import dataclasses
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from lastax._typing import Array, PRNGKeyArray, StepRescale
from lastax.nn._apply_blocks import apply_blocks
from lastax.nn._blocks import Block, Linear
from lastax.nn._checks import Lengths, Values, check_complete, check_input
from lastax.nn._normalization import Axis
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
            y, blocks = apply_blocks(
                self.blocks,
                apply,
                self.precision.rounded(embedded),
                key,
                remat=remat,
                scan_layers=scan_layers,
            )
        features = self.pool(y.astype(embedded.dtype), mask)
        return features, dataclasses.replace(self, blocks=blocks)

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
