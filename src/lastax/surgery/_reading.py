"""The systems of layers, or one line that says why a layer cannot be read."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lastax.analysis._single import check_concrete
from lastax.nn._layer import Layer, WritableLayer
from lastax.ssm._precision import exact_products, in_float64

# Floating-point types in which no complex number and no eigenvalue near 1 can be represented.
_HALF = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


def layer_counts(function: str, layers: Sequence[Layer]) -> list[int]:
    """The number of states of each layer, also of traced layers and of shapes.

    Raises:
        ValueError: in the words of `function`, if a layer cannot be read.
    """
    return [
        _read(function, index, layer, system_shape).states for index, layer in enumerate(layers)
    ]


# Foreign layers may have systems of their own class, so the result is any PyTree.
def host_system(function: str, index: int, layer: Layer) -> PyTree:
    """The system of one layer, discretized in float64, as NumPy arrays on the host.

    Args:
        function: name of the function that the user called.
        index: number of the layer, for error messages.
        layer: the layer.

    Raises:
        ValueError: in the words of `function`, if the layer cannot be read.
    """
    check_concrete(function, layer)
    with jax.enable_x64(True):
        system = _read(function, index, layer, lambda one: _compiled_system(in_float64(one)))
        return jax.tree.map(np.asarray, system)


def with_shapes(function: Callable[[Any], Any], layer: Layer) -> Any:
    """`function(layer)`; the shapes of the result if the layer holds `jax.ShapeDtypeStruct`."""
    return eqx.filter_eval_shape(function, layer) if _is_shape_tree(layer) else function(layer)


def system_shape(layer: Layer) -> PyTree:
    """The system of a layer with shapes instead of arrays, which compiles nothing.

    A foreign layer that computes with the values of its arrays gives arrays.
    """
    try:
        return eqx.filter_eval_shape(float32_system, layer)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        return float32_system(layer)


def float32_system(layer: Layer) -> PyTree:
    """The system of a layer, at least in float32."""
    return in_float32(layer).system()


def in_float32(layer: Layer) -> Any:
    """The layer with half-precision arrays in float32. Other arrays stay."""

    def widen(leaf: PyTree) -> PyTree:
        return leaf.astype(jnp.float32) if _is_half(leaf) else leaf

    return jax.tree.map(widen, layer)


# A layer accepts only its own class of systems.
def write_system(layer: WritableLayer, system: Any) -> Any:
    """`layer.with_system(system)`, computed at least in float32, in the dtypes of the layer."""
    half = {
        path: leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(layer)
        if _is_half(leaf)
    }

    def narrow(path: tuple[Any, ...], leaf: PyTree) -> PyTree:
        return leaf.astype(half[path]) if path in half else leaf

    return jax.tree_util.tree_map_with_path(narrow, in_float32(layer).with_system(system))


def _compiled_system(layer: Layer) -> PyTree:
    """`layer.system()`, compiled as one program unless its class needs concrete values."""
    try:
        return _system(layer)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError, TypeError):
        return layer.system()


@eqx.filter_jit
@exact_products
def _system(layer: Layer) -> PyTree:
    return layer.system()


def _is_shape_tree(tree: PyTree) -> bool:
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def _is_half(leaf: PyTree) -> bool:
    return eqx.is_inexact_array(leaf) and leaf.dtype in _HALF


def _read(function: str, index: int, layer: Layer, system: Callable[[Layer], PyTree]) -> PyTree:
    try:
        read = system(layer)
        if len(read.lam.shape) == 1:
            return read
    except Exception as error:
        if (reason := _obstacle(layer)) is None:
            raise
        raise ValueError(f"{function}: {_name(index, layer)} {reason}") from error
    raise ValueError(f"{function}: {_name(index, layer)} {stacked(len(read.lam))}")


def _obstacle(layer: Layer) -> str | None:
    """Why a layer may have no system."""
    leaves = jax.tree_util.tree_leaves_with_path(layer, is_leaf=lambda leaf: leaf is None)
    if _is_shape_tree(layer):
        return "holds shapes; pass arrays"
    leading = {leaf.shape[:1] for _, leaf in leaves if isinstance(leaf, jax.Array | np.ndarray)}
    if len(leading) == 1 and (size := leading.pop()) and _is_stack(layer):
        return stacked(size[0])
    missing = [jax.tree_util.keystr(path, simple=True) for path, leaf in leaves if leaf is None]
    if missing:
        return (
            f"holds None in {', '.join(missing)}; pass the whole model, joined by eqx.combine, "
            "instead of a part that eqx.filter or eqx.partition returned"
        )
    return None


def _is_stack(layer: Layer) -> bool:
    try:
        shape = eqx.filter_eval_shape(
            eqx.filter_vmap(lambda one: float32_system(one).lam), layer
        ).shape
    except Exception:
        return False
    return len(shape) == 2


def stacked(size: int) -> str:
    """What is wrong with layers that are stacked on a leading axis, and what to do."""
    return (
        f"holds {size} layers stacked on a leading axis; split the model first: [jax.tree.map("
        f"lambda leaf: leaf[i] if eqx.is_array(leaf) else leaf, model) for i in range({size})]"
    )


def _name(index: int, layer: Layer) -> str:
    return f"layer {index} ({type(layer).__name__})"
