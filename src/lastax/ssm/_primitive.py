"""JAX primitives for operations on sequences, in which batches are leading axes.

`jax.custom_vjp` has no forward mode, and `jax.custom_batching` has no reverse mode. A primitive has
one rule for each transformation, and JAX composes the rules to derivatives of every order.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lastax._typing import Array


@runtime_checkable
class LinearOperand(Protocol):
    """The operand that a transpose rule is for. It has a type and no value."""

    @property
    def aval(self) -> jax.core.ShapedArray:
        """Its type."""


class Target(NamedTuple):
    """What a program is compiled for.

    Attributes:
        platform: name of the platform in JAX: `cpu`, `cuda`, `rocm` or `tpu`.
        portable: the program is exported, or it is a program for several platforms. It cannot
            contain kernels for this platform, because JAX does not keep their format stable.
        divided: the program runs on several devices. XLA cannot divide a kernel among them, and in
            a `jax.shard_map` JAX needs the axes over which the results of a kernel vary.
    """

    platform: str
    portable: bool = False
    divided: bool = False


def sequence_primitive(
    name: str,
    function: Callable[..., Array | list[Array]],
    *,
    multiple_results: bool = False,
    types: Callable[..., Array | list[Array]] | None = None,
    choose: Callable[..., dict[str, Any]] | None = None,
) -> Primitive:
    """A primitive that computes `function` and keeps batch axes in front of all other axes.

    All operands have the same number of leading batch axes. An operand that does not depend on an
    axis of the batch has size 1 there, and `function` broadcasts it. The caller adds the rules of
    differentiation.

    Args:
        name: name of the primitive in jaxprs.
        function: takes the operands, and hashable keyword parameters.
        multiple_results: whether `function` returns a list.
        types: a shorter function with results of the same types; by default `function`.
        choose: given a `Target`, the types of the operands and the parameters, returns the
            parameters of `function`. It is called when a program is compiled, once for each
            platform of the program. By default the parameters are those of the primitive.

    Returns:
        The primitive. Apply it with `apply`.
    """
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results

    @functools.cache
    def compiled(**params: object) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **params))

    # `jax.extend` has no name for the type of `types`.
    def result_types(*operands: object, **params: object) -> object:
        traced = jax.make_jaxpr(functools.partial(types or function, **params))(*operands)
        return traced.out_avals if multiple_results else traced.out_avals[0]

    def batch(operands: Sequence[Array], axes: Sequence[int | None], **params: object) -> object:
        pairs = list(zip(operands, axes, strict=True))
        size = next(x.shape[axis] for x, axis in pairs if axis is not None)
        front = [x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
        results = primitive.bind(*front, **params)
        if not multiple_results:
            return results, 0
        depends = [y.shape[0] == size for y in results]
        values = [y if mapped else y[0] for y, mapped in zip(results, depends, strict=True)]
        return values, [0 if mapped else None for mapped in depends]

    # The types of a lowering rule have no public names either.
    def lower(context: Any, *operands: Any, **params: Any) -> Any:
        program: Callable[..., Any] = functools.partial(function, **params)
        if choose is not None:
            chosen = {
                target.platform: choose(target, *context.avals_in, **params)
                for target in _targets(context)
            }
            program = _program(function, chosen)
        return mlir.lower_fun(program, multiple_results=multiple_results)(context, *operands)

    primitive.def_impl(lambda *operands, **params: compiled(**params)(*operands))
    primitive.def_abstract_eval(result_types)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, lower)
    return primitive


def apply(primitive: Primitive, *operands: Array, **params: object) -> list[Array]:
    """Apply a primitive, also to operands that vary over different axes of a `jax.shard_map`."""
    arrays = [jnp.asarray(x) for x in operands]
    varying = [_varying_axes(x) for x in arrays]
    union = frozenset[str]().union(*varying)
    aligned = [
        x if own == union else jax.lax.pcast(x, tuple(union - own), to="varying")
        for x, own in zip(arrays, varying, strict=True)
    ]
    results = primitive.bind(*aligned, **params)
    return list(results) if primitive.multiple_results else [results]


def jvp_of(function: Callable[..., list[Array]]) -> Callable[..., object]:
    """The rule for forward-mode derivatives of a primitive that computes `function`.

    `function` uses primitives that have rules themselves.
    """

    def rule(
        primals: Sequence[Array], tangents: Sequence[Array | ad.Zero], **params: object
    ) -> tuple[list[Array], list[Array]]:
        places = [i for i, dot in enumerate(tangents) if not isinstance(dot, ad.Zero)]

        def of_active(*values: Array) -> list[Array]:
            operands = list(primals)
            for place, value in zip(places, values, strict=True):
                operands[place] = value
            return function(*operands, **params)

        active = [primals[i] for i in places], [tangents[i] for i in places]
        results: tuple[list[Array], list[Array]] = jax.jvp(of_active, *active)
        return results

    return rule


def sum_to(x: Array, like: jax.core.ShapedArray) -> Array:
    """Sum over the axes where `like` has size 1, as the transpose of broadcasting."""
    axes = tuple(i for i, (n, m) in enumerate(zip(x.shape, like.shape, strict=True)) if n != m)
    return x.sum(axes, keepdims=True) if axes else x


def _varying_axes(x: Array) -> frozenset[str]:
    """Names of the axes of a `jax.shard_map` over which `x` varies."""
    # Newer versions of JAX call the attribute `mat.varying` instead of `vma`.
    found = jax.typeof(x)
    return found.mat.varying if hasattr(found, "mat") else getattr(found, "vma", frozenset())


def _program(function: Callable[..., Any], chosen: dict[str, dict[str, Any]]) -> Callable[..., Any]:
    """One program for all platforms, which differs between them only where it has to."""
    first, *others = chosen.values()
    if all(params == first for params in others):
        return functools.partial(function, **first)
    programs = {name: functools.partial(function, **params) for name, params in chosen.items()}
    return lambda *operands: jax.lax.platform_dependent(*operands, **programs)


def _targets(context: Any) -> list[Target]:
    """What a program is compiled for, from a lowering context of JAX, which has no public type."""
    module = context.module_context
    platforms, axes = context.platforms or module.platforms, module.axis_context
    portable = module.lowering_parameters.for_export or len(platforms) > 1
    # Contexts of `jax.shard_map` have manual axes instead of a number of devices.
    divided = hasattr(axes, "manual_axes") or getattr(axes, "num_devices", 1) not in (1, None)
    return [Target(platform, portable, divided) for platform in platforms]
