"""16-bit inputs and parameters, and the precision of matrix products."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, Shaped

from lastax._typing import Array

Params = ParamSpec("Params")
Result = TypeVar("Result")

# On a GPU, JAX by default rounds the float32 factors of matrix products to TF32.
EXACT = "highest"


def exact_products(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """A function whose matrix products have the precision of their arrays on every device.

    If JAX compiles the function, apply `exact_products` before `jax.jit`.
    """

    @functools.wraps(function)
    def exact(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        with jax.default_matmul_precision(EXACT):
            return function(*args, **kwargs)

    return exact


def at_least_float32(x: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Convert real numbers to float32. Wider floats stay as they are."""
    if jnp.issubdtype(x.dtype, jnp.floating) and not _is_narrow(x):
        return x
    return jnp.asarray(x, jnp.float32)


def in_float64(tree: PyTree) -> PyTree:
    """A PyTree with its floating-point arrays in float64 and complex128; needs 64-bit JAX."""

    def widen(leaf: PyTree) -> PyTree:
        if not eqx.is_inexact_array(leaf):
            return leaf
        dtype = jnp.complex128 if jnp.iscomplexobj(leaf) else jnp.float64
        return jnp.asarray(np.asarray(leaf), dtype)

    return jax.tree.map(widen, tree)


def in_dtype_of(y: Float[Array, "*shape"], x: Shaped[Array, "..."]) -> Float[Array, "*shape"]:
    """Convert a result `y` to the dtype of its input `x`, if `x` has less than 32 bits."""
    return y.astype(x.dtype) if _is_narrow(x) else y


def _is_narrow(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
