"""The recurrence of every diagonal layer, `x_k = lam * x_{k-1} + b_k`, and its derivative.

Internally, complex sequences `(L, P)` are real arrays `(L, 2 P)`: all real parts first, then all
imaginary parts. The products of a layer with `B` and `C` are then real matrix products, and both
directions of time read the same array.
"""

from collections.abc import Sequence
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jax.interpreters import ad
from jaxtyping import Complex, Float, Int

from lastax._typing import Array, Size
from lastax.ssm._device_table import kernels_for, scan_method_for
from lastax.ssm._pallas_scan import Kernels, kernel_adjoint, kernel_scan
from lastax.ssm._powers import multiply
from lastax.ssm._primitive import (
    LinearOperand,
    Target,
    apply,
    jvp_of,
    sequence_primitive,
    sum_to,
)
from lastax.ssm._products import product_of, total, transposed_product_of
from lastax.ssm._scan_methods import (
    SCAN_METHODS,
    ScanMethod,
    join_halves,
    split_factor,
    split_halves,
)
from lastax.ssm._varying_scan import varying_scan


def diagonal_scan(
    lam: Complex[Array, " P"] | Complex[Array, "L P"],
    b: Complex[Array, "L P"],
    *,
    initial: Complex[Array, " P"] | None = None,
    reverse: bool = False,
    method: ScanMethod | None = None,
) -> tuple[Complex[Array, "L P"], Complex[Array, " P"]]:
    """All states of the recurrence `x_k = lam * x_{k-1} + b_k`.

    Derivatives of every order work, in forward and reverse mode. The reverse-mode derivative stores
    only the states. It is one recurrence in the opposite direction.

    Args:
        lam: eigenvalues, shape `(P,)`, or one set per step, shape `(L, P)`.
        b: driving input of each state at each step, shape `(L, P)`.
        initial: state before the first step, shape `(P,)`; zero by default.
        reverse: run from the last step to the first, `x_k = lam * x_{k+1} + b_k`. `initial` is then
            the state after the last step.
        method: how the states are computed. The default depends on the device that the program is
            compiled for: `pallas` on NVIDIA GPUs; on a CPU `sequential` up to 128 steps and
            `chunked` beyond; `associative` elsewhere. Programs that are exported or that run
            on several devices use `associative` instead of `pallas`.

            - `associative`: all steps in parallel with `jax.lax.associative_scan`.
            - `chunked`: a loop over the steps of a chunk, for all chunks of up to 128 steps in
              parallel, then a recurrence over the last states of the chunks.
            - `sequential`: a loop over all steps. It does the least arithmetic.
            - `pallas`: GPU kernels for NVIDIA and AMD, with chunks of 64 steps. Any other device
              interprets the kernels, which is slow and meant for tests.

            In float32, the error of each method is below 1e-4 of the largest state for up to
            16,384 steps and `1 - |lam| >= 1e-6`.

            A symbolic length, as in `jax.export`, always takes `chunked`.

            With one set of eigenvalues per step, every method computes the steps of each piece of
            128 steps in parallel, and the pieces in order.

    Returns:
        The states in the order of `b`, shape `(L, P)`, and the last state computed, shape `(P,)`.
        Pass the last state as `initial` to continue the recurrence in another call. After no steps,
        the last state is `initial`.

    Raises:
        ValueError: if `method` is unknown.
    """
    lam, b = jnp.asarray(lam), jnp.asarray(b)
    if b.shape[0] == 0:
        return b, jnp.zeros(b.shape[1:], b.dtype) if initial is None else jnp.asarray(initial)
    if lam.ndim == 2:
        order = slice(None, None, -1 if reverse else 1)
        states = varying_scan(lam[order], b[order], initial=initial)[order]
        return states, states[0 if reverse else -1]
    if initial is not None:
        first = -1 if reverse else 0
        b = b.at[first].add(lam * initial)
    split = jnp.concatenate([b.real, b.imag], axis=1)
    states = jax.lax.complex(*split_halves(scan_split(lam, split, (reverse,), method=method)[0]))
    return states, states[0 if reverse else -1]


