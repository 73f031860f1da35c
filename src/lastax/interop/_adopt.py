"""Layers of discretax inside an Equinox model, replaced by layers of lastax in the same places."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from lastax._errors import RunError
from lastax._typing import Array, Model
from lastax.interop._discretax import DISCRETAX
from lastax.interop._format import LayerFormat
from lastax.interop._options import ImportOptions
from lastax.interop._scope import Scope
from lastax.nn._diagonal_layer import DiagonalLayer
from lastax.nn._layer import Layer
from lastax.nn._lru import LRU
from lastax.nn._s4d import S4D
from lastax.nn._s5 import S5
from lastax.surgery._reading import stacked


class _CalledWithKey(DiagonalLayer):
    """A layer that is called as `layer(x, key)`, as discretax calls its sequence mixers."""

    def __call__(self, u: Array, key: Array | None = None, **settings: Any) -> Array:
        """Apply the layer to one sequence; `key` is ignored."""
        return super().__call__(u, key=key, **settings)


class AdoptedS5(_CalledWithKey, S5):
    """An `S5` that is called as `layer(x, key)`."""


class AdoptedS4D(_CalledWithKey, S4D):
    """An `S4D` that is called as `layer(x, key)`."""


class AdoptedLRU(_CalledWithKey, LRU):
    """An `LRU` that is called as `layer(x, key)`."""


_ADOPTED: dict[Any, Any] = {S5: AdoptedS5, S4D: AdoptedS4D, LRU: AdoptedLRU}


def adopt(model: Model) -> Model:
    """Replace the layers of discretax in a model by layers of lastax.

    Layers are recognized by the names of their fields, so layers of other libraries with the same
    fields are replaced too: `Lambda_re`, `Lambda_im`, `B`, `C`, `D` and `log_step` (S5); `nu_log`,
    `theta_log`, `gamma_log`, `B_re`, `B_im`, `C_re`, `C_im` and `D` (LRU); `kernel` with
    `log_a_real`, `A_imag`, `C` and `log_dt` (S4D). Everything else stays as it is. The new layers
    are called as the old ones, so the model computes the same outputs up to rounding. Functions
    that find layers, such as `prune`, `refit` and `systems`, do this by themselves.

    Args:
        model: any PyTree with concrete arrays.

    Returns:
        The model with layers of lastax.

    Raises:
        ValueError: if no layer is found, or if an array of a layer has an unexpected shape.
    """
    found: dict[tuple[int, ...], Layer] = {}

    def replaced(node: Any) -> Any:
        if (kind := _kind(node)) is None:
            return node
        # A layer that is used in several places is replaced by one layer.
        key = tuple(map(id, jax.tree.leaves(node)))
        if key not in found:
            found[key] = _layer(node, kind)
        return found[key]

    new = jax.tree.map(replaced, model, is_leaf=lambda node: _kind(node) is not None)
    if not found:
        raise ValueError(
            f"adopt: no layer with the fields of an S5, S4D or LRU of discretax in this "
            f"{type(model).__name__}; for another layer write an adapter (lastax.check_layer)"
        )
    return new


def _kind(node: object) -> LayerFormat | None:
    """The format of a foreign layer, by the names of its arrays."""
    if not isinstance(node, eqx.Module) or isinstance(node, Layer):
        return None
    arrays = _arrays(node)
    # The arrays of the layer itself, not of one that contains it.
    return next((kind for kind in DISCRETAX.layers if set(kind.names) <= set(arrays)), None)


def _arrays(node: object) -> dict[str, Array]:
    leaves = jax.tree_util.tree_leaves_with_path(node)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
        if eqx.is_array(leaf)
    }


def _layer(node: Any, kind: LayerFormat) -> Layer:
    options = ImportOptions(
        conj_sym=getattr(node, "conj_sym", None),
        discretization=getattr(node, "discretization", "zoh"),
        clip_eigenvalues=getattr(node, "clip_eigs", False),
        step_rescale=getattr(node, "step_rescale", 1.0),
    )
    arrays = {name: np.asarray(array) for name, array in _arrays(node).items()}
    try:
        layer: Any = kind.read(Scope(arrays), options)
    except RunError as error:
        found = _stack_size(arrays, kind, options)
        reason = f": {error}" if found is None else f" {stacked(found)}"
        raise ValueError(f"adopt: a {type(node).__name__}{reason}") from error
    fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    return _ADOPTED[type(layer)](**fields)


def _stack_size(
    arrays: Mapping[str, np.ndarray], kind: LayerFormat, options: ImportOptions
) -> int | None:
    """The number of layers that `eqx.filter_vmap` has stacked; None if these are not layers."""
    sizes = {array.shape[:1] for array in arrays.values()}
    if len(sizes) != 1 or () in sizes or (0,) in sizes:
        return None
    try:
        kind.read(Scope({name: array[0] for name, array in arrays.items()}), options)
    except RunError:
        return None
    return sizes.pop()[0]
