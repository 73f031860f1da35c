"""The forward pass of a network, block by block.

Calibration reads the input of each layer and replaces its output. `BlockwiseForward` is the
interface that a model of any class can implement for this; `NetworkForward` implements it for
`Classifier` and `Retrieval`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from lastax._typing import Array
from lastax.nn._blocks import Block, Linear, gelu
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.nn._normalization import BatchNorm, LayerNorm

ModelT = TypeVar("ModelT", contravariant=True)
BlockT = TypeVar("BlockT")


# The methods of `BlockwiseForward`.
_WITHOUT_DEFAULTS = ("enter", "blocks", "before", "after", "features")
_WITH_DEFAULTS = ("head", "linears", "linears_input", "model_outputs")


class HiddenStates(NamedTuple):
    """Hidden states between two blocks, for `n` sequences.

    Attributes:
        hidden: output of a block, shape `(n, L, H)`.
        valid: true for each step that is not padding, shape `(n, L)`.
        mask: `valid` if the network itself excludes padding from its layers, else None.
    """

    hidden: Float[Array, "n L H"]
    valid: Bool[Array, "n L"]
    mask: Bool[Array, "n L"] | None


@runtime_checkable
class BlockwiseForward(Protocol[ModelT, BlockT]):
    """The forward pass of a model in evaluation mode, divided at its layers.

    The output of a model is computed as follows, with the layer found in each block:

        states = forward.enter(model, x, length)
        for block in forward.blocks(model):
            u = forward.before(block, states)
            states = forward.after(block, states, jax.vmap(layer)(u))
        output = forward.head(model)(forward.features(model, states))

    All methods take a batch. They are compiled with the object as a static argument, so they must
    be pure and the object must be hashable, for example a frozen dataclass. `head`, `linears`,
    `linears_input` and `model_outputs` have defaults. With them, only layers are refitted, and the
    outputs of the model are its features.

    Refits compare the outputs with those of the model itself (`model_outputs`) on the first batch.
    """

    def enter(self, model: ModelT, x: Array, length: Array | None) -> HiddenStates:
        """Compute the hidden states before the first block.

        Args:
            model: the model.
            x: records of a batch. One record may hold several sequences; they are adjacent on the
                first axis of the result.
            length: number of valid steps of each sequence; None if there is no padding.

        Returns:
            Hidden states of `n` sequences.
        """
        ...

    def blocks(self, model: ModelT) -> Sequence[BlockT]:
        """The nodes of the model that hold one layer each, in the order of the forward pass."""
        ...

    def before(self, block: BlockT, states: HiddenStates) -> Float[Array, "n L H"]:
        """Compute the input of the block's layer."""
        ...

    def after(self, block: BlockT, states: HiddenStates, y: Float[Array, "n L H"]) -> HiddenStates:
        """Compute the hidden states after the block.

        Args:
            block: the block.
            states: hidden states before the block.
            y: output of the block's layer, shape `(n, L, H)`.

        Returns:
            Hidden states of the same `n` sequences.
        """
        ...

    def features(self, model: ModelT, states: HiddenStates) -> Float[Array, "records F"]:
        """Compute the input of the head; without a head, the output of the model."""
        ...

    def head(self, model: ModelT) -> Linear | None:
        """The node of the model that maps features to outputs; None if there is none to refit."""
        return None

    def linears(self, block: BlockT) -> Sequence[Linear]:
        """Nodes of the block that are linear maps of one function of the layer's output."""
        return ()

    def linears_input(self, block: BlockT, y: Float[Array, "n L H"]) -> Float[Array, "n L F"]:
        """Compute the input of these linear maps from the layer's output."""
        return y

    def model_outputs(self, model: ModelT, x: Array) -> Array | None:
        """Call the model itself, without padding, to check the other methods.

        The default calls `model(record)` for each record. Define this method if your model is
        called in another way, for example with a key.

        Returns:
            Outputs as of the head, or without a head as `features`; None to check nothing.
        """
        return jax.vmap(model)(x) if callable(model) else None


