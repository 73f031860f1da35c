"""From a continuous diagonal system to a discrete one with step sizes `Delta`, and back.

`x' = diag(Lambda) x + B u` becomes `x_k = diag(lam) x_{k-1} + B_bar u_k`. All four functions work
state by state, in the precision of their input.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Complex, Float

from lastax._typing import Array


def discretize_zoh(
    Lambda: Complex[Array, " P"], B: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """Zero-order hold: exact if the input is constant over a step.

    `lam = exp(Lambda Delta)`, `B_bar = (lam - 1) / Lambda * B`; at `Lambda = 0` the limit,
    `lam = 1` and `B_bar = Delta B`. Smith et al., S5, equation 6.
    """
    z = Lambda * Delta
    return jnp.exp(z), (Delta * _mean_exponential(z))[:, None] * B


def invert_zoh(
    lam: Complex[Array, " P"], B_bar: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """`Lambda` and `B` that `discretize_zoh` takes to `lam` and `B_bar`.

    `lam` tells `Im(Lambda) Delta` up to multiples of 2 pi: the value in (-pi, pi] is returned,
    which discretizes to the same system. `lam = 0` has no inverse (the result is not finite).
    """
    z = jnp.log(lam)
    return z / Delta, B_bar / (Delta * _mean_exponential(z))[:, None]


def discretize_bilinear(
    Lambda: Complex[Array, " P"], B: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """Bilinear (Tustin): the trapezoidal rule.

    `lam = (1 + Delta Lambda / 2) / (1 - Delta Lambda / 2)`,
    `B_bar = Delta / (1 - Delta Lambda / 2) * B`. Gu et al., S4, equation 3.
    """
    half = 0.5 * Delta * Lambda
    return (1 + half) / (1 - half), (Delta / (1 - half))[:, None] * B


def invert_bilinear(
    lam: Complex[Array, " P"], B_bar: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """`Lambda` and `B` that `discretize_bilinear` takes to `lam` and `B_bar`.

    One to one for every `lam` but -1, which no finite `Lambda` reaches.
    """
    half = (lam - 1) / (lam + 1)
    return 2 * half / Delta, ((1 - half) / Delta)[:, None] * B_bar


def inverse_of(discretize: Callable) -> Callable:
    """The function that undoes a discretization rule.

    Raises:
        ValueError: if the rule is none of this module.
    """
    inverses = {discretize_zoh: invert_zoh, discretize_bilinear: invert_bilinear}
    if discretize not in inverses:
        raise ValueError(f"inverse_of: no inverse of {discretize} is known")
    return inverses[discretize]


def _mean_exponential(z: Complex[Array, " P"]) -> Complex[Array, " P"]:
    """`(exp(z) - 1) / z`, the mean of `exp` between 0 and `z`; 1 at `z = 0`."""
    zero = z == 0
    # The inner `where` keeps the unused quotient, and with it the gradient, finite.
    nonzero = jnp.where(zero, 1, z)
    return jnp.where(zero, 1 + z / 2, jnp.expm1(nonzero) / nonzero)
