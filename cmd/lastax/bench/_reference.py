"""Reference implementation of S5 for the benchmarks, computed as in the authors' public code.

It uses one complex `associative_scan` per direction, which JAX differentiates while it stores every
level of the scan, complex matrix products, and masks of full size in place of removed states. Dense
layers, batch statistics and pooling are written directly and differentiated by JAX. Parameters and
outputs are those of `lastax`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.nn import S5, BatchNorm, Encoder, Linear, Network, RunningStatistics
from lastax.ssm import System


def reference_scan(
    lam: Complex[Array, " P"], b: Complex[Array, "L P"], *, reverse: bool = False
) -> Complex[Array, "L P"]:
    """All states of `x_k = lam x_{k-1} + b_k`. The derivative stores every level of the scan."""
    factors = jnp.broadcast_to(lam[None, :], b.shape)
    return jax.lax.associative_scan(_combine, (factors, b), reverse=reverse)[1]


def reference_kernels(
    lam: Complex[Array, " S"], weight: Complex[Array, " S"], counts: Sequence[int], length: int
) -> Float[Array, "H L"]:
    """Convolution kernels of S4D, with one exponential per state and step."""
    terms = jnp.exp(jnp.log(lam)[:, None] * jnp.arange(length)[None, :])
    terms = (weight[:, None] * terms).real
    if len(set(counts)) == 1:
        return terms.reshape(len(counts), -1, length).sum(axis=1)
    channel = np.repeat(np.arange(len(counts)), counts)
    return jax.ops.segment_sum(terms, channel, len(counts), indices_are_sorted=True)


class ReferenceS5(eqx.Module):
    """An S5 layer with a 0/1 mask on its states."""

    layer: S5
    mask: Float[Array, " P"]

    @classmethod
    def of(cls, layer: S5) -> "ReferenceS5":
        """Wrap a layer; all states are active."""
        return cls(layer, jnp.ones_like(layer.log_step))

    def system(self, step_rescale: Scalar = 1.0) -> System:
        """The system of the layer, with zeros for masked states."""
        full = self.layer.system(step_rescale)
        mask = jax.lax.stop_gradient(self.mask)
        return dataclasses.replace(
            full,
            lam=full.lam * mask,
            B=full.B * mask[:, None],
            C=full.C * mask[None, :],
            C_reverse=None if full.C_reverse is None else full.C_reverse * mask[None, :],
        )

    def __call__(
        self, u: Float[Array, "L H"], *, step_rescale: Scalar = 1.0
    ) -> Float[Array, "L H"]:
        """Apply the layer to one sequence; the initial state is zero."""
        system = self.system(step_rescale)
        driven = jax.vmap(lambda u: system.B @ u)(u.astype(system.B.dtype))
        states = reference_scan(system.lam, driven)
        C = system.C
        if system.C_reverse is not None:
            backward = reference_scan(system.lam, driven, reverse=True)
            states = jnp.concatenate([states, backward], axis=1)
            C = jnp.concatenate([system.C, system.C_reverse], axis=1)
        s = 2 if system.conj_sym else 1
        observed = jax.vmap(lambda x: s * (C @ x).real)(states)
        return observed + system.D[None, :] * u

    def keep(self, mask: Bool[np.ndarray, " P"]) -> "ReferenceS5":
        """The layer with more states masked; its arrays keep their shapes."""
        return dataclasses.replace(self, mask=self.mask * jnp.asarray(mask, self.mask.dtype))


class ReferenceLinear(Linear):
    """A dense layer with the derivative of JAX."""

    def __call__(
        self, x: Float[Array, "*shape n"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*shape m"]:
        """Apply the map to the last axis."""
        del key
        y = x @ self.weight
        return y + jnp.broadcast_to(self.bias, y.shape)


class ReferenceBatchNorm(BatchNorm):
    """BatchNorm with the variance as the mean of squares minus the squared mean."""

    def __call__(
        self, x: Float[Array, "L H"], mask: Bool[Array, " L"] | None = None, *, axis: Any = None
    ) -> tuple[Float[Array, "L H"], "ReferenceBatchNorm"]:
        """Normalize one sequence; also return the module with its new running statistics."""
        if mask is not None:
            raise ValueError("ReferenceBatchNorm: the reference implementation has no mask")
        if axis is None:
            return self._normalize(x, self.running), self
        mean = jax.lax.pmean(jnp.mean(x, axis=0), axis)
        variance = jax.lax.pmean(jnp.mean(x**2, axis=0), axis) - mean**2
        batch = RunningStatistics(mean, variance)
        running = jax.tree.map(
            lambda old, new: self.momentum * old + (1 - self.momentum) * new, self.running, batch
        )
        return self._normalize(x, batch), dataclasses.replace(self, running=running)

    def _normalize(self, x: Array, statistics: RunningStatistics) -> Array:
        factor = self.scale * jax.lax.rsqrt(statistics.variance + self.epsilon)
        return (x - statistics.mean[None]) * factor[None] + self.bias[None]


class ReferenceEncoder(Encoder):
    """An encoder that pools with the mean over time."""

    def pool(self, y: Float[Array, "L H"], mask: Bool[Array, " L"] | None) -> Float[Array, " H"]:
        """The mean over all steps."""
        if mask is not None or self.pooling != "mean":
            raise ValueError(
                "ReferenceEncoder: only mean pooling without a mask is implemented, got "
                f"pooling={self.pooling!r}"
            )
        return jnp.mean(y, axis=0)


_REPLACEMENTS = {Linear: ReferenceLinear, BatchNorm: ReferenceBatchNorm, Encoder: ReferenceEncoder}


def reference_network(network: Network) -> Network:
    """A network of S5 layers with every module replaced by its reference implementation."""

    def convert(node: Any) -> Any:
        if isinstance(node, S5):
            return ReferenceS5.of(node)
        if not isinstance(node, eqx.Module):
            return node
        inside = jax.tree.map(convert, vars(node), is_leaf=lambda x: isinstance(x, eqx.Module))
        cls = _REPLACEMENTS.get(type(node), type(node))
        return cls(**inside) if cls is not RunningStatistics else node

    return convert(network)


def _combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    factor, state = earlier
    next_factor, next_state = later
    return next_factor * factor, next_factor * state + next_state
