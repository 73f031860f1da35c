"""A network that reads a stream: one step or one chunk at a time, with a small state."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from lastax._typing import Array, StepRescale
from lastax.nn._blocks import Linear
from lastax.nn._cell_block import CellBlock
from lastax.nn._checks import check_input
from lastax.nn._encoder import Length, Pooling
from lastax.nn._running_pool import RunningSum
from lastax.ssm._compensated import RecurrentState
from lastax.ssm._precision import exact_products
from lastax.ssm._step_sizes import check_step_rescale


class StreamingState(NamedTuple):
    """What a `StreamingCell` remembers between two steps. All arrays are real.

    Attributes:
        layers: the states of each layer.
        pooled: the sum for the mean over all steps; None if the cell reads out the last step.
    """

    layers: tuple[RecurrentState, ...]
    pooled: RunningSum | None


class StreamingCell(eqx.Module):
    """A unidirectional `Classifier` in evaluation mode, as a function of a state and an input.

    Make it with `lastax.streaming`. It gives logits after every step. All its arrays are real and
    of one dtype, float32 or float64. Apply `jax.jit`, `jax.vmap` (one state per stream),
    `jax.lax.scan` and `jax.grad` to its methods.

    Attributes:
        embed: map from `d` input features (or tokens) to `H` channels.
        blocks: residual blocks.
        head: map from `H` features to logits.
        pooling: `mean` over all steps so far, or the `last` step.
        tokens: the input is integer token ids instead of features.
    """

    embed: Linear
    blocks: tuple[CellBlock, ...]
    head: Linear
    pooling: Pooling = eqx.field(static=True, default="mean")
    tokens: bool = eqx.field(static=True, default=False)

    def init(self) -> StreamingState:
        """The state before the first step of a stream."""
        pooled = None
        if self.pooling == "mean":
            zeros = jnp.zeros(self.embed.weight.shape[1], self.embed.weight.dtype)
            pooled = RunningSum(zeros, zeros, jnp.zeros((), jnp.int32))
        return StreamingState(tuple(block.recurrence.init() for block in self.blocks), pooled)

    @exact_products
    def __call__(
        self,
        x: Shaped[Array, "*shape"],
        length: Length | None = None,
        *,
        step_rescale: StepRescale = 1.0,
    ) -> Float[Array, " classes"]:
        """Compute the logits of one whole sequence, like the model itself.

        Args:
            x: features, shape `(L, d)`, or tokens, shape `(L,)`.
            length: number of valid steps; None if there is no padding.
            step_rescale: factor on all step sizes, or one per step, shape `(L,)`.

        Returns:
            Logits, shape `(classes,)`.

        Raises:
            ValueError: if a shape, a dtype or the length does not fit the cell.
        """
        check_input("StreamingCell", self.embed.weight, self.tokens, x, length)
        x = jnp.asarray(x)
        if length is not None and not self.tokens:
            # Padding may be NaN, and the parallel scan multiplies it by zero.
            x = jnp.where((jnp.arange(x.shape[0]) < length)[:, None], x, 0)
        one = isinstance(step_rescale, float | int) and step_rescale == 1
        _, logits = self.chunk(self.init(), x, step_rescale=None if one else step_rescale)
        if length is None:
            return logits[-1]
        # The logits of no step are those of the head alone, as in the network.
        of_nothing = self.head(jnp.zeros(self.head.weight.shape[0], self.head.weight.dtype))
        return jnp.where(length > 0, logits[jnp.maximum(length - 1, 0)], of_nothing)

    @exact_products
    def step(
        self,
        state: StreamingState,
        x: Shaped[Array, ...],
        *,
        step_rescale: StepRescale | None = None,
    ) -> tuple[StreamingState, Float[Array, " classes"]]:
        """Read one step. It uses real arithmetic only.

        Args:
            state: state before the step.
            x: features, shape `(d,)`, or one token, shape `()`.
            step_rescale: factor on the step sizes of this step; None for 1, which is faster.

        Returns:
            The next state, and the logits after this step, shape `(classes,)`.

        Raises:
            ValueError: if an argument has another shape or dtype, or if the state is of another
                cell.
        """
        x = self._checked("StreamingCell.step", state, x, ())
        self._check_step_rescale("StreamingCell.step", step_rescale, ())
        h, layers, pooled = self._embedded(x), [], state.pooled
        for block, layer_state in zip(self.blocks, state.layers, strict=True):
            layer_state, h = block.step(layer_state, h, step_rescale)
            layers.append(layer_state)
        if pooled is not None:
            pooled, h = pooled.step(h)
        return StreamingState(tuple(layers), pooled), self.head(h)

    @exact_products
    def chunk(
        self,
        state: StreamingState,
        xs: Shaped[Array, ...],
        *,
        reset: Bool[Array, " L"] | None = None,
        step_rescale: StepRescale | None = None,
    ) -> tuple[StreamingState, Float[Array, "L classes"]]:
        """Read `L` steps, in parallel over time. Each length is compiled anew.

        Args:
            state: state before the chunk.
            xs: features, shape `(L, d)`, or tokens, shape `(L,)`. `L` can be 0.
            reset: true for each step that begins a new stream: the state is cleared before it.
                Shape `(L,)`; None for no reset.
            step_rescale: factor on all step sizes, or one per step, shape `(L,)`; None for 1, which
                is faster and more precise.

        Returns:
            The next state, and the logits after each step, shape `(L, classes)`.

        Raises:
            ValueError: if an argument has another shape or dtype, or if the state is of another
                cell.
        """
        xs = self._checked("StreamingCell.chunk", state, xs, (None,))
        factors = None
        if step_rescale is not None:
            one = jnp.ndim(step_rescale) == 0
            factors = jnp.full(xs.shape[0], step_rescale) if one else jnp.asarray(step_rescale)
        self._check_step_rescale("StreamingCell.chunk", factors, xs.shape[:1])
        if reset is not None:
            reset = jnp.asarray(reset)
            if reset.shape != xs.shape[:1] or reset.dtype != bool:
                raise ValueError(
                    f"StreamingCell.chunk: reset must be boolean of shape ({xs.shape[0]},), one "
                    f"value per step, got {reset.dtype} of shape {reset.shape}"
                )
        if xs.shape[0] == 0:
            return state, jnp.zeros((0, self.head.bias.shape[0]), self.head.bias.dtype)
        h, layers, pooled = jax.vmap(self._embedded)(xs), [], state.pooled
        for block, layer_state in zip(self.blocks, state.layers, strict=True):
            layer_state, h = block.chunk(layer_state, h, reset, factors)
            layers.append(layer_state)
        if pooled is not None:
            pooled, h = pooled.chunk(h, reset)
        return StreamingState(tuple(layers), pooled), jax.vmap(self.head)(h)

    def reset(self, state: StreamingState, mask: bool | Bool[Array, ...]) -> StreamingState:
        """Clear the state where `mask` is true. For many streams, use `jax.vmap(cell.reset)`.

        Args:
            state: the state of one stream.
            mask: whether to clear it, shape `()`.

        Returns:
            The state of `init` if `mask` is true, else `state`.

        Raises:
            ValueError: if the state is of another cell, or if `mask` is not one boolean.
        """
        self._check_state("StreamingCell.reset", state)
        mask = jnp.asarray(mask)
        if mask.shape != () or mask.dtype != bool:
            raise ValueError(
                f"StreamingCell.reset: mask must be one boolean, got {mask.dtype} of shape "
                f"{mask.shape}; for several streams use jax.vmap(cell.reset)"
            )
        return jax.tree.map(lambda new, old: jnp.where(mask, new, old), self.init(), state)

    def _embedded(self, x: Array) -> Array:
        return self.embed.rows(x) if self.tokens else self.embed(x)

    def _checked(
        self, function: str, state: StreamingState, x: Array, steps: tuple[None, ...]
    ) -> Array:
        """Check the arguments, and convert features to the dtype of the cell."""
        self._check_state(function, state)
        x, weight = jnp.asarray(x), self.embed.weight
        expected = (*steps, *(() if self.tokens else weight.shape[:1]))
        fits = len(x.shape) == len(expected) and all(
            size in (None, given) for size, given in zip(expected, x.shape, strict=True)
        )
        kind_fits = jnp.issubdtype(x.dtype, jnp.integer) or not self.tokens
        if not fits or not kind_fits or jnp.issubdtype(x.dtype, jnp.complexfloating):
            kind = "integer token ids" if self.tokens else "real features"
            shape = str(expected).replace("None", "L")
            hint = ""
            if len(x.shape) > len(expected):
                several = "for several streams use jax.vmap, with one state per stream"
                hint = "; " + ("" if steps else "for several steps use chunk, ") + several
            raise ValueError(
                f"{function}: {'xs' if steps else 'x'} must be {kind} of shape {shape}, got "
                f"{x.dtype} of shape {x.shape}{hint}"
            )
        return x if self.tokens else x.astype(weight.dtype)

    def _check_step_rescale(
        self, function: str, step_rescale: StepRescale | None, shape: tuple[int, ...]
    ) -> None:
        if step_rescale is not None:
            sizes = (block.recurrence.step_sizes for block in self.blocks)
            check_step_rescale(function, step_rescale, shape, *sizes)

    def _check_state(self, function: str, state: StreamingState) -> None:
        if not isinstance(state, StreamingState):
            raise ValueError(
                f"{function}: the first argument must be a state, from init() or the last call; "
                f"got {type(state).__name__}"
            )
        own, given = (jax.tree.map(np.shape, tree) for tree in (self.init(), state))
        if own != given:
            raise ValueError(
                f"{function}: the state has shapes {given}, but this cell needs {own}; start with "
                "cell.init() of the same cell, and for several streams use jax.vmap"
            )
