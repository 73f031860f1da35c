"""Checks that a PyTree is one system or layer with known values, not a stack or a trace."""

import jax
from jaxtyping import PyTree

from lastax.ssm._multi_siso import AnySystem


def check_single(function: str, system: AnySystem) -> None:
    """Check that a system is not a stack of systems.

    Args:
        function: name of the function that the user called.
        system: the system.

    Raises:
        ValueError: if the arrays have a leading axis.
    """
    shape = system.lam.shape
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
