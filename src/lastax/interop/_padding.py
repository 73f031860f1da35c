"""Filling layers with states that do nothing, for code that wants rectangular arrays."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from lastax.nn._lru import LRU
from lastax.nn._s4d import S4D
from lastax.nn._s5 import S5


def state_size(layer: Any) -> int:
    """The number of states for which the foreign code has room: for S4D, per channel."""
    return max(layer.counts) if isinstance(layer, S4D) else layer.B.shape[0]


def is_ragged(layer: Any) -> bool:
    """Whether the channels of a layer have different numbers of states."""
    return isinstance(layer, S4D) and len(set(layer.counts)) > 1


def with_size(layer: Any, size: int) -> Any:
    """A layer of `size` states (S4D: in every channel). The states that are added have `C = 0`.

    Args:
        layer: an `S5`, `LRU` or `S4D` layer.
        size: number of states, at least that of the layer.
    """
    if isinstance(layer, S4D):
        inside = np.arange(size)[None, :] < np.asarray(layer.counts)[:, None]
        index = np.flatnonzero(inside.ravel())
        total = inside.size

        def spread(values: Any) -> Any:
            return jnp.zeros((total, *values.shape[1:]), values.dtype).at[index].set(values)

        return dataclasses.replace(
            layer,
            log_decay=spread(layer.log_decay),
            Lambda_im=spread(layer.Lambda_im),
            B=None if layer.B is None else spread(layer.B),
            C=spread(layer.C),
            C_reverse=None if layer.C_reverse is None else spread(layer.C_reverse),
            counts=(size,) * len(layer.counts),
        )
    more = size - layer.B.shape[0]

    def longer(values: Any, axis: int = 0) -> Any:
        widths = [(0, more if a == axis else 0) for a in range(values.ndim)]
        return jnp.pad(values, widths)

    reverse = layer.C_reverse
    shared = {
        "B": longer(layer.B),
        "C": longer(layer.C, 1),
        "C_reverse": None if reverse is None else longer(reverse, 1),
    }
    if isinstance(layer, LRU):
        names = ("nu_log", "theta_log", "gamma_log")
        added = {name: longer(getattr(layer, name)) for name in names}
        return dataclasses.replace(layer, **shared, **added)
    if not isinstance(layer, S5):
        raise TypeError(type(layer).__name__)
    return dataclasses.replace(
        layer,
        **shared,
        Lambda_re=jnp.pad(layer.Lambda_re, (0, more), constant_values=-1),
        Lambda_im=longer(layer.Lambda_im),
        log_step=longer(layer.log_step),
    )
