"""How much the layers of a reduced model differ from the original ones, on data."""

import numpy as np
from jaxtyping import PyTree

from lastax.calibration._blockwise_pass import BlockwisePass, blockwise_pass
from lastax.calibration._chunks import CalibrationBatches
from lastax.nn._blockwise import BlockwiseForward


def layer_errors(
    model: PyTree,
    small: PyTree,
    batches: CalibrationBatches,
    *,
    forward: BlockwiseForward | None = None,
) -> list[float]:
    """Mean squared error of the output of each layer, relative to its mean square.

    Each layer of `small` receives the inputs that the layers of `small` below produce, as in
    `LayerReport.error`.

    Args:
        model: the original model.
        small: the reduced model.
        batches: data, as for `refit`.
        forward: block-wise forward pass of a model of another class.

    Returns:
        One error per block.

    Raises:
        ValueError: if the data are empty or not finite.
    """
    original = blockwise_pass("layer_errors", model, batches, forward)
    reduced = BlockwisePass(small, original.forward, original.chunks)
    wanted, found, errors = original.enter(), reduced.enter(), []
    for block, smaller in zip(original.blocks, reduced.blocks, strict=True):
        targets = original.layer_outputs(block, wanted)
        outputs = reduced.layer_outputs(smaller, found)
        error, power = 0.0, 0.0
        for states, target, output in zip(wanted, targets, outputs, strict=True):
            y = target[states.valid].astype(float)
            error += float(np.sum((output[states.valid].astype(float) - y) ** 2))
            power += float(np.sum(y**2))
        errors.append(error / (power if power > 0 else 1.0))
        wanted = original.after(block, wanted, targets)
        found = reduced.after(smaller, found, outputs)
    return errors
