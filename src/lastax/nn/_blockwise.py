"""A network's forward pass, opened before and after each layer.

Calibration has to see what goes into a layer and to put something else in place of what comes out.
`BlockwiseForward` is what it asks of a model; `NetworkForward` answers for `Classifier` and `Retrieval`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from lastax._typing import Array
from lastax.nn._blocks import Block, Linear
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.nn._normalization import BatchNorm, LayerNorm


class HiddenStates(NamedTuple):
    """What is between two blocks, for `n` sequences at once.

    `valid` holds where a sequence is, not its padding. `mask` is the same where the network itself
    leaves padding out, None where it does not.
    """

    hidden: Float[Array, "n L H"]
    valid: Bool[Array, "n L"]
    mask: Bool[Array, "n L"] | None


@runtime_checkable
class BlockwiseForward(Protocol):
    """A forward pass in evaluation mode, in stages.

    First `enter`, then for each block `before`, the block's layer, `after`; in the end `features`
    and the `head`. All take a batch. They are compiled, so they must be pure, and an object of this
    kind hashable.
    The last three have answers that suit any model: nothing beside the layers is refitted then.
    """

    def enter(self, model: Any, x: Array, length: Array | None) -> HiddenStates:
        """What goes into the first block. A record may be several sequences in a row of `n`."""
        ...

    def blocks(self, model: Any) -> Sequence[Any]:
        """Nodes of the model, each holding one layer, in the order in which data pass."""
        ...

    def before(self, block: Any, stream: HiddenStates) -> Float[Array, "n L H"]:
        """What the block's layer gets."""
        ...

    def after(self, block: Any, stream: HiddenStates, y: Float[Array, "n L H"]) -> HiddenStates:
        """What goes into the next block, if the layer answers `y`."""
        ...

    def features(self, model: Any, stream: HiddenStates) -> Float[Array, "records F"]:
        """What the head gets, or the model's output if it has none."""
        ...

    def head(self, model: Any) -> Linear | None:
        """The linear map, a node of the model, that makes outputs of features."""
        return None

    def linears(self, block: Any) -> Sequence[Linear]:
        """Linear maps, nodes of the block, that act on one function of the layer's output."""
        return ()

    def linears_input(self, block: Any, y: Float[Array, "n L H"]) -> Float[Array, "n L F"]:
        """What these maps get."""
        return y


@dataclasses.dataclass(frozen=True)
class NetworkForward(BlockwiseForward):
    """The stages of `Classifier` and `Retrieval`, whose two documents are two sequences."""

    def enter(
        self,
        model: Network,
        x: Float[Array, "records ..."] | Int[Array, "records ..."],
        length: Int[Array, "records ..."] | None,
    ) -> HiddenStates:
        """Embedded sequences, all first documents beside their second ones."""
        if isinstance(model, Retrieval):
            x = x.reshape(-1, *x.shape[2:])
            length = None if length is None else length.reshape(-1)
        tokens = jnp.issubdtype(x.dtype, jnp.integer)
        embed = model.encoder.embed
        hidden = jax.vmap(embed.rows if tokens else embed)(x)
        if length is None:
            return HiddenStates(hidden, jnp.ones(hidden.shape[:2], bool), None)
        valid = jnp.arange(hidden.shape[1])[None, :] < length[:, None]
        return HiddenStates(hidden, valid, valid if model.encoder.mask_padding else None)

    def blocks(self, model: Network) -> tuple[Block, ...]:
        """Those of the encoder."""
        return model.encoder.blocks

    def before(self, block: Block, stream: HiddenStates) -> Float[Array, "n L H"]:
        """Normalized if the norm comes first; padding is zero where it is masked."""
        y = normalized(block.norm, stream.hidden) if block.prenorm else stream.hidden
        return y if stream.mask is None else jnp.where(stream.mask[..., None], y, 0)

    def after(self, block: Block, stream: HiddenStates, y: Float[Array, "n L H"]) -> HiddenStates:
        """Gate, skip connection, and the norm if it comes last."""
        hidden = self.unnormalized(block, stream, y)
        if not block.prenorm:
            hidden = normalized(block.norm, hidden)
        return stream._replace(hidden=hidden)

    def unnormalized(
        self, block: Block, stream: HiddenStates, y: Float[Array, "n L H"]
    ) -> Float[Array, "n L H"]:
        """Gate and skip connection."""
        return stream.hidden + jax.vmap(lambda y: block.gate(y, dropout=0.0, key=None))(y)

    def features(self, model: Network, stream: HiddenStates) -> Float[Array, "records F"]:
        """Pooled, and of a pair what the last linear map gets."""
        pooled = jax.vmap(model.encoder.pool)(stream.hidden, stream.valid)
        if not isinstance(model, Retrieval):
            return pooled
        a, b = pooled[::2], pooled[1::2]
        hidden = model.hidden(jnp.concatenate([a, b, a - b, a * b], axis=1))
        return jax.nn.gelu(hidden, approximate=True)

    def head(self, model: Network) -> Linear:
        """The last linear map."""
        return model.head

    def linears(self, block: Block) -> tuple[Linear, ...]:
        """The one or two linear maps of the gate."""
        return tuple(map_ for map_ in (block.gate.value, block.gate.gate) if map_ is not None)

    def linears_input(self, block: Block, y: Float[Array, "n L H"]) -> Float[Array, "n L F"]:
        """GELU of the layer's output."""
        return jax.nn.gelu(y, approximate=True)


def resolve_forward(who: str, model: Any, stages: BlockwiseForward | None) -> BlockwiseForward:
    """Those that were given, or those of a network of ours.

    Raises:
        ValueError: in the name of `who` asks, if none were given for a model of another kind.
    """
    if stages is not None:
        return stages
    if not isinstance(model, Classifier | Retrieval):
        raise ValueError(
            f"{who}: how data pass a {type(model).__name__} is not known: give stages=, an object "
            "with the methods of lastax.BlockwiseForward"
        )
    return NetworkForward()


def normalized(norm: BatchNorm | LayerNorm, hidden: Float[Array, "n L H"]) -> Float[Array, "n L H"]:
    """The norm of each sequence by running statistics."""
    return jax.vmap(lambda x: norm(x)[0])(hidden)