def diagonal_step(
    lam: Complex[Array, " P"], state: Complex[Array, " P"], b: Complex[Array, " P"]
) -> Complex[Array, " P"]:
    """One step of the recurrence, `lam * state + b`. All arrays have shape `(P,)`."""
    return lam * state + b


def state_after(
    steps: Int[Array, ""], states: Complex[Array, "L P"], initial: Complex[Array, " P"] | None
) -> Complex[Array, " P"]:
    """The state after `steps` steps of a forward recurrence, given all its states."""
    before = jnp.zeros(states.shape[1:], states.dtype) if initial is None else initial
    if states.shape[0] == 0:
        return before
    return jnp.where(steps > 0, states[jnp.maximum(steps, 1) - 1], before)


def scan_split(
    lam: Complex[Array, " P"],
    b: Float[Array, "L Q"],
    directions: tuple[bool, ...],
    *,
    method: ScanMethod | None = None,
) -> tuple[Float[Array, "L Q"], ...]:
    """The states of one recurrence per direction, all driven by the same input, from zero.

    All recurrences run in the same loop. Methods and derivative are those of `diagonal_scan`.

    Args:
        lam: eigenvalues, shape `(P,)`.
        b: driving input with split real and imaginary parts, shape `(L, Q)` with `Q = 2 P`.
        directions: for each recurrence, whether it runs in reverse.
        method: as in `diagonal_scan`.

    Returns:
        The states of each recurrence, in the layout of `b`.

    Raises:
        ValueError: if `method` is unknown.
    """
    b = jnp.asarray(b, jnp.result_type(b, lam.real))
    method = _checked_method(method, b.shape[0])
    if b.size == 0:
        return (b,) * len(directions)
    return tuple(apply(_scan, lam, b, method=method, directions=directions))


def scan_output(
    lam: Complex[Array, " P"],
    b: Float[Array, "L Q"],
    weights: Sequence[Float[Array, "Q H"]],
    directions: tuple[bool, ...],
    *,
    method: ScanMethod | None = None,
) -> Float[Array, "L H"]:
    """The sum of the products of the states of `scan_split` with one matrix per recurrence.

    On a GPU, one matrix product reads the states of all recurrences.

    Args:
        lam: eigenvalues, shape `(P,)`.
        b: driving input with split real and imaginary parts, shape `(L, 2 P)`.
        weights: for each recurrence, the matrix for its states, shape `(2 P, H)`.
        directions: for each recurrence, whether it runs in reverse.
        method: as in `diagonal_scan`.

    Returns:
        The sum of the products, shape `(L, H)`.

    Raises:
        ValueError: if `method` is unknown.
    """
    dtype = jnp.result_type(b, lam.real, *weights)
    b, *weights = (jnp.asarray(x, dtype) for x in (b, *weights))
    method = _checked_method(method, b.shape[0])
    if b.size == 0:
        return jnp.zeros((b.shape[0], weights[0].shape[1]), dtype)
    return apply(
        _output,
        lam,
        b,
        *weights,
        method=method,
        directions=directions,
        precision=jax.default_matmul_precision.value,
    )[0]


def _checked_method(method: str | None, length: Size) -> ScanMethod | None:
    methods = get_args(ScanMethod)
    if method is not None and method not in methods:
        raise ValueError(
            f"diagonal_scan: method must be one of {', '.join(methods)}, got {method!r}"
        )
    # `chunked` needs no length, and it is fast on every device.
    return "chunked" if is_symbolic_dim(length) else cast(ScanMethod | None, method)


def _choose(
    target: Target, lam: jax.core.ShapedArray, x: jax.core.ShapedArray, *_: object, **params: Any
) -> dict[str, Any]:
    """The method for a device, when a program is compiled, and the sizes of its kernels."""
    method = params["method"] or scan_method_for(target, x.shape)
    kernels = kernels_for(target, lam.shape[-1]) if method == "pallas" else None
    return params | {"method": method, "kernels": kernels}


