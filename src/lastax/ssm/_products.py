"""Products and sums over time whose derivatives are plain matrix products.

Without these rules, XLA fuses the sums over time in the derivatives with the elementwise operations
before them, or transposes and copies full arrays to contract batch and time together. On a CPU this
takes most of the time of a training step.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from lastax._typing import Array


@jax.custom_vjp
def product(x: Float[Array, "L n"], W: Float[Array, "n m"]) -> Float[Array, "L m"]:
    """`x W` for one sequence. The gradient of `W` is one product per sequence, then a sum."""
    return x @ W


def _product_forward(x: Array, W: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ W, (x, W)


def _product_backward(residuals: tuple[Array, Array], y_bar: Array) -> tuple[Array, Array]:
    x, W = residuals
    return y_bar @ W.T, _contract(x, y_bar)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def total(x: Float[Array, "L n"]) -> Float[Array, " n"]:
    """The sum of `x` over time."""
    return _sum(x)


def _total_forward(x: Array) -> tuple[Array, Array]:
    return _sum(x), x[:, :0]


def _total_backward(like: Array, y_bar: Array) -> tuple[Array]:
    return (jnp.broadcast_to(y_bar[None], (like.shape[0], *y_bar.shape)),)


total.defvjp(_total_forward, _total_backward)


@jax.custom_vjp
def add_row(x: Float[Array, "L n"], row: Float[Array, " n"]) -> Float[Array, "L n"]:
    """Add `row` to every step of `x`."""
    return x + row[None]


def _add_row_forward(x: Array, row: Array) -> tuple[Array, None]:
    return x + row[None], None


def _add_row_backward(_: None, y_bar: Array) -> tuple[Array, Array]:
    return y_bar, _sum(y_bar)


add_row.defvjp(_add_row_forward, _add_row_backward)


@jax.custom_vjp
def multiply_row(x: Float[Array, "L n"], row: Float[Array, " n"]) -> Float[Array, "L n"]:
    """Multiply every step of `x` by `row`, elementwise."""
    return x * row[None]


def _multiply_row_forward(x: Array, row: Array) -> tuple[Array, tuple[Array, Array]]:
    return x * row[None], (x, row)


def _multiply_row_backward(residuals: tuple[Array, Array], y_bar: Array) -> tuple[Array, Array]:
    x, row = residuals
    return y_bar * row[None], _sum(x * y_bar)


multiply_row.defvjp(_multiply_row_forward, _multiply_row_backward)


@jax.custom_batching.custom_vmap
def _sum(x: Array) -> Array:
    """The sum over time as a matrix product."""
    ones = jnp.ones((*x.shape[:-2], 1, x.shape[-2]), x.dtype)
    return (ones @ x)[..., 0, :]


@_sum.def_vmap
def _sum_batch(size: int, batched: list, x: Array) -> tuple[Array, bool]:
    return _sum(x), True


@jax.custom_batching.custom_vmap
def _contract(x: Array, y: Array) -> Array:
    """`x^T y`."""
    x_transposed, y_transposed = x.mT, y.mT
    # Products with few columns are slow, so the wider factor is on the right.
    return x_transposed @ y if y.shape[-1] >= x.shape[-1] else (y_transposed @ x).mT


@_contract.def_vmap
def _contract_batch(size: int, batched: list, x: Array, y: Array) -> tuple[Array, bool]:
    x, y = (
        a if has else jnp.broadcast_to(a[None], (size, *a.shape))
        for a, has in zip((x, y), batched, strict=True)
    )
    if size == 1:
        return _contract(x[0], y[0])[None], True
    return _contract(x, y), True
