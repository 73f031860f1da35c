"""Probe: how much the outputs of a model change when one layer alone is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, PyTree

from lastax.calibration._allocation import Curve, interpolated_curve, probe_sizes
from lastax.calibration._blockwise_pass import BlockwisePass
from lastax.nn._blockwise import HiddenStates


def probe_curve(states: int, cost: Callable[[int], float]) -> Curve:
    """Cost of each size of a layer, measured at about ten sizes and interpolated.

    Args:
        states: number of states of the layer. Its full size costs nothing.
        cost: cost of a size smaller than `states`.
    """
    sizes = probe_sizes(states)
    costs = [cost(size) for size in sizes[:-1]] + [0.0]
    return interpolated_curve(np.array(sizes), np.array(costs), states)


def outputs_from(
    data: BlockwisePass, blocks: Iterable[PyTree], inputs: Sequence[HiddenStates]
) -> Float[np.ndarray, "records m"]:
    """Outputs of the model when the remaining part of the forward pass consists of `blocks`.

    Args:
        data: the model and its calibration data.
        blocks: blocks that take the place of the last blocks of the model.
        inputs: hidden states before the first of them.
    """
    final = list(inputs)
    for block in blocks:
        final = data.block_outputs(block, final)
    return data.outputs(final)
