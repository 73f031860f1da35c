"""Layers of discretax, which `lastax.interop.adopt` replaces by layers of lastax."""

import importlib

import equinox as eqx
import jax

from lastax._typing import Model
from lastax.nn._layer import Layer

# Names of the fields of the layers. For S4D they are the fields of its kernel.
_LAYERS = (
    {"Lambda_re", "Lambda_im", "B", "C", "D", "log_step"},
    {"nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D"},
)
_KERNEL = {"log_a_real", "A_imag", "C", "log_dt"}


def adopted(model: Model) -> Model:
    """The model with layers of lastax in place of layers of discretax.

    Functions that find layers call this first. It returns a model without such layers unchanged.

    Raises:
        ValueError: if an array of such a layer has an unexpected shape.
    """
    nodes = jax.tree.leaves(model, is_leaf=_is_foreign_layer)
    if not any(map(_is_foreign_layer, nodes)):
        return model
    # This package is above `surgery`, so it is loaded by name, and only for models that need it.
    replaced: Model = importlib.import_module("lastax.interop").adopt(model)
    return replaced


def _is_foreign_layer(node: object) -> bool:
    if not isinstance(node, eqx.Module) or isinstance(node, Layer):
        return False
    return any(fields <= _fields(node) for fields in _LAYERS) or (
        "kernel" in _fields(node) and _fields(getattr(node, "kernel", None)) >= _KERNEL
    )


def _fields(node: object) -> set[str]:
    return set(getattr(node, "__dataclass_fields__", ()))
