"""The bottom-up pass that cuts the layers of a model and refits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, PyTree

from lastax.calibration._accumulation import layer_moments, linear_grams
from lastax.calibration._block_refit import (
    refit_layer,
    refit_linears,
    refit_model_head,
    refit_poles,
)
from lastax.calibration._blockwise_pass import head_outputs, layer_of
from lastax.calibration._calibration import Calibration
from lastax.calibration._moments import Moments
from lastax.calibration._report import LayerReport, RefitReport
from lastax.nn._blockwise import HiddenStates
from lastax.surgery._layers import replace_layers

# For one layer: how many states to keep, or which ones.
Choice = int | Bool[np.ndarray, " _"]


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Hidden states before the same block of the original and of the reduced model.

    Attributes:
        original: hidden states of the original model.
        reduced: hidden states of the reduced model.
        changed: whether a layer below was changed, or every layer changes.
    """

    original: list[HiddenStates]
    reduced: list[HiddenStates]
    changed: bool


def cut_and_refit(
    calibration: Calibration,
    choices: Sequence[Choice],
    *,
    linear_maps: bool = True,
    poles: bool = True,
) -> tuple[PyTree, RefitReport]:
    """Cut and refit all layers, from the bottom.

    The inputs of each layer come from the reduced layers below, the targets from the original
    model. A layer that keeps all states and whose inputs are unchanged stays the same bit for bit.

    Args:
        calibration: the model and its calibration.
        choices: for each layer the number of states to keep, or a mask.
        linear_maps: whether to refit the linear maps of the gates and the head too.
        poles: whether to fit the poles of layers with one system per channel too.
    """
    data = calibration.data
    start = data.enter()
    pair = _Pair(start, start, changed=calibration.dense_feedthrough)
    blocks, reports = [], []
    for index, choice in enumerate(choices):
        calibration.report_progress("refitting", index)
        block, report, pair = _reduce_block(calibration, index, choice, pair, linear_maps, poles)
        blocks.append(block)
        reports.append(report)
    features = data.features(pair.reduced)
    head = data.forward.head(data.model)
    model = data.with_blocks(blocks)
    if head is not None and pair.changed and linear_maps:
        weight = np.asarray(head.weight, float)
        model = refit_model_head(data.forward, model, features, calibration.outputs, weight)
        head = data.forward.head(model)
    divergence = calibration.divergence(calibration.outputs, head_outputs(head, features))
    steps = int(sum(states.valid.sum() for states in pair.reduced))
    return model, RefitReport(reports, divergence, len(calibration.outputs), steps)


def _reduce_block(
    calibration: Calibration,
    index: int,
    choice: Choice,
    pair: _Pair,
    linear_maps: bool,
    poles: bool,
) -> tuple[PyTree, LayerReport, _Pair]:
    """Cut and refit one block.

    Returns:
        The reduced block, its report, and the hidden states after it.
    """
    data = calibration.data
    block = data.blocks[index]
    targets = data.layer_outputs(block, pair.original)
    moments = calibration.moments[index]
    if pair.changed:
        name = f"refit: layer {index}"
        moments = layer_moments(name, data.forward, block, pair.reduced, targets)
    keep, order = _choose(calibration, index, choice, moments)
    if not pair.changed and keep.all():
        after = data.after(block, pair.original, targets)
        return block, LayerReport(keep, order, 0.0, 0.0), _Pair(after, after, changed=False)
    dense = calibration.dense_feedthrough
    full, report = refit_layer(block, moments, keep, order=order, dense_feedthrough=dense)
    if poles and not keep.all():
        name = f"refit: layer {index}"
        moved = refit_poles(name, data.forward, block, keep, pair.reduced, targets)
        if moved is not None and moved[1] < report.error:
            full, report = moved[0], dataclasses.replace(report, error=moved[1])
    outputs = data.layer_outputs(full, pair.reduced)
    if linear_maps and data.forward.linears(full):
        full = _refit_block_linears(calibration, block, full, pair, (targets, outputs))
    reduced = data.after(full, pair.reduced, outputs)
    original = data.after(block, pair.original, targets)
    small = replace_layers(full, [layer_of(full).keep(keep)])
    return small, report, _Pair(original, reduced, changed=True)


def _refit_block_linears(
    calibration: Calibration,
    block: PyTree,
    refitted: PyTree,
    pair: _Pair,
    layer_outputs: tuple[list[np.ndarray], list[np.ndarray]],
) -> PyTree:
    """Fit the linear maps behind a layer to their outputs in the original block."""
    forward = calibration.data.forward
    valid = (np.asarray(states.valid) for states in pair.original)
    grams = linear_grams(forward, block, refitted, valid, zip(*layer_outputs, strict=True))
    return refit_linears(forward, refitted, grams)


def _choose(
    calibration: Calibration, index: int, choice: Choice, moments: Moments
) -> tuple[Bool[np.ndarray, " _"], np.ndarray | None]:
    """The mask of the states to keep, and the order of elimination that it comes from."""
    if not isinstance(choice, int):
        return choice, None
    path = calibration.path(index, moments)
    return path.keep(choice), path.order
