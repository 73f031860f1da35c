"""One residual block of a streaming cell."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from lastax._typing import Array, Scalar
from lastax.nn._blocks import Block, Gate
from lastax.nn._normalization import BatchNorm, LayerNorm
from lastax.nn._recurrence import Recurrence
from lastax.ssm._compensated import RecurrentState
from lastax.ssm._precision import at_least_float32


class CellNorm(eqx.Module):
    """The normalization of one step: `scale x + bias`, after a layer norm if `epsilon` is given.

    Attributes:
        scale: factor per channel, shape `(H,)`. It contains the running variance of a BatchNorm.
        bias: offset per channel, shape `(H,)`. It contains the running mean of a BatchNorm.
        epsilon: number that a LayerNorm adds to the variance; None for a BatchNorm.
    """

    scale: Float[Array, " H"]
    bias: Float[Array, " H"]
    epsilon: float | None = eqx.field(static=True, default=None)

    def __call__(self, x: Float[Array, " H"]) -> Float[Array, " H"]:
        """Normalize one step, shape `(H,)`."""
        if self.epsilon is not None:
            x = x - jnp.mean(x)
            x = x * jax.lax.rsqrt(jnp.mean(x**2) + self.epsilon)
        return x * self.scale + self.bias


class CellBlock(eqx.Module):
    """A `Block` in evaluation mode, for one step or for a chunk.

    Attributes:
        norm: normalization over `H` channels.
        recurrence: the discretized layer.
        gate: nonlinearity after the layer.
        prenorm: normalize the input of the recurrence, instead of the sum.
    """

    norm: CellNorm
    recurrence: Recurrence
    gate: Gate
    prenorm: bool = eqx.field(static=True, default=True)

    def step(
        self, state: RecurrentState, h: Float[Array, " H"], step_rescale: Scalar | None = None
    ) -> tuple[RecurrentState, Float[Array, " H"]]:
        """The next state, and the output of one step, shape `(H,)`."""
        state, h, _ = self.step_with_signals(state, h, step_rescale)
        return state, h

    def step_with_signals(
        self, state: RecurrentState, h: Float[Array, " H"], step_rescale: Scalar | None = None
    ) -> tuple[RecurrentState, Float[Array, " H"], tuple[Float[Array, " H"], Float[Array, " H"]]]:
        """The same, and the input and the output of the recurrence."""
        u = self.norm(h) if self.prenorm else h
        state, y = self.recurrence.step(state, u, step_rescale)
        return state, self._joined(h, y), (u, y)

    def chunk(
        self,
        state: RecurrentState,
        h: Float[Array, "L H"],
        reset: Bool[Array, " L"] | None = None,
        step_rescale: Float[Array, " L"] | None = None,
    ) -> tuple[RecurrentState, Float[Array, "L H"]]:
        """The last state, and the outputs of `L >= 1` steps, shape `(L, H)`."""
        u = jax.vmap(self.norm)(h) if self.prenorm else h
        state, y = self.recurrence.chunk(state, u, reset, step_rescale)
        return state, jax.vmap(self._joined)(h, y)

    def _joined(self, h: Array, y: Array) -> Array:
        h = h + self.gate(y)
        return h if self.prenorm else self.norm(h)


def make_block(block: Block, recurrence: Recurrence) -> CellBlock:
    """Freeze a block, with a recurrence in place of its layer. Folds the running statistics."""
    return CellBlock(
        norm=_folded(block.norm),
        recurrence=recurrence,
        gate=block.gate,
        prenorm=block.prenorm,
    )


def _folded(norm: BatchNorm | LayerNorm) -> CellNorm:
    scale, bias = at_least_float32(norm.scale), at_least_float32(norm.bias)
    if isinstance(norm, LayerNorm):
        return CellNorm(scale, bias, norm.epsilon)
    mean, variance = map(at_least_float32, (norm.running.mean, norm.running.variance))
    scale = scale * jax.lax.rsqrt(variance + norm.epsilon)
    return CellNorm(scale, bias - mean * scale)
