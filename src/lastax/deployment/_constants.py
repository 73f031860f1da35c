"""The numbers of a cell as they are written: float32, and one order of states."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lastax.nn._cell_block import CellBlock
from lastax.nn._channel_recurrence import ChannelRecurrence
from lastax.nn._networks import Network
from lastax.nn._recurrence import Recurrence
from lastax.nn._streaming import streaming
from lastax.nn._streaming_cell import StreamingCell

# A recurrence in float32 rounds each state by up to 2^-24 of its value per step. In the worst case
# these errors add up to 2^-24 / (1 - |lam|) of the state. Above this share a layer is compensated.
_LARGEST_ERROR = 1e-3


def cell_of(model: Network | StreamingCell, compensated: bool | None = None) -> StreamingCell:
    """The cell of a model.

    Args:
        model: a unidirectional classifier, or its cell.
        compensated: carry the rounding errors of all states along. By default a cell stays as it
            is, and of a model only the layers that need it are compensated.

    Raises:
        ValueError: if the model cannot stream.
    """
    if isinstance(model, StreamingCell):
        if compensated is None:
            return model
        cell = model
    else:
        cell = streaming(model, compensated=False)

    def chosen(block: CellBlock) -> CellBlock:
        needed = _needs_compensation(block.recurrence) if compensated is None else compensated
        recurrence = dataclasses.replace(block.recurrence, compensated=needed)
        return dataclasses.replace(block, recurrence=recurrence)

    return dataclasses.replace(cell, blocks=tuple(map(chosen, cell.blocks)))


def float32_cell(function: str, cell: StreamingCell) -> StreamingCell:
    """The cell in float32, with `B = 1` in recurrences of scalar channels.

    Args:
        function: the function that the user called, for messages.
        cell: the cell.

    Raises:
        ValueError: if a number is not finite, or if a state is unstable.
    """
    blocks = tuple(
        dataclasses.replace(block, recurrence=_float32_recurrence(block.recurrence))
        for block in cell.blocks
    )
    cell = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float32), dataclasses.replace(cell, blocks=blocks)
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(cell):
        if not np.isfinite(leaf).all():
            raise ValueError(
                f"{function}: cell{jax.tree_util.keystr(path)} has values that are not finite in "
                "float32; train the model again, or load another checkpoint"
            )
    for number, block in enumerate(cell.blocks):
        unstable = np.flatnonzero(_moduli(block.recurrence) >= 1)
        if len(unstable):
            raise ValueError(
                f"{function}: the states {unstable.tolist()} of block {number} have |lam| >= 1 in "
                "float32, so that they grow without bound in a long stream; remove them with "
                "lastax.keep_states, or train with clip_eigenvalues=True"
            )
    return cell


def _float32_recurrence(recurrence: Recurrence) -> Recurrence:
    recurrence = dataclasses.replace(recurrence, step_sizes=None)
    if not isinstance(recurrence, ChannelRecurrence):
        return recurrence
    # Channels have one input and one output, so that only the product of `B` and `C` matters.
    B, C = (np.asarray(weights, float) for weights in (recurrence.B, recurrence.C))
    states = len(B) // 2
    gains = (C[:states] - 1j * C[states:]) * (B[:states] + 1j * B[states:])
    return dataclasses.replace(
        recurrence,
        B=jnp.asarray([1.0] * states + [0.0] * states, jnp.float32),
        C=jnp.asarray(np.concatenate([gains.real, -gains.imag]), jnp.float32),
    )


def _needs_compensation(recurrence: Recurrence) -> bool:
    distances = 1 - _moduli(recurrence)
    return bool(np.any(distances * _LARGEST_ERROR < 2.0**-24))


def _moduli(recurrence: Recurrence) -> Float[np.ndarray, " P"]:
    parts = (np.asarray(part, float) for part in (recurrence.lam_re, recurrence.lam_im))
    return np.hypot(*parts)
