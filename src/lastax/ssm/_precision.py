"""16-bit inputs and parameters: compute in float32, and return the dtype of the input."""

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from lastax._typing import Array


def at_least_float32(x: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Convert real numbers to float32. Wider floats stay as they are."""
    if jnp.issubdtype(x.dtype, jnp.floating) and not _is_narrow(x):
        return x
    return jnp.asarray(x, jnp.float32)


def in_dtype_of(y: Float[Array, "*shape"], x: Shaped[Array, "..."]) -> Float[Array, "*shape"]:
    """Convert a result `y` to the dtype of its input `x`, if `x` has less than 32 bits."""
    return y.astype(x.dtype) if _is_narrow(x) else y


def _is_narrow(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
