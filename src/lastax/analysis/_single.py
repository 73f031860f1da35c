"""Checks that a PyTree is one system or layer with known values, not a stack or a trace."""

import jax
from jaxtyping import PyTree


def check_single(function: str, system: object) -> None:
    """Check that an argument is one system, not a layer or a stack of systems.

    Args:
        function: name of the function that the user called.
        system: the system.

    Raises:
        ValueError: if it is not a system, or if its arrays have a leading axis.
    """
    shape = getattr(getattr(system, "lam", None), "shape", None)
    if shape is None:
        raise ValueError(
            f"{function}: needs a system, got {type(system).__name__}; pass layer.system(), or for "
            "the layers of a model lastax.systems(model)"
        )
    if len(shape) != 1:
        raise ValueError(
            f"{function}: lam has shape {shape}, so these are {shape[0]} stacked systems; pass one "
            "of them, as jax.tree.map(lambda leaf: leaf[i], stacked)"
        )


def check_concrete(function: str, tree: PyTree) -> None:
    """Check that all arrays have values.

    Args:
        function: name of the function that the user called.
        tree: a model, a layer or a system.

    Raises:
        ValueError: if an array is traced.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        raise ValueError(
            f"{function}: needs arrays with values, because they determine the states to keep; "
            "call it outside jit, vmap and grad, once per model"
        )
