"""Networks: an encoder with a head for one sequence or for two documents."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from lastax._typing import Array, PRNGKeyArray, StepRescale
from lastax.nn._blocks import Gelu, Linear, gelu
from lastax.nn._encoder import Encoder, Length
from lastax.nn._normalization import Axis
from lastax.nn._precision import Precision


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
