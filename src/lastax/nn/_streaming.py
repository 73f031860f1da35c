"""From a trained classifier to a streaming cell."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lastax._typing import Scalar
from lastax.nn._cell_block import make_block
from lastax.nn._channel_recurrence import make_recurrence
from lastax.nn._diagonal_layer import DiagonalLayer
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.nn._streaming_cell import StreamingCell


def streaming(
    model: Network, *, step_rescale: Scalar = 1.0, compensated: bool = True
) -> StreamingCell:
    """Freeze a unidirectional classifier for streams.

    Layers are discretized once, and running statistics of a BatchNorm become a scale and an offset.
    Layers can be S5, S4D, LRU, a mixture, or any other `Layer`; the cell applies `layer.system()`.
    Gradients flow through this function, so that it can be called inside of a loss.

    The logits are those of the model on the whole sequence, for chunks of any lengths and step by
    step. In float32 they differ by less than 1e-5 of the largest value for up to 16,384 steps, in
    float64 by less than 1e-12. This holds for `1 - |lam| >= 1e-4`; nearer the unit circle, the scan
    over a whole sequence or a long chunk in float32 is less precise than the steps (see
    `diagonal_scan`). 16-bit parameters are converted to float32.

    Args:
        model: the classifier, before or after pruning.
        step_rescale: factor on all step sizes.
        compensated: carry the rounding errors of all states along. It doubles the size of the
            state. Without it, errors in float32 grow with the number of steps for eigenvalues near
            the unit circle.

    Returns:
        The cell.

    Raises:
        ValueError: if a layer is bidirectional, or if the model is not a `Classifier`.
    """
    if not isinstance(model, Classifier):
        remedy = (
            "a pair of documents cannot be read as one stream"
            if isinstance(model, Retrieval)
            else "in a model of your own, call run(u, initial=...) of each layer"
        )
        raise ValueError(
            f"streaming: the model must be a Classifier, got {type(model).__name__}; {remedy}"
        )
    encoder = model.encoder
    layers = [block.layer for block in encoder.blocks]
    systems = [layer.system(step_rescale) for layer in layers]
    for number, system in enumerate(systems):
        if system.C_reverse is not None:
            raise ValueError(
                f"streaming: the layer of block {number} is bidirectional, so its outputs depend "
                "on later inputs; train the model with bidirectional=False (--no-bidirectional)"
            )
    # A layer need not have this method of `DiagonalLayer`.
    sizes = [
        layer.step_sizes(step_rescale) if isinstance(layer, DiagonalLayer) else None
        for layer in layers
    ]
    recurrences = [
        make_recurrence(system, size, compensated=compensated)
        for system, size in zip(systems, sizes, strict=True)
    ]
    cell = StreamingCell(
        embed=encoder.embed,
        blocks=tuple(map(make_block, encoder.blocks, recurrences)),
        head=model.head,
        pooling=encoder.pooling,
        tokens=encoder.tokens,
    )
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(cell))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), cell)
