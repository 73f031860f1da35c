"""Random initial values of S5 parameters, with complex arrays as real pairs on the last axis.

Standard deviations are those that the published S5 code draws. They differ from what the names of
its initializers suggest, so every function states its own.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from lastax._typing import Array, PRNGKeyArray
from lastax.ssm._precision import EXACT

# Standard deviation of a standard normal distribution that is truncated to [-2, 2].
_TRUNCATED_DEVIATION = 0.87962566103423978


@runtime_checkable
class InitializeC(Protocol):
    """Draws the output map of an S5 layer."""

    def __call__(
        self, V: Complex[np.ndarray, "n P"], channels: int, *, key: PRNGKeyArray
    ) -> Float[Array, "H P 2"]:
        """Draw `C` in the eigenbasis `V`, as real pairs."""


def as_pair(z: Complex[Array, "*shape"]) -> Float[Array, "*shape 2"]:
    """Stack real and imaginary part on a new last axis."""
    return jnp.stack([jnp.real(z), jnp.imag(z)], axis=-1)


def as_complex(pair: Float[Array, "*shape 2"]) -> Complex[Array, "*shape"]:
    """Invert `as_pair`."""
    return jax.lax.complex(pair[..., 0], pair[..., 1])


def initialize_B(
    V_inverse: Complex[np.ndarray, "P n"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "P H 2"]:
    """Draw `V_inverse B`. `B` is real, truncated normal, of standard deviation `1/sqrt(n)`.

    Args:
        V_inverse: map from `n` real states to the eigenbasis, shape `(P, n)`.
        channels: number of inputs `H`.
        key: random key.

    Returns:
        Real pairs, shape `(P, H, 2)`.
    """
    size = V_inverse.shape[1]
    real = _truncated_normal(key, (size, channels), deviation=size**-0.5)
    return as_pair(jnp.matmul(V_inverse, real, precision=EXACT))


def lecun_normal_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    """Draw `C V`. The parts of `C` are truncated normal, of standard deviation `1/sqrt(n H)`.

    Args:
        V: map from the eigenbasis to `n` real states, shape `(n, P)`.
        channels: number of outputs `H`.
        key: random key.

    Returns:
        Real pairs, shape `(H, P, 2)`.
    """
    return _rotated_C(V, channels, deviation=(V.shape[0] * channels) ** -0.5, key=key)


def truncated_standard_normal_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    """Draw `C V`. The parts of `C` are truncated normal, of standard deviation `1/sqrt(n)`.

    Arguments and result are those of `lecun_normal_C`.
    """
    return _rotated_C(V, channels, deviation=V.shape[0] ** -0.5, key=key)


def complex_normal_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    """Draw `C` as complex normal of variance 1, directly in the eigenbasis.

    Arguments and result are those of `lecun_normal_C`. Only the shape of `V` is used.
    """
    return np.sqrt(0.5) * jax.random.normal(key, (channels, V.shape[1], 2))


def initialize_log_step(
    states: int, *, minimum: float, maximum: float, key: PRNGKeyArray
) -> Float[Array, " P"]:
    """Draw logarithms of step sizes, uniform between `log(minimum)` and `log(maximum)`.

    Raises:
        ValueError: unless `0 < minimum <= maximum`.
    """
    if not 0 < minimum <= maximum:
        raise ValueError(
            "initialize_log_step: step sizes must satisfy 0 < minimum <= maximum, got minimum "
            f"{minimum} and maximum {maximum}"
        )
    return jax.random.uniform(key, (states,), minval=np.log(minimum), maxval=np.log(maximum))


def _rotated_C(
    V: Complex[np.ndarray, "n P"], channels: int, *, deviation: float, key: PRNGKeyArray
) -> Float[Array, "H P 2"]:
    pair = _truncated_normal(key, (channels, V.shape[0], 2), deviation=deviation)
    return as_pair(jnp.matmul(as_complex(pair), V, precision=EXACT))


def _truncated_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], *, deviation: float
) -> Float[Array, "..."]:
    drawn = jax.random.truncated_normal(key, -2.0, 2.0, shape)
    return drawn * (deviation / _TRUNCATED_DEVIATION)
