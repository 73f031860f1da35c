"""Pooling of a stream: the mean over all steps so far, or the last step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from lastax._typing import Array
from lastax.ssm._compensated import add_compensated
from lastax.ssm._varying_scan import varying_scan


class RunningSum(NamedTuple):
    """The sum of the hidden states over all steps since the start or the last reset.

    Attributes:
        value: the sum, shape `(H,)`.
        error: what rounding has taken from the sum, shape `(H,)`.
        steps: number of steps. It is an int32: a stream can have `2^31 - 1` steps.
    """

    value: Float[Array, " H"]
    error: Float[Array, " H"]
    steps: Int[Array, ""]

    def step(self, h: Float[Array, " H"]) -> tuple[RunningSum, Float[Array, " H"]]:
        """Add one step. Returns the new sum and the mean, shape `(H,)`."""
        new = RunningSum(*add_compensated(self.value, self.error, h), self.steps + 1)
        return new, new.value / new.steps.astype(h.dtype)

    def chunk(
        self, h: Float[Array, "L H"], reset: Bool[Array, " L"] | None
    ) -> tuple[RunningSum, Float[Array, "L H"]]:
        """Add `L >= 1` steps. Returns the new sum and the mean after each step, shape `(L, H)`."""
        position = jnp.arange(h.shape[0], dtype=self.steps.dtype)
        if reset is None:
            before = self
            sums, counts = jnp.cumsum(h, axis=0), self.steps + position + 1
            means = sums + self.value[None]
        else:
            latest = jax.lax.cummax(jnp.where(reset, position, -1))
            cleared = latest >= 0
            sums = varying_scan(jnp.ones_like(h), h, reset=reset)
            counts = jnp.where(cleared, position - latest, self.steps + position) + 1
            means = sums + jnp.where(cleared[:, None], 0, self.value[None])
            before = jax.tree.map(lambda leaf: jnp.where(cleared[-1], 0, leaf), self)
        new = RunningSum(*add_compensated(before.value, before.error, sums[-1]), counts[-1])
        return new, means / counts[:, None].astype(h.dtype)
