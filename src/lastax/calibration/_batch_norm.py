"""TODO calibration._batch_norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from lastax.calibration._blockwise_pass import (
    enter_all,
    layer_output_on_device,
    pass_through,
    row_groups,
    values_per_step,
)
from lastax.calibration._records import Batch, calibration_chunks
from lastax.nn._blocks import Block
from lastax.nn._blockwise import HiddenStates, NetworkForward
from lastax.nn._networks import Network
from lastax.nn._normalization import BatchNorm, RunningStatistics


def recalibrate_batch_norm(model: Network, batches: Batch | Iterable[Batch]) -> Network:
    """The network with its batch norms' running statistics measured anew.

    After states were removed, what a norm sees has moved. Block by block, each fed by norms that
    have been measured already, mean and variance become those of all steps of `batches`, as if
    these were one batch of training without dropout; but training's own running statistics are
    averages over many batches. Layer norms have none. No label is used.

    Args:
        model: the network.
        batches: one pass over the data, as `refit` takes them.

    Raises:
        ValueError: as `calibration_chunks` does.
    """
    forward = NetworkForward()
    chunks = calibration_chunks(batches, values_per_step=values_per_step(model))
    streams = enter_all(forward, model, chunks)
    blocks: list[Block] = []
    for block in forward.blocks(model):
        if isinstance(block.norm, BatchNorm):
            seen = (_norm_input(forward, block, stream) for stream in streams)
            mean, variance = _statistics(seen, [_norm_rows(stream) for stream in streams])
            kind = block.norm.running.mean.dtype
            running = RunningStatistics(jnp.asarray(mean, kind), jnp.asarray(variance, kind))
            norm = dataclasses.replace(block.norm, running=running)
            block = dataclasses.replace(block, norm=norm)
        streams = [pass_through(forward, block, stream) for stream in streams]
        blocks.append(block)
    return eqx.tree_at(forward.blocks, model, tuple(blocks))


def _norm_input(forward: NetworkForward, block: Block, stream: HiddenStates) -> np.ndarray:
    if block.prenorm:
        return np.asarray(stream.hidden)
    y = layer_output_on_device(forward, block, stream)
    return np.asarray(eqx.filter_jit(forward.unnormalized)(block, stream, y))


def _norm_rows(stream: HiddenStates) -> np.ndarray:
    """Steps that a norm takes statistics from; padding is among them unless it is masked."""
    valid = np.asarray(stream.valid)
    if stream.mask is not None:
        return valid
    return np.broadcast_to(valid.any(axis=1, keepdims=True), valid.shape)


def _statistics(
    seen: Iterable[np.ndarray], where: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    count, total, squares = 0, 0.0, 0.0
    for hidden, rows in zip(seen, where, strict=True):
        for group in row_groups(rows, hidden.shape[-1]):
            wide = hidden[group].astype(np.float64)
            count += len(wide)
            total = total + wide.sum(axis=0)
            squares = squares + (wide**2).sum(axis=0)
    mean = np.asarray(total / count)
    return mean, np.maximum(np.asarray(squares / count) - mean**2, 0)