def _choose_adjoint(
    target: Target, lam: jax.core.ShapedArray, *operands: jax.core.ShapedArray, **params: Any
) -> dict[str, Any]:
    """The same for operands with the states after the weights."""
    return _choose(target, lam, operands[len(params["directions"])], **params)


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
    states = _scan.bind(lam, *inputs, method=method, directions=directions)
    driven = [ad.instantiate_zeros(dot) for dot in dots]
    if isinstance(lam_dot, ad.Zero):
        return states, _scan.bind(lam, *driven, method=method, directions=directions)
    if all(isinstance(dot, ad.Zero) for dot in dots):
        driven = []
    return states, _tangents.bind(
        lam,
        lam_dot,
        *states,
        *driven,
        method=method,
        directions=directions,
        precision=jax.default_matmul_precision.value,
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
    adjoints = _scan.bind(
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
    precision: str | None,
) -> list[Array]:
    """Derivatives of the states: the same recurrence, driven by `b_dot_k + lam_dot x_{k-1}`.

    The operands are the states, and the derivatives of the inputs, of which there may be none.
    """
    del precision
    states, dots = operands[: len(directions)], operands[len(directions) :]
    driven = [
        _lagged_product.bind(lam_dot, x, reverse=reverse)
        for x, reverse in zip(states, directions, strict=True)
    ]
    if dots:
        dots = _one_per_direction(dots, directions)
        driven = [dot + change for dot, change in zip(dots, driven, strict=True)]
    return _scan.bind(lam, *driven, method=method, directions=directions)


def _tangents_transpose(
    bars: Sequence[Array | ad.Zero],
    lam: Array,
    lam_dot: LinearOperand,
    *operands: Array | LinearOperand,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    precision: str | None,
) -> list[Array | None]:
    states, dots = operands[: len(directions)], operands[len(directions) :]
    used = [i for i, bar in enumerate(bars) if not isinstance(bar, ad.Zero)]
    shared = len(dots) < len(directions)
    lam_bar, *adjoints = _adjoint.bind(
        lam,
        *(states[i] for i in used),
        *(bars[i] for i in used),
        method=method,
        directions=tuple(directions[i] for i in used),
        shared=shared,
        precision=precision,
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
    precision: str | None,
) -> list[Array]:
    """The cotangent of `lam`, and those of the inputs: one per recurrence, or their sum.

    The operands are the states, and their cotangents.
    """
    states, bars = _with_one_batch(operands, directions)
    opposite = tuple(not reverse for reverse in directions)
    adjoints = _scan.bind(lam.conj(), *bars, method=method, directions=opposite)
    with jax.default_matmul_precision(precision):
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
    precision: str | None,
    kernels: Kernels | None,
) -> list[Array]:
    if kernels is None:
        return _adjoint_by_primitives(
            lam,
            *operands,
            method=method,
            directions=directions,
            shared=shared,
            precision=precision,
        )
    states, bars = _with_one_batch(operands, directions)
    lam_bar, adjoints = kernel_adjoint(
        directions, lam, states, bars, shared=shared, kernels=kernels
    )
    return [lam_bar, *adjoints]


def _adjoint_types(
    lam: Array, *operands: Array, directions: tuple[bool, ...], shared: bool, **_: object
) -> list[Array]:
    """Arrays of the types of the results of `_adjoint`."""
    states, bars = _with_one_batch(operands, directions)
    adjoints = [x + bar + lam.real[..., None, :1] for x, bar in zip(states, bars, strict=True)]
    row = sum(x[..., 0, : lam.shape[-1]] for x in adjoints)
    return [lam * row, *(adjoints[:1] if shared else adjoints)]


