"""The forward pass of calibration data through a model, one block at a time.

The hidden states of all sequences are held on the host, a few values per step and channel. If the
calibration data are divided among devices, the hidden states stay there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from lastax._typing import Array
from lastax.analysis._single import check_concrete
from lastax.calibration._chunks import AnyArray, CalibrationBatches, Chunk, calibration_chunks
from lastax.calibration._features import output_weights
from lastax.nn._blocks import Linear
from lastax.nn._blockwise import BlockwiseForward, HiddenStates, resolve_forward
from lastax.nn._layer import Layer
from lastax.ssm._precision import exact_products
from lastax.surgery._adoption import adopted
from lastax.surgery._layers import find_layers, layer_identity
from lastax.surgery._reading import float32_system, layer_counts

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True, eq=False)
class BlockwisePass:
    """A model, the parts of its forward pass, and the data that pass through it.

    The methods take and return one entry per chunk of data. Results are NumPy arrays on the host,
    except hidden states that are divided among devices.

    Attributes:
        model: the model.
        forward: its block-wise forward pass.
        chunks: the calibration data.
        given: the model as the caller passed it, perhaps with layers of another library.
    """

    model: PyTree
    forward: BlockwiseForward
    chunks: list[Chunk]
    given: PyTree = None

    @property
    def blocks(self) -> list[PyTree]:
        """The blocks of the model, in the order of the forward pass."""
        return list(self.forward.blocks(self.model))

    def enter(self) -> list[HiddenStates]:
        """Hidden states before the first block. Copies that fill a chunk are not valid."""
        entered = []
        for chunk in self.chunks:
            records = (chunk.x, chunk.length)
            if chunk.sharding is not None:
                records = jax.device_put(records, chunk.sharding)
            states = _enter(self.forward, self.model, *records)
            states = _on_host(states) if chunk.sharding is None else states
            real = np.repeat(chunk.real, len(states.valid) // len(chunk.real))
            entered.append(states._replace(valid=states.valid & real[:, None]))
        return entered

    def layer_outputs(
        self, block: PyTree, inputs: Iterable[HiddenStates]
    ) -> list[Float[np.ndarray, "_n _L H"]]:
        """Outputs of the layer of a block."""
        return [np.asarray(layer_output(self.forward, block, states)) for states in inputs]

    def block_outputs(self, block: PyTree, inputs: Iterable[HiddenStates]) -> list[HiddenStates]:
        """Hidden states after a block."""
        return [_like(states, block_output(self.forward, block, states)) for states in inputs]

    def after(
        self,
        block: PyTree,
        inputs: Sequence[HiddenStates],
        layer_outputs: Sequence[Float[np.ndarray, "_n _L H"]],
    ) -> list[HiddenStates]:
        """Hidden states after a block whose layer has the given outputs."""
        pairs = zip(inputs, layer_outputs, strict=True)
        return [_like(states, _after(self.forward, block, states, y)) for states, y in pairs]

    def features(self, final: Sequence[HiddenStates]) -> Float[np.ndarray, "records F"]:
        """Inputs of the head for all records, from the hidden states after the last block."""
        parts = [np.asarray(_features(self.forward, self.model, states)) for states in final]
        real = [chunk.real for chunk in self.chunks]
        return np.concatenate([part[rows] for part, rows in zip(parts, real, strict=True)])

    def outputs(self, final: Sequence[HiddenStates]) -> Float[np.ndarray, "records m"]:
        """Outputs of the model for all records, from the hidden states after the last block."""
        return head_outputs(self.forward.head(self.model), self.features(final))

    def with_blocks(self, blocks: Sequence[PyTree]) -> PyTree:
        """The model with other blocks."""
        return eqx.tree_at(lambda model: list(self.forward.blocks(model)), self.model, blocks)


def blockwise_pass(
    function: str,
    model: PyTree,
    batches: CalibrationBatches,
    forward: BlockwiseForward | None,
) -> BlockwisePass:
    """Divide the calibration data into chunks that suit the layers of the model.

    Args:
        function: name of the function that the user called, for error messages.
        model: the model.
        batches: calibration data, as `refit` takes them.
        forward: block-wise forward pass; by default that of `Classifier` and `Retrieval`.

    Raises:
        ValueError: if no forward pass is known, if it lacks a method or has linear maps of another
            class than `Linear`, or if the data are empty or not finite.
    """
    forward = resolve_forward(function, model, forward)
    check_concrete(function, model)
    given, model = model, adopted(model)
    blocks = forward.blocks(model)
    layers = [layer_of(block) for block in blocks]
    layer_counts(function, layers)
    _check_linear_maps(function, forward, forward.head(model), blocks)
    values = max(map(_values_per_step, layers))
    return BlockwisePass(
        model, forward, calibration_chunks(function, batches, values_per_step=values), given
    )


def _check_linear_maps(
    function: str, forward: BlockwiseForward, head: object, blocks: Sequence[PyTree]
) -> None:
    heads = () if head is None else (("head", head),)
    linears = (("linears", linear) for block in blocks for linear in forward.linears(block))
    for method, linear in (*heads, *linears):
        if not isinstance(linear, Linear):
            raise ValueError(
                f"{function}: {method} of {type(forward).__name__} returns "
                f"{type(linear).__module__}.{type(linear).__name__}; it must be a "
                "lastax.nn.Linear, whose weight has shape (inputs, outputs). Apply other maps "
                "in features or after"
            )


def check_untied(function: str, data: BlockwisePass) -> None:
    """Check that no two blocks hold the same layer.

    Raises:
        ValueError: if two do, since each block would get a layer of its own.
    """
    layers = [layer_identity(layer_of(block)) for block in data.blocks]
    first = [layers.index(layer) for layer in layers]
    if first != list(range(len(layers))):
        tied = [(one, other) for other, one in enumerate(first) if one != other]
        raise ValueError(
            f"{function}: blocks {tied[0]} share one layer, which would be torn apart; choose a "
            "method that only removes states, for example last, or give each block its own layer"
        )


def layer_of(block: PyTree) -> Layer:
    """The layer of a block.

    Raises:
        ValueError: unless there is exactly one.
    """
    layers = find_layers(block)
    if len(layers) != 1:
        raise ValueError(
            f"forward.blocks: each block must hold exactly one layer, got {len(layers)} in a "
            f"{type(block).__name__}"
        )
    return layers[0]


def head_outputs(
    head: Linear | None, features: Float[np.ndarray, "n F"]
) -> Float[np.ndarray, "n m"]:
    """Outputs of the head in float64; without a head, the features."""
    wide = np.asarray(features, float)
    if head is None:
        return wide
    return wide @ np.asarray(head.weight, float) + np.asarray(head.bias, float)


def _values_per_step(layer: Layer) -> int:
    """Number of values of states and channels per step."""
    system = float32_system(layer)
    return output_weights(system)[..., 0].size + 2 * len(system.D)


def _on_host(tree: Tree) -> Tree:
    return jax.tree.map(np.asarray, tree)


def _like(before: HiddenStates, after: HiddenStates) -> HiddenStates:
    """Hidden states on the host if those before the block are."""
    # NumPy arrays have no sharding.
    return after if hasattr(before.hidden, "sharding") else _on_host(after)


# Blocks are arguments of these functions, so that equal blocks share one compiled program.


@eqx.filter_jit
@exact_products
def layer_input(
    forward: BlockwiseForward, block: PyTree, states: HiddenStates
) -> Float[Array, "n L H"]:
    """Input of the layer of a block, on the device."""
    return forward.before(block, states)


@eqx.filter_jit
@exact_products
def layer_output(
    forward: BlockwiseForward, block: PyTree, states: HiddenStates
) -> Float[Array, "n L H"]:
    """Output of the layer of a block, on the device."""
    return jax.vmap(layer_of(block))(forward.before(block, states))


@eqx.filter_jit
@exact_products
def block_output(forward: BlockwiseForward, block: PyTree, states: HiddenStates) -> HiddenStates:
    """Hidden states after a block, on the device."""
    y = jax.vmap(layer_of(block))(forward.before(block, states))
    return forward.after(block, states, y)


@eqx.filter_jit
@exact_products
def _enter(
    forward: BlockwiseForward, model: PyTree, x: AnyArray, length: AnyArray | None
) -> HiddenStates:
    lengths = None if length is None else jnp.asarray(length)
    return forward.enter(model, jnp.asarray(x), lengths)


@eqx.filter_jit
@exact_products
def _after(
    forward: BlockwiseForward, block: PyTree, states: HiddenStates, y: AnyArray
) -> HiddenStates:
    return forward.after(block, states, jnp.asarray(y))


@eqx.filter_jit
@exact_products
def _features(
    forward: BlockwiseForward, model: PyTree, states: HiddenStates
) -> Float[Array, "records F"]:
    return forward.features(model, states)
