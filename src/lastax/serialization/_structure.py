"""The structure of a model as JSON: module types, static fields, shapes. No arrays, no code.

Only the modules and functions in the tables below can be written and read, so that reading a file
never runs code from it.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lastax import nn, ssm

_MODULES: Mapping[str, type[eqx.Module]] = MappingProxyType(
    {
        name: item
        for package in (nn, ssm)
        for name, item in vars(package).items()
        if inspect.isclass(item) and issubclass(item, eqx.Module)
    }
)
_FUNCTIONS: Mapping[str, Callable] = MappingProxyType(
    {name: getattr(ssm, name) for name in ("discretize_zoh", "discretize_bilinear")}
)


def describe(node: Any) -> Any:
    """A JSON value from which `build` makes the same structure, with shapes in place of arrays.

    Raises:
        TypeError: if a node is not a module of `lastax.nn` or `lastax.ssm`, a container, an array
            or a plain value.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        return {"array": [str(node.dtype), list(node.shape)]}
    # Named tuples are classes of other code, such as the state of an optimizer.
    if type(node) in (tuple, list):
        return {type(node).__name__: [describe(item) for item in node]}
    if isinstance(node, dict) and all(isinstance(key, str) for key in node):
        return {"dict": {key: describe(value) for key, value in node.items()}}
    for name, function in _FUNCTIONS.items():
        if node is function:
            return {"function": name}
    if isinstance(node, eqx.Module) and _MODULES.get(type(node).__name__) is type(node):
        fields = {f.name: describe(getattr(node, f.name)) for f in dataclasses.fields(node)}
        return {"module": type(node).__name__, "fields": fields}
    raise TypeError(type(node).__name__)


def build(value: Any) -> Any:
    """The structure that `describe` wrote, with `jax.ShapeDtypeStruct` in place of arrays.

    Raises:
        ValueError: if the value is not one that `describe` writes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    match value:
        case {"array": [str(dtype), [*shape]]}:
            return jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
        case {"tuple": [*items]}:
            return tuple(build(item) for item in items)
        case {"list": [*items]}:
            return [build(item) for item in items]
        case {"dict": dict(items)}:
            return {key: build(item) for key, item in items.items()}
        case {"function": str(name)} if name in _FUNCTIONS:
            return _FUNCTIONS[name]
        case {"module": str(name), "fields": dict(fields)} if name in _MODULES:
            return _module(_MODULES[name], fields)
    raise ValueError(f"unknown structure: {str(value)[:80]}")


def _module(kind: type[eqx.Module], fields: Mapping[str, Any]) -> eqx.Module:
    names = {field.name: field.default for field in dataclasses.fields(kind)}
    # A field that an earlier version did not have yet has its default.
    defaults = {name: value for name, value in names.items() if value is not dataclasses.MISSING}
    if names.keys() != (defaults | dict(fields)).keys():
        raise ValueError(f"{kind.__name__} has fields {sorted(names)}, not {sorted(fields)}")
    # Not through `__init__`, whose converters and checks are for arrays.
    module: eqx.Module = object.__new__(kind)
    for name in names:
        value = build(fields[name]) if name in fields else defaults[name]
        object.__setattr__(module, name, value)
    return module
