"""Products with the states of a recurrence, as a primitive of JAX with its derivatives.

The program for a GPU multiplies the states of all directions at once.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from lastax._typing import Array
from lastax.ssm._pallas_layout import Kernels
from lastax.ssm._pallas_scan import kernel_adjoint, kernel_scan
from lastax.ssm._primitive import LinearOperand, Target, jvp_of, sequence_primitive, sum_to
from lastax.ssm._products import product_of, transposed_product_of
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._scan_primitive import SCAN, SCAN_ADJOINT, SCAN_TANGENTS, choose_kernels


def _choose_adjoint(
    target: Target, lam: jax.core.ShapedArray, *operands: jax.core.ShapedArray, **params: Any
) -> dict[str, Any]:
    """`choose_kernels` for operands with the states after the weights."""
    return choose_kernels(target, lam, operands[len(params["directions"])], **params)


def _compute_output(
    lam: Array,
    b: Array,
    *weights: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    precision: str | None,
    with_states: bool,
    kernels: Kernels | None,
) -> list[Array]:
    """The output, and the states of each recurrence, which the derivative needs."""
    if kernels is None:
        states = SCAN.bind(lam, b, method=method, directions=directions)
        y = _sum_of_products(states, weights, precision)
        return [y, *states] if with_states else [y]
    W = jnp.concatenate(weights, axis=-2)
    (joined,) = kernel_scan(directions, lam, (b,), kernels=kernels, joined=True)
    y = jnp.matmul(joined, W, precision=precision)
    # If the derivative joins them again, XLA removes the parts.
    return [y, *jnp.split(joined, len(directions), axis=-1)] if with_states else [y]


def _output_types(
    lam: Array,
    b: Array,
    *weights: Array,
    directions: tuple[bool, ...],
    with_states: bool,
    **_: object,
) -> list[Array]:
    """Arrays of the types of the results of `SCAN_OUTPUT`."""
    x = b + lam.real[..., None, :1]
    return [x @ sum(weights), *(x for _ in directions if with_states)]


def _output_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Array | ad.Zero],
    *,
    with_states: bool,
    **params: Any,
) -> tuple[list[Array], list[Array]]:
    lam, _, *weights = primals
    y, *states = SCAN_OUTPUT.bind(*primals, with_states=True, **params)
    dense = map(ad.instantiate_zeros, tangents)
    y_dot, *dots = _OUTPUT_TANGENTS.bind(lam, *weights, *states, *dense, **params)
    return ([y, *states], [y_dot, *dots]) if with_states else ([y], [y_dot])


def _compute_output_tangents(
    lam: Array,
    *operands: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    precision: str | None,
) -> list[Array]:
    """Derivatives of the results of `SCAN_OUTPUT`.

    The operands are the weights, the states, and the derivatives of all operands of `SCAN_OUTPUT`.
    """
    weights, states, (lam_dot, b_dot, *weight_dots) = _in_parts(operands, directions)
    dots = SCAN_TANGENTS.bind(lam, lam_dot, *states, b_dot, method=method, directions=directions)
    y_dot = _sum_of_products(dots, weights, precision)
    return [y_dot + _sum_of_products(states, weight_dots, precision), *dots]


def _output_tangents_transpose(
    bars: Sequence[Array | ad.Zero],
    lam: Array,
    *operands: Array | LinearOperand,
    directions: tuple[bool, ...],
    **params: Any,
) -> list[Array | None]:
    weights, states, dots = _in_parts(operands, directions)
    given = (lam, *weights, *states)
    y_bar, *states_bar = bars
    if isinstance(y_bar, ad.Zero) or not all(isinstance(bar, ad.Zero) for bar in states_bar):
        dense: list[Array] = [ad.instantiate_zeros(bar) for bar in bars]
        found = _cotangents(*given, *dense, directions=directions, **params)
    else:
        found = _OUTPUT_ADJOINT.bind(*given, y_bar, directions=directions, **params)
    return [
        *(None for _ in given),
        *(sum_to(bar, dot.aval) for bar, dot in zip(found, dots, strict=True)),
    ]


def _cotangents(
    lam: Array,
    *operands: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    precision: str | None,
) -> list[Array]:
    """The cotangents of `lam`, of the input and of the weights.

    The operands are the weights, the states, and the cotangents of the output and of the states, or
    of the output only.
    """
    weights, states, (y_bar, *states_bar) = _in_parts(operands, directions)
    bars = [product_of(y_bar, W.mT, precision=precision) for W in weights]
    if states_bar:
        bars = [one + other for one, other in zip(bars, states_bar, strict=True)]
    lam_bar, b_bar = SCAN_ADJOINT.bind(
        lam, *states, *bars, method=method, directions=directions, shared=True
    )
    return [
        lam_bar,
        b_bar,
        *(transposed_product_of(x, y_bar, precision=precision) for x in states),
    ]


def _compute_output_adjoint(
    lam: Array,
    *operands: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    precision: str | None,
    kernels: Kernels | None,
) -> list[Array]:
    if kernels is None:
        return _cotangents(
            lam, *operands, method=method, directions=directions, precision=precision
        )
    weights, states, (y_bar,) = _in_parts(operands, directions)
    joined = jnp.concatenate(jnp.broadcast_arrays(*states), axis=-1)
    W = jnp.concatenate(weights, axis=-2)
    bars = jnp.matmul(y_bar, W.mT, precision=precision)
    lam_bar, (b_bar,) = kernel_adjoint(
        directions, lam, (joined,), (bars,), shared=True, kernels=kernels
    )
    weights_bar = jnp.matmul(joined.mT, y_bar, precision=precision)
    return [lam_bar, b_bar, *jnp.split(weights_bar, len(directions), axis=-2)]


def _output_adjoint_types(
    lam: Array, *operands: Array, directions: tuple[bool, ...], **_: object
) -> list[Array]:
    """Arrays of the types of the results of `_OUTPUT_ADJOINT`."""
    weights, states, (y_bar,) = _in_parts(operands, directions)
    x = sum(states) + y_bar @ sum(weights).mT + lam.real[..., None, :1]
    weight_bar = sum(states).mT @ y_bar
    return [lam * x[..., 0, : lam.shape[-1]], x, *(weight_bar for _ in weights)]


def _in_parts(
    operands: Sequence[Any], directions: tuple[bool, ...]
) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Weights, states, and the rest."""
    count = len(directions)
    return operands[:count], operands[count : 2 * count], operands[2 * count :]


def _sum_of_products(
    states: Sequence[Array], weights: Sequence[Array], precision: str | None
) -> Array:
    first, *others = (
        product_of(x, W, precision=precision) for x, W in zip(states, weights, strict=True)
    )
    return sum(others, first)


SCAN_OUTPUT = sequence_primitive(
    "scan_output",
    _compute_output,
    multiple_results=True,
    types=_output_types,
    choose=choose_kernels,
)
_OUTPUT_TANGENTS = sequence_primitive(
    "scan_output_tangents", _compute_output_tangents, multiple_results=True
)
_OUTPUT_ADJOINT = sequence_primitive(
    "scan_output_adjoint",
    _compute_output_adjoint,
    multiple_results=True,
    types=_output_adjoint_types,
    choose=_choose_adjoint,
)

ad.primitive_jvps[SCAN_OUTPUT] = _output_jvp
ad.primitive_jvps[_OUTPUT_TANGENTS] = jvp_of(_compute_output_tangents)
ad.primitive_transposes[_OUTPUT_TANGENTS] = _output_tangents_transpose
ad.primitive_jvps[_OUTPUT_ADJOINT] = jvp_of(_cotangents)
