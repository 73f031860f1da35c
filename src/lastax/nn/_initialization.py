"""Random starting values of an S5 layer. Complex arrays as real pairs on the last axis.

The standard deviations are those that the published S5 code really draws, which differ from what
its names suggest; each function says its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from lastax._typing import Array, PRNGKeyArray

InitializeC = Callable[..., Float[Array, "H P 2"]]


def as_pair(z: Complex[Array, "*shape"]) -> Float[Array, "*shape 2"]:
    """Real and imaginary part, stacked on a new last axis."""
    return jnp.stack([jnp.real(z), jnp.imag(z)], axis=-1)


def as_complex(pair: Float[Array, "*shape 2"]) -> Complex[Array, "*shape"]:
    """The inverse of `as_pair`."""
    return jax.lax.complex(pair[..., 0], pair[..., 1])


def initialize_B(
    V_inverse: Complex[np.ndarray, "P n"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "P H 2"]:
    """Real truncated-normal `(n, H)` of standard deviation `1/sqrt(n)`, in the eigenbasis."""
    size = V_inverse.shape[1]
    real = _truncated_normal(key, (size, channels), deviation=size**-0.5)
    return as_pair(jnp.asarray(V_inverse) @ real)


def lecun_normal_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    """Truncated-normal real and imaginary parts of deviation `1/sqrt(n H)`, times `V`."""
    return _rotated_C(V, channels, deviation=(V.shape[0] * channels) ** -0.5, key=key)


def truncated_standard_normal_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    """Truncated-normal real and imaginary parts of deviation `1/sqrt(n)`, times `V`."""
    return _rotated_C(V, channels, deviation=V.shape[0] ** -0.5, key=key)


def complex_normal_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    """Complex normal of variance 1, directly in the eigenbasis."""
    return np.sqrt(0.5) * jax.random.normal(key, (channels, V.shape[1], 2))


def initialize_log_step(
    states: int, *, minimum: float, maximum: float, key: PRNGKeyArray
) -> Float[Array, " P"]:
    """Logarithms of step sizes, uniform between those of `minimum` and `maximum`.

    Raises:
        ValueError: unless `0 < minimum <= maximum`.
    """
    if not 0 < minimum <= maximum:
        raise ValueError(
            f"initialize_log_step: needs 0 < minimum <= maximum, got {minimum} and {maximum}"
        )
    return jax.random.uniform(key, (states,), minval=np.log(minimum), maxval=np.log(maximum))


def _rotated_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, deviation: float, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    pair = _truncated_normal(key, (channels, V.shape[0], 2), deviation=deviation)
    return as_pair(as_complex(pair) @ jnp.asarray(V))


def _truncated_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], *, deviation: float
) -> Float[Array, "..."]:
    # Cutting a standard normal at +-2 leaves this standard deviation; dividing restores it.
    after_truncation = 0.87962566103423978
    return jax.random.truncated_normal(key, -2.0, 2.0, shape) * (deviation / after_truncation)
