"""Recalibration of the running statistics of batch normalization."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lastax.calibration._blockwise_pass import blockwise_pass, layer_output
from lastax.calibration._chunk_moments import row_groups
from lastax.calibration._chunks import CalibrationBatches
from lastax.nn._blocks import Block
from lastax.nn._blockwise import HiddenStates, NetworkForward
from lastax.nn._networks import Network
from lastax.nn._normalization import BatchNorm, RunningStatistics
from lastax.ssm._precision import exact_products


def recalibrate_batch_norm(model: Network, batches: CalibrationBatches) -> Network:
    """Compute the running statistics of all `BatchNorm`s from data.

    Removing states changes the inputs of the normalizations above them. This function goes through
    the blocks from the bottom. Each block receives inputs that its recalibrated predecessors
    produce. Mean and variance become those of all steps of `batches`, as if these formed one batch
    of training without dropout. Labels are not used. `LayerNorm`s are unaffected.

    Args:
        model: the network.
        batches: one batch, or one pass over the data, as for `refit`.

    Returns:
        The network with other running statistics.

    Raises:
        ValueError: if the data are empty or not finite.
    """
    forward = NetworkForward()
    data = blockwise_pass("recalibrate_batch_norm", model, batches, forward)
    inputs = data.enter()
    blocks: list[Block] = []
    for block in data.blocks:
        if isinstance(block.norm, BatchNorm):
            seen = ((_norm_input(forward, block, states), _norm_rows(states)) for states in inputs)
            mean, variance = _mean_and_variance(seen)
            dtype = block.norm.running.mean.dtype
            running = RunningStatistics(jnp.asarray(mean, dtype), jnp.asarray(variance, dtype))
            norm = dataclasses.replace(block.norm, running=running)
            block = dataclasses.replace(block, norm=norm)
        inputs = data.block_outputs(block, inputs)
        blocks.append(block)
    return data.with_blocks(blocks)


@exact_products
def _norm_input(
    forward: NetworkForward, block: Block, states: HiddenStates
) -> Float[np.ndarray, "n L H"]:
    if block.prenorm:
        return np.asarray(states.hidden)
    y = layer_output(forward, block, states)
    return np.asarray(eqx.filter_jit(forward.unnormalized)(block, states, y))


def _norm_rows(states: HiddenStates) -> Bool[np.ndarray, "n L"]:
    """Steps that enter the statistics. Padding enters them unless the network masks it."""
    valid = np.asarray(states.valid)
    if states.mask is not None:
        return valid
    return np.broadcast_to(valid.any(axis=1, keepdims=True), valid.shape)


def _mean_and_variance(
    seen: Iterator[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for hidden, rows in seen:
        for group in row_groups(rows, hidden.shape[-1]):
            wide = hidden[group].astype(np.float64)
            count += len(wide)
            total = total + wide.sum(axis=0)
            squares = squares + (wide**2).sum(axis=0)
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0)
