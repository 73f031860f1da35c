"""The arrays of a PyTree by name."""

from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np


def named_arrays(tree: Any) -> dict[str, Any]:
    """The arrays (or `jax.ShapeDtypeStruct`) of a PyTree by path, as `encoder.blocks.0.layer.B`.

    Raises:
        ValueError: if two arrays have the same name, because a key contains a dot.
    """
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, _is_array))
    arrays: dict[str, Any] = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in arrays:
            raise ValueError(f"two arrays have the name {name}: use keys without dots")
        arrays[name] = leaf
    return arrays


def with_named_arrays(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """`tree` with the array of the same name in place of each of its arrays.

    Args:
        tree: any PyTree; `jax.ShapeDtypeStruct` may stand for arrays.
        arrays: by name, as from `named_arrays`. They keep their precision.

    Raises:
        ValueError: if names are missing or unexpected, or if a shape or the kind of a dtype
            differs.
    """
    expected = named_arrays(tree)
    if expected.keys() != arrays.keys():
        missing, extra = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
        raise ValueError(f"arrays missing: {_few(missing)}; not expected: {_few(extra)}")
    for name, old in expected.items():
        new = arrays[name]
        if (old.shape, old.dtype.kind) != (new.shape, new.dtype.kind):
            raise ValueError(
                f"{name} should be {old.dtype}{list(old.shape)}, is {new.dtype}{list(new.shape)}"
            )
    replaced, static = eqx.partition(tree, _is_array)
    treedef = jax.tree.structure(replaced)
    # Through the host, because arrays read on one device may be needed on several.
    values = [jax.numpy.asarray(np.asarray(arrays[name])) for name in expected]
    return eqx.combine(jax.tree.unflatten(treedef, values), static)


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _few(names: Iterable[str]) -> str:
    listed = sorted(names)
    return (
        ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "") or "-"
    )
