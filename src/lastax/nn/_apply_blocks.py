"""Residual blocks in sequence; blocks of equal shapes in a loop that is compiled once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from lastax._typing import Array, PRNGKeyArray
from lastax.nn._blocks import Block
from lastax.nn._normalization import BatchNorm, LayerNorm

ApplyBlock = Callable[[Block, Array, Array | None], tuple[Array, Block]]


def apply_blocks(
    blocks: tuple[Block, ...],
    apply: ApplyBlock,
    y: Float[Array, "L H"],
    key: PRNGKeyArray | None,
    *,
    remat: bool,
    scan_layers: bool,
) -> tuple[Float[Array, "L H"], tuple[Block, ...]]:
    """Apply residual blocks one after another.

    Args:
        blocks: the blocks, in order.
        apply: computes the output of a block from the block, its input and its random key, and
            returns the block with updated running statistics.
        y: input of the first block, shape `(L, H)`.
        key: random key, which is split over the blocks; None if they need none.
        remat: store only the input of each block for the gradient. Implies `scan_layers`.
        scan_layers: apply adjacent blocks of equal shapes in a loop.

    Returns:
        The output of the last block, shape `(L, H)`, and the updated blocks.
    """
    updated: list[Block] = []
    keys = None if key is None else jax.random.split(key, len(blocks))
    scanned = remat or scan_layers
    for group in _runs_of_equal_blocks(blocks) if scanned else [(b,) for b in blocks]:
        group_keys = None if keys is None else keys[len(updated) : len(updated) + len(group)]
        # XLA merges a recomputation with the first computation, except in a loop.
        if remat or len(group) > 1:
            y, scanned_blocks = _scan_blocks(apply, group, y, group_keys, remat=remat)
            updated += scanned_blocks
        else:
            y, block = apply(group[0], y, None if group_keys is None else group_keys[0])
            updated.append(block)
    return y, tuple(updated)


def _runs_of_equal_blocks(blocks: tuple[Block, ...]) -> list[tuple[Block, ...]]:
    """Group adjacent blocks of the same structure and shapes."""

    def shapes(block: Block) -> tuple[jax.tree_util.PyTreeDef, list[object]]:
        return jax.tree.structure(block), [
            (leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf
            for leaf in jax.tree.leaves(block)
        ]

    return [tuple(run) for _, run in itertools.groupby(blocks, key=shapes)]


def _scan_blocks(
    apply: ApplyBlock,
    blocks: tuple[Block, ...],
    y: Array,
    keys: Array | None,
    *,
    remat: bool,
) -> tuple[Array, list[Block]]:
    """Apply equal blocks one after another, in a loop whose body is compiled once."""
    arrays = [eqx.partition(block, eqx.is_array)[0] for block in blocks]
    static = eqx.partition(blocks[0], eqx.is_array)[1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)

    def body(y: Array, inputs: tuple[Block, Array | None]) -> tuple[Array, BatchNorm | LayerNorm]:
        arrays, key = inputs
        y, updated = apply(eqx.combine(arrays, static), y, key)
        # A forward pass changes nothing else of a block.
        return y, updated.norm

    y, norms = jax.lax.scan(jax.checkpoint(body) if remat else body, y, (stacked, keys))
    updated = [
        dataclasses.replace(block, norm=jax.tree.map(lambda leaf, n=number: leaf[n], norms))
        for number, block in enumerate(blocks)
    ]
    return y, updated
