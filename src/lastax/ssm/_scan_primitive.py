"""The recurrence as a primitive of JAX, with its derivatives.

The derivative of the states in forward mode is a recurrence. Its transpose is a recurrence in the
opposite direction, which also gives the gradient of `lam`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from lastax._typing import Array
from lastax.ssm._device_table import kernels_for, scan_method_for
from lastax.ssm._pallas_layout import Kernels
from lastax.ssm._pallas_scan import kernel_adjoint, kernel_scan
from lastax.ssm._powers import multiply
from lastax.ssm._primitive import LinearOperand, Target, jvp_of, sequence_primitive, sum_to
from lastax.ssm._products import total
from lastax.ssm._scan_methods import (
    SCAN_METHODS,
    ScanMethod,
    join_halves,
    split_factor,
    split_halves,
)


def choose_kernels(
    target: Target, lam: jax.core.ShapedArray, x: jax.core.ShapedArray, *_: object, **params: Any
) -> dict[str, Any]:
    """The method for a device, when a program is compiled, and the sizes of its kernels."""
    method = params["method"] or scan_method_for(target, x.shape)
    kernels = kernels_for(target, lam.shape[-1]) if method == "pallas" else None
    return params | {"method": method, "kernels": kernels}


def _compute_scan(
    lam: Array,
    *inputs: Array,
    method: ScanMethod,
    directions: tuple[bool, ...],
    kernels: Kernels | None,
) -> list[Array]:
    """The states of each recurrence. There is one input for each of them, or one for all."""
    if kernels is not None:
        if len({x.shape for x in inputs}) == 1:
            return list(kernel_scan(directions, lam, inputs, kernels=kernels))
        return [
            kernel_scan((reverse,), lam, (x,), kernels=kernels)[0]
            for x, reverse in zip(inputs, directions, strict=True)
        ]
    inputs = _one_per_direction(inputs, directions)
    if lam.size > lam.shape[-1]:
        # The states depend on the batch axes of `lam` too.
        zeros = jnp.zeros_like(lam.real[..., None, :1])
        inputs = tuple(x + zeros for x in inputs)
    return list(SCAN_METHODS[method](directions, lam, inputs))


def _scan_types(
    lam: Array, *inputs: Array, directions: tuple[bool, ...], **_: object
) -> list[Array]:
    """Arrays of the types of the states."""
    return [x + lam.real[..., None, :1] for x in _one_per_direction(inputs, directions)]


def _scan_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Array | ad.Zero],
    *,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
) -> tuple[list[Array], list[Array]]:
    (lam, *inputs), (lam_dot, *dots) = primals, tangents
    states = SCAN.bind(lam, *inputs, method=method, directions=directions)
    driven = [ad.instantiate_zeros(dot) for dot in dots]
    if isinstance(lam_dot, ad.Zero):
        return states, SCAN.bind(lam, *driven, method=method, directions=directions)
    if all(isinstance(dot, ad.Zero) for dot in dots):
        driven = []
    return states, SCAN_TANGENTS.bind(
        lam, lam_dot, *states, *driven, method=method, directions=directions
    )


def _scan_to_inputs(
    states_bar: Sequence[Array | ad.Zero],
    lam: Array,
    *inputs: LinearOperand | Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
) -> list[Array | None]:
    """The transpose is the same recurrence in the opposite direction, with conjugate factors."""
    used = [i for i, bar in enumerate(states_bar) if not isinstance(bar, ad.Zero)]
    adjoints = SCAN.bind(
        lam.conj(),
        *(states_bar[i] for i in used),
        method=method,
        directions=tuple(not directions[i] for i in used),
    )
    return [None, *_to_inputs(dict(zip(used, adjoints, strict=True)), inputs)]


def _to_inputs(
    adjoints: dict[int, Array], inputs: Sequence[LinearOperand | Array]
) -> list[Array | None]:
    """The cotangent of each input, from those of some recurrences. An input may serve several."""
    bars: list[Array | None] = [None] * len(inputs)
    for i, adjoint in adjoints.items():
        place = i if len(inputs) > 1 else 0
        operand = inputs[place]
        if ad.is_undefined_primal(operand):
            own, before = sum_to(adjoint, operand.aval), bars[place]
            bars[place] = own if before is None else before + own
    return bars


def _compute_tangents(
    lam: Array,
    lam_dot: Array,
    *operands: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
) -> list[Array]:
    """Derivatives of the states: the same recurrence, driven by `b_dot_k + lam_dot x_{k-1}`.

    The operands are the states, and the derivatives of the inputs, of which there may be none.
    """
    states, dots = operands[: len(directions)], operands[len(directions) :]
    driven = [
        _LAGGED_PRODUCT.bind(lam_dot, x, reverse=reverse)
        for x, reverse in zip(states, directions, strict=True)
    ]
    if dots:
        dots = _one_per_direction(dots, directions)
        driven = [dot + change for dot, change in zip(dots, driven, strict=True)]
    return SCAN.bind(lam, *driven, method=method, directions=directions)


def _tangents_transpose(
    bars: Sequence[Array | ad.Zero],
    lam: Array,
    lam_dot: LinearOperand,
    *operands: Array | LinearOperand,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
) -> list[Array | None]:
    states, dots = operands[: len(directions)], operands[len(directions) :]
    used = [i for i, bar in enumerate(bars) if not isinstance(bar, ad.Zero)]
    shared = len(dots) < len(directions)
    lam_bar, *adjoints = SCAN_ADJOINT.bind(
        lam,
        *(states[i] for i in used),
        *(bars[i] for i in used),
        method=method,
        directions=tuple(directions[i] for i in used),
        shared=shared,
    )
    # A sum of the adjoints counts once.
    found = dict(zip(used, adjoints, strict=not shared)) if dots else {}
    return [
        None,
        sum_to(lam_bar, lam_dot.aval),
        *(None for _ in states),
        *_to_inputs(found, dots),
    ]


def _adjoint_by_primitives(
    lam: Array,
    *operands: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    shared: bool,
) -> list[Array]:
    """The cotangent of `lam`, and those of the inputs: one per recurrence, or their sum.

    The operands are the states, and their cotangents.
    """
    states, bars = _with_one_batch(operands, directions)
    opposite = tuple(not reverse for reverse in directions)
    adjoints = SCAN.bind(lam.conj(), *bars, method=method, directions=opposite)
    lam_bar = sum(
        _lagged_sum(x, adjoint, reverse)
        for x, adjoint, reverse in zip(states, adjoints, directions, strict=True)
    )
    return [lam_bar, *([sum(adjoints[1:], adjoints[0])] if shared else adjoints)]


def _compute_adjoint(
    lam: Array,
    *operands: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    shared: bool,
    kernels: Kernels | None,
) -> list[Array]:
    if kernels is None:
        return _adjoint_by_primitives(
            lam, *operands, method=method, directions=directions, shared=shared
        )
    states, bars = _with_one_batch(operands, directions)
    lam_bar, adjoints = kernel_adjoint(
        directions, lam, states, bars, shared=shared, kernels=kernels
    )
    return [lam_bar, *adjoints]


def _adjoint_types(
    lam: Array, *operands: Array, directions: tuple[bool, ...], shared: bool, **_: object
) -> list[Array]:
    """Arrays of the types of the results of `SCAN_ADJOINT`."""
    states, bars = _with_one_batch(operands, directions)
    adjoints = [x + bar + lam.real[..., None, :1] for x, bar in zip(states, bars, strict=True)]
    row = sum(x[..., 0, : lam.shape[-1]] for x in adjoints)
    return [lam * row, *(adjoints[:1] if shared else adjoints)]


def _one_per_direction(
    inputs: tuple[Array, ...], directions: tuple[bool, ...]
) -> tuple[Array, ...]:
    return inputs * len(directions) if len(inputs) == 1 else inputs


def _with_one_batch(
    operands: tuple[Array, ...], directions: tuple[bool, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """States and cotangents, broadcast to the same shape."""
    if len({x.shape for x in operands}) > 1:
        operands = tuple(jnp.broadcast_arrays(*operands))
    return operands[: len(directions)], operands[len(directions) :]


def _compute_lagged_product(z: Array, x: Array, *, reverse: bool) -> Array:
    """`z x_{k-1}`, or `z x_{k+1}` in reverse. It is zero in the first step of the recurrence."""
    earlier = x[..., 1:, :] if reverse else x[..., :-1, :]
    product = join_halves(multiply(split_factor(z), split_halves(earlier)))
    return jnp.pad(product, ((0, 0),) * (x.ndim - 2) + ((0, 1) if reverse else (1, 0), (0, 0)))


def _lagged_sum(x: Array, bar: Array, reverse: bool) -> Array:
    """The cotangent of `z` in `z x_{k-1}`."""
    # d x_{k+1} / d lam = x_k.
    earlier, later = (
        (x[..., 1:, :], bar[..., :-1, :]) if reverse else (x[..., :-1, :], bar[..., 1:, :])
    )
    (x_re, x_im), (g_re, g_im) = split_halves(earlier), split_halves(later)
    re = total(x_re * g_re + x_im * g_im)
    im = total(x_re * g_im - x_im * g_re)
    # In JAX, the cotangent of a complex number is the conjugate of its gradient.
    return jax.lax.complex(re, -im)


def _lagged_product_to_z(bar: Array, z: LinearOperand, x: Array, *, reverse: bool) -> Array:
    return sum_to(_lagged_sum(x, bar, reverse), z.aval)


def _lagged_product_to_x(bar: Array, z: Array, x: LinearOperand, *, reverse: bool) -> Array:
    return sum_to(_LAGGED_PRODUCT.bind(z.conj(), bar, reverse=not reverse), x.aval)


SCAN = sequence_primitive(
    "diagonal_scan", _compute_scan, multiple_results=True, types=_scan_types, choose=choose_kernels
)
SCAN_TANGENTS = sequence_primitive("scan_tangents", _compute_tangents, multiple_results=True)
SCAN_ADJOINT = sequence_primitive(
    "scan_adjoint",
    _compute_adjoint,
    multiple_results=True,
    types=_adjoint_types,
    choose=choose_kernels,
)
_LAGGED_PRODUCT = sequence_primitive("lagged_product", _compute_lagged_product)

ad.primitive_jvps[SCAN] = _scan_jvp
ad.primitive_transposes[SCAN] = _scan_to_inputs
ad.primitive_jvps[SCAN_TANGENTS] = jvp_of(_compute_tangents)
ad.primitive_transposes[SCAN_TANGENTS] = _tangents_transpose
ad.primitive_jvps[SCAN_ADJOINT] = jvp_of(_adjoint_by_primitives)
ad.defbilinear(_LAGGED_PRODUCT, _lagged_product_to_z, _lagged_product_to_x)
