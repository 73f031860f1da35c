"""JAX primitives for operations on sequences, in which batches are leading axes.

`jax.custom_vjp` has no forward mode, and `jax.custom_batching` has no reverse mode. A primitive has
one rule for each transformation, and JAX composes the rules to derivatives of every order.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from lastax._typing import Array


@runtime_checkable
class LinearOperand(Protocol):
    """The operand that a transpose rule is for. It has a type and no value."""

    @property
    def aval(self) -> jax.core.ShapedArray:
        """Its type."""


def sequence_primitive(
    name: str, function: Callable[..., Array | list[Array]], *, multiple_results: bool = False
) -> Primitive:
    """A primitive that computes `function` and keeps batch axes in front of all other axes.

    All operands have the same number of leading batch axes. An operand that does not depend on an
    axis of the batch has size 1 there, and `function` broadcasts it. The caller adds the rules of
    differentiation.

    Args:
        name: name of the primitive in jaxprs.
        function: takes the operands, and hashable keyword parameters.
        multiple_results: whether `function` returns a list.

    Returns:
        The primitive. Apply it with `apply`.
    """
    arguments = inspect.signature(function).parameters.values()
    static = [p.name for p in arguments if p.kind is inspect.Parameter.KEYWORD_ONLY]
    compiled = jax.jit(function, static_argnames=static)
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results

    # `jax.extend` has no name for the type of `types`.
    def result_types(*types: object, **params: object) -> object:
        found = jax.make_jaxpr(lambda *x: compiled(*x, **params))(*types).out_avals
        return found if multiple_results else found[0]

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

    primitive.def_impl(compiled)
    primitive.def_abstract_eval(result_types)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=multiple_results))
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


def sum_to(x: Array, like: jax.core.ShapedArray) -> Array:
    """Sum over the axes where `like` has size 1, as the transpose of broadcasting."""
    axes = tuple(i for i, (n, m) in enumerate(zip(x.shape, like.shape, strict=True)) if n != m)
    return x.sum(axes, keepdims=True) if axes else x


def _varying_axes(x: Array) -> frozenset[str]:
    """Names of the axes of a `jax.shard_map` over which `x` varies."""
    # Newer versions of JAX call the attribute `mat.varying` instead of `vma`.
    found = jax.typeof(x)
    return found.mat.varying if hasattr(found, "mat") else getattr(found, "vma", frozenset())
