"""Half-precision inputs: states in float32, outputs in the dtype of the input."""

import jax.numpy as jnp
from jaxtyping import Float

from lastax._typing import Array


def to_states(u: Float[Array, "*shape"], lam: Array) -> Float[Array, "*shape"]:
    """An input in the precision of the states, which is that of the eigenvalues or higher."""
    return jnp.asarray(u, jnp.result_type(u, lam.real))


def to_output(y: Float[Array, "*shape"], u: Array) -> Float[Array, "*shape"]:
    """An output in the dtype of the input `u`, if `u` has half precision."""
    return y.astype(u.dtype) if jnp.finfo(u.dtype).bits < 32 else y
