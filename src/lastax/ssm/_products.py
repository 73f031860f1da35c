"""Products and sums over time whose derivatives are plain matrix products.

Without these rules, XLA fuses the sums over time in the derivatives with the elementwise operations
before them, or transposes and copies full arrays to contract batch and time together. On a CPU this
takes most of the time of a training step.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jax.extend.core import Primitive
from jax.interpreters import ad
from jaxtyping import Float

from lastax._typing import Array
from lastax.ssm._device_table import sums_jointly
from lastax.ssm._precision import EXACT
from lastax.ssm._primitive import LinearOperand, apply, jvp_of, sequence_primitive, sum_to


def product(x: Float[Array, "L n"], W: Float[Array, "n m"]) -> Float[Array, "L m"]:
    """`x W` for one sequence. The gradient of `W` is one product per sequence, then a sum."""
    # A primitive is compiled after the function that uses it has been traced. The precision of
    # matrix products is that at the time of the call.
    return _apply(_product, x, W, precision=jax.default_matmul_precision.value)


def product_of(x: Array, W: Array, *, precision: str | None) -> Array:
    """`product` in the rule of a primitive, where operands have the same batch axes."""
    result: Array = _product.bind(x, W, precision=precision)
    return result


def transposed_product_of(x: Array, y: Array, *, precision: str | None) -> Array:
    """`x^T y` in the rule of a primitive, for each sequence of a batch."""
    # Products with few columns are slow, so the wider factor is on the right.
    if y.shape[-1] >= x.shape[-1]:
        return product_of(x.mT, y, precision=precision)
    return product_of(y.mT, x, precision=precision).mT


def total(x: Float[Array, "*batch L n"]) -> Float[Array, "*batch n"]:
    """The sum of `x` over time, in the precision of `x` on every device."""
    return _apply(_total, x)


def precise_total(x: Float[Array, "L n"]) -> Float[Array, " n"]:
    """The sum of `x` over time, by way of sums over pieces of 128 steps.

    In float32, a sum over 16,384 equal values has a relative error of 1e-4 if they are added one
    after another.
    """
    steps = 128
    if not is_symbolic_dim(x.shape[0]) and x.shape[0] <= steps:
        return total(x)
    pieces = -(-x.shape[0] // steps)
    padded = jnp.pad(x, ((0, pieces * steps - x.shape[0]), (0, 0)))
    return total(total(padded.reshape(pieces, steps, x.shape[1])))


def add_row(x: Float[Array, "L n"], row: Float[Array, " n"]) -> Float[Array, "L n"]:
    """Add `row` to every step of `x`."""
    return _apply(_row_sum, x, row)


def multiply_row(x: Float[Array, "L n"], row: Float[Array, " n"]) -> Float[Array, "L n"]:
    """Multiply every step of `x` by `row`, elementwise."""
    return _apply(_row_product, x, row)


def scale_and_add(
    x: Float[Array, "L n"], factor: Float[Array, " n"], row: Float[Array, " n"]
) -> Float[Array, "L n"]:
    """Multiply every step of `x` by `factor`, and add `row`.

    The gradients of `factor` and `row` are two sums over time. On a GPU both are computed together.
    """
    return _apply(_scale_and_add, x, factor, row)


def _apply(primitive: Primitive, *operands: Array, **params: str | None) -> Array:
    dtype = jnp.result_type(*operands)
    arrays = [jnp.asarray(x, dtype) for x in operands]
    return apply(primitive, *arrays, **params)[0]


def _compute_product(x: Array, W: Array, *, precision: str | None) -> Array:
    if x.ndim > 2 and x.shape[0] == W.shape[0] == 1:
        return _compute_product(x[0], W[0], precision=precision)[None]
    return jnp.matmul(x, W, precision=precision)


def _product_to_x(y_bar: Array, x: LinearOperand, W: Array, *, precision: str | None) -> Array:
    return sum_to(_product.bind(y_bar, W.mT, precision=precision), x.aval)


def _product_to_W(y_bar: Array, x: Array, W: LinearOperand, *, precision: str | None) -> Array:
    return sum_to(transposed_product_of(x, y_bar, precision=precision), W.aval)


def _compute_total(x: Array) -> Array:
    """The sum over time as a matrix product."""
    # Computed from `x`, the ones are on the same devices. `ones_like` forgets them in JAX 0.12.
    ones = jnp.logical_or(x[..., :1] == 0, True).astype(x.dtype).mT
    return jnp.matmul(ones, x, precision=EXACT)[..., 0, :]


def _total_to_x(bar: Array, x: LinearOperand) -> list[Array]:
    return [jnp.broadcast_to(bar[..., None, :], x.aval.shape)]


def _compute_row_sum(x: Array, row: Array) -> Array:
    return x + row[..., None, :]


def _row_sum_to_both(
    y_bar: Array, x: LinearOperand | Array, row: LinearOperand | Array
) -> list[Array | None]:
    # The sum over time comes before the sum over the batch.
    return [
        sum_to(y_bar, x.aval) if ad.is_undefined_primal(x) else None,
        sum_to(_total.bind(y_bar), row.aval) if ad.is_undefined_primal(row) else None,
    ]


def _compute_row_product(x: Array, row: Array) -> Array:
    return x * row[..., None, :]


def _row_product_to_x(y_bar: Array, x: LinearOperand, row: Array) -> Array:
    return sum_to(_row_product.bind(y_bar, row), x.aval)


def _row_product_to_row(y_bar: Array, x: Array, row: LinearOperand) -> Array:
    return sum_to(_total.bind(x * y_bar), row.aval)


def _compute_scale_and_add(x: Array, factor: Array, row: Array) -> Array:
    return x * factor[..., None, :] + row[..., None, :]


def _scale_and_add_jvp(
    primals: Sequence[Array], tangents: Sequence[Array | ad.Zero]
) -> tuple[Array, Array]:
    x, factor, _ = primals
    x_dot, factor_dot, row_dot = map(ad.instantiate_zeros, tangents)
    y_dot = _row_product.bind(x_dot, factor) + _scale_and_add.bind(x, factor_dot, row_dot)
    return _scale_and_add.bind(*primals), y_dot


def _scale_and_add_to_rows(
    y_bar: Array, x: Array, factor: LinearOperand | Array, row: LinearOperand | Array
) -> list[Array | None]:
    found = zip((factor, row), _weighted_totals.bind(y_bar, x), strict=True)
    bars = [sum_to(bar, to.aval) if ad.is_undefined_primal(to) else None for to, bar in found]
    return [None, *bars]


def _compute_weighted_totals(y: Array, x: Array, *, joint: bool = False) -> list[Array]:
    """The sums of `x y` and of `y` over time."""
    weighted = x * y
    if joint and weighted.shape == y.shape:
        # XLA fuses one sum with the operations that compute `y`, but not two.
        both = jax.lax.complex(weighted, y).sum(-2)
        return [both.real, both.imag]
    return [_total.bind(weighted), _total.bind(y)]


_product = sequence_primitive("product", _compute_product)
_total = sequence_primitive("total", _compute_total)
_row_sum = sequence_primitive("row_sum", _compute_row_sum)
_row_product = sequence_primitive("row_product", _compute_row_product)
_scale_and_add = sequence_primitive("scale_and_add", _compute_scale_and_add)
_weighted_totals = sequence_primitive(
    "weighted_totals",
    _compute_weighted_totals,
    multiple_results=True,
    choose=lambda target, *_: {"joint": sums_jointly(target)},
)

ad.defbilinear(_product, _product_to_x, _product_to_W)
ad.deflinear2(_total, _total_to_x)
ad.deflinear2(_row_sum, _row_sum_to_both)
ad.defbilinear(_row_product, _row_product_to_x, _row_product_to_row)
ad.primitive_jvps[_scale_and_add] = _scale_and_add_jvp
ad.primitive_transposes[_scale_and_add] = _scale_and_add_to_rows
ad.primitive_jvps[_weighted_totals] = jvp_of(_compute_weighted_totals)
