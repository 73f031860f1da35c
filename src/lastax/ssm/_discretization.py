"""Discretization rules for diagonal systems, and their inverses.

The continuous system `x' = diag(Lambda) x + B u` becomes `x_k = diag(lam) x_{k-1} + B_bar u_k`.
Each state has its own step size `Delta`. All functions keep the dtype of their input.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Complex, Float

from lastax._typing import Array

# Takes eigenvalues `(P,)`, input matrix `(P, H)` and step sizes `(P,)`; returns the first two of
# the other kind of system.
Discretization = Callable[[Array, Array, Array], tuple[Array, Array]]


def discretize_zoh(
    Lambda: Complex[Array, " P"], B: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """Discretize by zero-order hold, which is exact if the input is constant during each step.

    `lam = exp(Lambda Delta)` and `B_bar = (lam - 1) / Lambda * B`. At `Lambda = 0` this is the
    limit, `lam = 1` and `B_bar = Delta B`. Smith et al., S5, ICLR 2023, equation 6.

    Args:
        Lambda: eigenvalues of the continuous system, shape `(P,)`.
        B: input matrix of the continuous system, shape `(P, H)`.
        Delta: step sizes, shape `(P,)`, in the inverse unit of `Lambda`.

    Returns:
        `lam`, shape `(P,)`, and `B_bar`, shape `(P, H)`.
    """
    z = Lambda * Delta
    return jnp.exp(z), (Delta * _mean_exponential(z))[:, None] * B


def invert_zoh(
    lam: Complex[Array, " P"], B_bar: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """Invert `discretize_zoh`: the `Lambda` and `B` that give `lam` and `B_bar`.

    `lam` determines `Im(Lambda) Delta` up to multiples of 2 pi. The result is the value in
    (-pi, pi], which discretizes to the same system. `lam = 0` has no inverse and gives a result
    that is not finite. Shapes are those of `discretize_zoh`.
    """
    z = jnp.log(lam)
    return z / Delta, B_bar / (Delta * _mean_exponential(z))[:, None]


def discretize_bilinear(
    Lambda: Complex[Array, " P"], B: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """Discretize by the bilinear (Tustin) transform, which is the trapezoidal rule.

    `lam = (1 + Delta Lambda / 2) / (1 - Delta Lambda / 2)` and
    `B_bar = Delta / (1 - Delta Lambda / 2) * B`. Gu et al., S4, ICLR 2022, equation 3.

    Args:
        Lambda: eigenvalues of the continuous system, shape `(P,)`.
        B: input matrix of the continuous system, shape `(P, H)`.
        Delta: step sizes, shape `(P,)`, in the inverse unit of `Lambda`.

    Returns:
        `lam`, shape `(P,)`, and `B_bar`, shape `(P, H)`.
    """
    half = 0.5 * Delta * Lambda
    return (1 + half) / (1 - half), (Delta / (1 - half))[:, None] * B


def invert_bilinear(
    lam: Complex[Array, " P"], B_bar: Complex[Array, "P H"], Delta: Float[Array, " P"]
) -> tuple[Complex[Array, " P"], Complex[Array, "P H"]]:
    """Invert `discretize_bilinear`: the `Lambda` and `B` that give `lam` and `B_bar`.

    The inverse is unique for every `lam` except -1, which no finite `Lambda` gives. Shapes are
    those of `discretize_bilinear`.
    """
    half = (lam - 1) / (lam + 1)
    return 2 * half / Delta, ((1 - half) / Delta)[:, None] * B_bar


def inverse_of(discretize: Discretization) -> Discretization:
    """The inverse of a discretization rule.

    Raises:
        ValueError: unless the rule is `discretize_zoh` or `discretize_bilinear`.
    """
    inverses = {discretize_zoh: invert_zoh, discretize_bilinear: invert_bilinear}
    if discretize not in inverses:
        raise ValueError(
            "inverse_of: the inverse is known only for discretize_zoh and discretize_bilinear, "
            f"got {discretize}"
        )
    return inverses[discretize]


def _mean_exponential(z: Complex[Array, " P"]) -> Complex[Array, " P"]:
    """`(exp(z) - 1) / z`, the mean of `exp` between 0 and `z`. It is 1 at `z = 0`."""
    zero = z == 0
    # The inner `where` keeps the unused quotient finite, and with it the gradient.
    nonzero = jnp.where(zero, 1, z)
    return jnp.where(zero, 1 + z / 2, jnp.expm1(nonzero) / nonzero)