def _compute_output(
    lam: Array,
    b: Array,
    *weights: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    precision: str | None,
    kernels: Kernels | None,
) -> list[Array]:
    """The output, and the states of each recurrence for the derivative."""
    if kernels is None:
        states = _scan.bind(lam, b, method=method, directions=directions)
        return [_sum_of_products(states, weights, precision), *states]
    (joined,) = kernel_scan(directions, lam, (b,), kernels=kernels, joined=True)
    y = jnp.matmul(joined, jnp.concatenate(weights, axis=-2), precision=precision)
    # If the derivative joins them again, XLA removes the parts.
    return [y, *jnp.split(joined, len(directions), axis=-1)]


def _output_types(
    lam: Array, b: Array, *weights: Array, directions: tuple[bool, ...], **_: object
) -> list[Array]:
    """Arrays of the types of the results of `_output`."""
    x = b + lam.real[..., None, :1]
    return [x @ sum(weights), *(x for _ in directions)]


def _output_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Array | ad.Zero],
    **params: Any,
) -> tuple[list[Array], list[Array]]:
    lam, _, *weights = primals
    y, *states = _output.bind(*primals, **params)
    dots = map(ad.instantiate_zeros, tangents)
    return [y, *states], _output_tangents.bind(lam, *weights, *states, *dots, **params)


def _compute_output_tangents(
    lam: Array,
    *operands: Array,
    method: ScanMethod | None,
    directions: tuple[bool, ...],
    precision: str | None,
) -> list[Array]:
    """Derivatives of the results of `_output`.

    The operands are the weights, the states, and the derivatives of all operands of `_output`.
    """
    weights, states, (lam_dot, b_dot, *weight_dots) = _in_parts(operands, directions)
    dots = _tangents.bind(
        lam,
        lam_dot,
        *states,
        b_dot,
        method=method,
        directions=directions,
        precision=precision,
    )
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
        found = _output_adjoint.bind(*given, y_bar, directions=directions, **params)
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
    lam_bar, b_bar = _adjoint.bind(
        lam,
        *states,
        *bars,
        method=method,
        directions=directions,
        shared=True,
        precision=precision,
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
    """Arrays of the types of the results of `_output_adjoint`."""
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
    return sum_to(_lagged_product.bind(z.conj(), bar, reverse=not reverse), x.aval)


_scan = sequence_primitive(
    "diagonal_scan", _compute_scan, multiple_results=True, types=_scan_types, choose=_choose
)
_tangents = sequence_primitive("scan_tangents", _compute_tangents, multiple_results=True)
_adjoint = sequence_primitive(
    "scan_adjoint", _compute_adjoint, multiple_results=True, types=_adjoint_types, choose=_choose
)
_lagged_product = sequence_primitive("lagged_product", _compute_lagged_product)

_output = sequence_primitive(
    "scan_output", _compute_output, multiple_results=True, types=_output_types, choose=_choose
)
_output_tangents = sequence_primitive(
    "scan_output_tangents", _compute_output_tangents, multiple_results=True
)
_output_adjoint = sequence_primitive(
    "scan_output_adjoint",
    _compute_output_adjoint,
    multiple_results=True,
    types=_output_adjoint_types,
    choose=_choose_adjoint,
)

ad.primitive_jvps[_scan] = _scan_jvp
ad.primitive_transposes[_scan] = _scan_to_inputs
ad.primitive_jvps[_tangents] = jvp_of(_compute_tangents)
ad.primitive_transposes[_tangents] = _tangents_transpose
ad.primitive_jvps[_adjoint] = jvp_of(_adjoint_by_primitives)
ad.primitive_jvps[_output] = _output_jvp
ad.primitive_jvps[_output_tangents] = jvp_of(_compute_output_tangents)
ad.primitive_transposes[_output_tangents] = _output_tangents_transpose
ad.primitive_jvps[_output_adjoint] = jvp_of(_cotangents)
ad.defbilinear(_lagged_product, _lagged_product_to_z, _lagged_product_to_x)
