"""Eigenvalues of a discretized system for other step sizes, in real arithmetic."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Complex, Float

from lastax._typing import Array, Scalar, StepRescale
from lastax.ssm._discretization import Discretization, discretize_bilinear, discretize_zoh
from lastax.ssm._powers import SplitComplex, multiply


class StepSizes(eqx.Module):
    """How the eigenvalues and `B` of a discretized system depend on the step size.

    Attributes:
        re: real parts of `Lambda Delta` at the nominal step size, shape `(P,)`.
        im: imaginary parts of `Lambda Delta`, shape `(P,)`.
        bilinear: whether the rule is the bilinear transform instead of zero-order hold.
    """

    re: Float[Array, " P"]
    im: Float[Array, " P"]
    bilinear: bool = eqx.field(static=True, default=False)

    def at(self, step_rescale: Scalar) -> tuple[SplitComplex, SplitComplex]:
        """The system for steps of `step_rescale` times the nominal size.

        Args:
            step_rescale: factor on all step sizes.

        Returns:
            Real and imaginary parts of the eigenvalues and of the factors on the rows of the
            nominal `B`. Each array has shape `(P,)`.
        """
        r, z = jnp.asarray(step_rescale, self.re.dtype), (self.re, self.im)
        scaled = (r * z[0], r * z[1])
        if self.bilinear:
            # lam = (1 + r z / 2) / (1 - r z / 2), and B is proportional to r / (1 - r z / 2).
            reciprocal = _reciprocal((1 - scaled[0] / 2, -scaled[1] / 2))
            lam = multiply((1 + scaled[0] / 2, scaled[1] / 2), reciprocal)
            nominal = (1 - z[0] / 2, -z[1] / 2)
            return lam, multiply((r * nominal[0], r * nominal[1]), reciprocal)
        growth = jnp.exp(scaled[0])
        lam = growth * jnp.cos(scaled[1]), growth * jnp.sin(scaled[1])
        # B is proportional to (exp(r z) - 1) / z. At z = 0 the ratio is r.
        zero = (self.re == 0) & (self.im == 0)
        change = _expm1(z)
        reciprocal = _reciprocal((jnp.where(zero, 1, change[0]), change[1]))
        ratio = multiply(_expm1(scaled), reciprocal)
        return lam, (jnp.where(zero, r, ratio[0]), ratio[1])


def step_sizes_of(discretize: Discretization, exponent: Complex[Array, " P"]) -> StepSizes | None:
    """The step sizes of a layer with the exponents `Lambda Delta`.

    Args:
        discretize: discretization rule.
        exponent: `Lambda Delta` at the nominal step size, shape `(P,)`.

    Returns:
        The step sizes, or None unless the rule is `discretize_zoh` or `discretize_bilinear`.
    """
    if discretize not in (discretize_zoh, discretize_bilinear):
        return None
    return StepSizes(exponent.real, exponent.imag, discretize is discretize_bilinear)


def check_step_rescale(
    function: str, step_rescale: StepRescale, shape: tuple[int, ...], *sizes: StepSizes | None
) -> None:
    """Check factors on the step sizes, one per step.

    Args:
        function: what the caller called, for the error message.
        step_rescale: the factors.
        shape: the shape that they must have.
        *sizes: how the system of each layer depends on the step size.

    Raises:
        ValueError: if the shape differs, or if the layer cannot change its step size.
    """
    if jnp.shape(step_rescale) != shape:
        per_step = f" or have shape {shape}, one factor per step" if shape else ""
        raise ValueError(
            f"{function}: step_rescale must be one number{per_step}, got shape "
            f"{jnp.shape(step_rescale)}"
        )
    if None in sizes:
        raise ValueError(
            f"{function}: the step size can change from step to step only in S5 and S4D layers "
            "with discretize_zoh or discretize_bilinear and in LRU layers; pass one step_rescale "
            "for all steps"
        )


def _expm1(z: SplitComplex) -> SplitComplex:
    re, im = z
    return (
        jnp.expm1(re) * jnp.cos(im) - 2 * jnp.sin(im / 2) ** 2,
        jnp.exp(re) * jnp.sin(im),
    )


def _reciprocal(z: SplitComplex) -> SplitComplex:
    squared = z[0] ** 2 + z[1] ** 2
    return z[0] / squared, -z[1] / squared
