"""S5 the way its public code computes it, written anew: the yardstick of the benchmark.

One complex `associative_scan` a direction, differentiated by JAX with all its levels kept; complex
matrix products; states removed by masks at full size. Same parameters, same numbers.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax import S5, System
from lastax._typing import Array, Scalar


def public_scan(
    lam: Complex[Array, " P"], b: Complex[Array, "L P"], *, reverse: bool = False
) -> Complex[Array, "L P"]:
    """All states of `x_k = lam x_{k-1} + b_k`; its derivative keeps every level of the scan."""
    factors = jnp.broadcast_to(lam[None, :], b.shape)
    return jax.lax.associative_scan(_combine, (factors, b), reverse=reverse)[1]


class PublicS5(eqx.Module):
    """An S5 layer that computes as the public code does, with a 0/1 mask on its states."""

    layer: S5
    mask: Float[Array, " P"]

    @classmethod
    def of(cls, layer: S5) -> "PublicS5":
        """The same layer, nothing masked."""
        return cls(layer, jnp.ones_like(layer.log_step))

    def system(self, step_rescale: Scalar = 1.0) -> System:
        """The system of the layer with masked states at zero."""
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
        """Apply the layer to one sequence, from rest."""
        system = self.system(step_rescale)
        driven = jax.vmap(lambda u: system.B @ u)(u.astype(system.B.dtype))
        states = public_scan(system.lam, driven)
        C = system.C
        if system.C_reverse is not None:
            backward = public_scan(system.lam, driven, reverse=True)
            states = jnp.concatenate([states, backward], axis=1)
            C = jnp.concatenate([system.C, system.C_reverse], axis=1)
        s = 2 if system.conj_sym else 1
        observed = jax.vmap(lambda x: s * (C @ x).real)(states)
        return observed + system.D[None, :] * u

    def keep(self, mask: Bool[np.ndarray, " P"]) -> "PublicS5":
        """The same arrays with more of them masked: nothing gets smaller."""
        return dataclasses.replace(self, mask=self.mask * jnp.asarray(mask, self.mask.dtype))


def _combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    factor, state = earlier
    next_factor, next_state = later
    return next_factor * factor, next_factor * state + next_state