@dataclasses.dataclass(frozen=True)
class NetworkForward(BlockwiseForward[Network, Block]):
    """Block-wise forward pass of `Classifier` and `Retrieval`.

    The two documents of a `Retrieval` record are two adjacent sequences.
    """

    def enter(
        self,
        model: Network,
        x: Shaped[Array, "*shape"],
        length: Int[Array, "records ..."] | None,
    ) -> HiddenStates:
        """Embed the sequences."""
        encoder, leading = model.encoder, (None, 2) if isinstance(model, Retrieval) else (None,)
        encoder.check_input(type(model).__name__, x, length, leading=leading)
        if isinstance(model, Retrieval):
            x = x.reshape(-1, *x.shape[2:])
            length = None if length is None else length.reshape(-1)
        if length is None:
            hidden = jax.vmap(lambda x: encoder.embedded(x, None))(x)
            return HiddenStates(hidden, jnp.ones(hidden.shape[:2], bool), None)
        valid = jnp.arange(x.shape[1])[None, :] < length[:, None]
        hidden = jax.vmap(encoder.embedded)(x, valid)
        return HiddenStates(hidden, valid, valid if encoder.mask_padding else None)

    def blocks(self, model: Network) -> tuple[Block, ...]:
        """The blocks of the encoder."""
        return model.encoder.blocks

    def before(self, block: Block, states: HiddenStates) -> Float[Array, "n L H"]:
        """Normalize, for prenorm, and set masked padding to zero."""
        y = _normalized(block.norm, states.hidden) if block.prenorm else states.hidden
        return y if states.mask is None else jnp.where(states.mask[..., None], y, 0)

    def after(self, block: Block, states: HiddenStates, y: Float[Array, "n L H"]) -> HiddenStates:
        """Apply the gate and the skip connection, and normalize for postnorm."""
        hidden = self.unnormalized(block, states, y)
        if not block.prenorm:
            hidden = _normalized(block.norm, hidden)
        return states._replace(hidden=hidden)

    def unnormalized(
        self, block: Block, states: HiddenStates, y: Float[Array, "n L H"]
    ) -> Float[Array, "n L H"]:
        """Apply the gate and the skip connection only."""
        return states.hidden + jax.vmap(lambda y: block.gate(y, dropout=0.0, key=None))(y)

    def features(self, model: Network, states: HiddenStates) -> Float[Array, "records F"]:
        """Pool over time; for `Retrieval`, also apply everything before the head."""
        pooled = jax.vmap(model.encoder.pool)(states.hidden, states.valid)
        if not isinstance(model, Retrieval):
            return pooled
        a, b = pooled[::2], pooled[1::2]
        hidden = model.hidden(jnp.concatenate([a, b, a - b, a * b], axis=1))
        return gelu(hidden, model.gelu)

    def head(self, model: Network) -> Linear:
        """The head of the network."""
        return model.head

    def linears(self, block: Block) -> tuple[Linear, ...]:
        """The linear maps of the gate: none, one or two."""
        return tuple(linear for linear in (block.gate.value, block.gate.gate) if linear is not None)

    def linears_input(self, block: Block, y: Float[Array, "n L H"]) -> Float[Array, "n L F"]:
        """Apply GELU to the layer's output."""
        return gelu(y, block.gate.gelu)

    def model_outputs(self, model: Network, x: Array) -> None:
        """Nothing: the tests of lastax compare this class with its networks."""


def resolve_forward(
    function: str, model: object, forward: BlockwiseForward | None
) -> BlockwiseForward:
    """The given block-wise forward pass, or by default that of `Classifier` and `Retrieval`.

    Args:
        function: name of the calling function, for the error message.
        model: the model.
        forward: the argument that the user passed.

    Raises:
        ValueError: if none is given for a model of another class, or if it lacks a method.
    """
    if forward is not None:
        _check_methods(function, forward)
        return forward
    if not isinstance(model, Classifier | Retrieval):
        raise ValueError(
            f"{function}: no block-wise forward pass is known for {type(model).__name__}; pass "
            "forward=, an object with the methods of lastax.BlockwiseForward"
        )
    return NetworkForward()


def _check_methods(function: str, forward: object) -> None:
    if isinstance(forward, type):
        name = forward.__name__
        raise ValueError(f"{function}: forward= is the class {name}; pass an object, {name}()")
    # A class that inherits from the protocol has its empty methods.
    absent = (None, *(getattr(BlockwiseForward, name) for name in _WITHOUT_DEFAULTS))
    names = (*_WITHOUT_DEFAULTS, *_WITH_DEFAULTS)
    missing = [name for name in names if getattr(type(forward), name, None) in absent]
    if missing:
        raise ValueError(
            f"{function}: {type(forward).__name__} lacks {', '.join(missing)}; define what "
            "lastax.BlockwiseForward describes"
        )


def _normalized(
    norm: BatchNorm | LayerNorm, hidden: Float[Array, "n L H"]
) -> Float[Array, "n L H"]:
    """Normalize each sequence in evaluation mode."""
    return jax.vmap(lambda x: norm(x)[0])(hidden)
