"""The refit of one block: its layer, its linear maps, and the head of the model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from lastax.calibration._accumulation import layer_moments
from lastax.calibration._blockwise_pass import layer_input, layer_of
from lastax.calibration._closed_forms import (
    refit_dense_outputs,
    refit_head,
    refit_linear,
    refit_outputs,
)
from lastax.calibration._features import (
    feedthrough_from_weights,
    feedthrough_states,
    feedthrough_weights,
    output_weights,
    state_slots,
    with_output_weights,
)
from lastax.calibration._moments import Moments
from lastax.calibration._pole_fit import fitted_poles
from lastax.calibration._report import LayerReport
from lastax.nn._blockwise import BlockwiseForward, HiddenStates
from lastax.nn._layer import WritableLayer
from lastax.ssm._multi_siso import MultiSISO
from lastax.ssm._precision import at_least_float32
from lastax.ssm._system import replace_arrays
from lastax.surgery._layers import replace_layers
from lastax.surgery._reading import float32_system, host_system, write_system

# Ridge of the linear maps of a gate, in units of the variance of each input.
_LINEAR_RIDGE = 1e-4
# Inputs that determine poles; they bound the memory. 64 sequences of 1,024 steps and 128 channels
# are many, since a channel has only four numbers per state.
_MOST_POLE_INPUTS = 2**23


def refit_layer(
    block: PyTree,
    moments: Moments,
    keep: Bool[np.ndarray, " S"],
    *,
    order: Int[np.ndarray, " S"] | None = None,
    dense_feedthrough: bool = False,
) -> tuple[PyTree, LayerReport]:
    """Fit `C` and `D` of a block's layer such that the output uses only some states.

    Args:
        block: the block.
        moments: moments of the layer's regression.
        keep: the states to use.
        order: order of elimination, for the report.
        dense_feedthrough: whether to fit a dense `D`.

    Returns:
        The block, whose layer still has all states, and the report. The output weights of the
        other states are zero.
    """
    layer = layer_of(block)
    assert isinstance(layer, WritableLayer)  # `refit` checks this.
    system = float32_system(layer)
    slots = state_slots(system)
    kept = (slots >= 0) & keep[np.maximum(slots, 0)]
    W, D = output_weights(system), feedthrough_weights(system)
    fit = refit_dense_outputs if dense_feedthrough else refit_outputs
    new_W, new_D = fit(moments, kept, W, D)
    truncated = W * np.repeat(kept, moments.width, axis=1)[..., None]
    dense = dense_feedthrough or np.ndim(system.D) == 2
    refitted = with_output_weights(system, new_W, feedthrough_from_weights(new_D, dense=dense))
    report = LayerReport(
        keep,
        order,
        _relative_error(moments, truncated, D),
        _relative_error(moments, new_W, new_D),
        feedthrough_states(system) if dense_feedthrough else 0,
    )
    return replace_layers(block, [write_system(layer, refitted)]), report


def refit_poles(
    name: str,
    forward: BlockwiseForward,
    block: PyTree,
    keep: Bool[np.ndarray, " S"],
    inputs: Sequence[HiddenStates],
    targets: Sequence[Float[np.ndarray, "_n _L H"]],
) -> tuple[PyTree, float] | None:
    """Fit the poles, `C` and `D` of a layer with one system per channel (`fitted_poles`).

    Args:
        name: how error messages call the layer.
        forward: block-wise forward pass of the model.
        block: the block; its layer has all states.
        keep: the states to use.
        inputs: hidden states before the block, one entry per chunk.
        targets: outputs that the layer should have.

    Returns:
        The block, whose layer still has all states, and the relative error; None if the layer is
        of another kind, or if no pole changes.
    """
    layer = layer_of(block)
    system = host_system(name, 0, layer)
    if not isinstance(system, MultiSISO):
        return None
    u, y, valid = [], [], []
    for number, rows in _sample([target.shape for target in targets]):
        states = inputs[number]
        u.append(np.asarray(at_least_float32(layer_input(forward, block, states)))[rows])
        y.append(targets[number][rows])
        valid.append(np.asarray(states.valid)[rows])
    small = fitted_poles(system.keep(keep), *map(_joined, (u, y, valid)))
    if np.array_equal(small.lam, system.lam[keep]):
        return None
    moments = layer_moments(name, forward, block, inputs, targets, system=small)
    W, D = refit_outputs(
        moments, state_slots(small) >= 0, output_weights(small), feedthrough_weights(small)
    )
    fitted: Any = with_output_weights(small, W, feedthrough_from_weights(D, dense=False))
    lam, C = np.array(system.lam), np.zeros(system.states, complex)
    lam[keep], C[keep] = fitted.lam, fitted.C
    assert isinstance(layer, WritableLayer)  # `refit` checks this.
    full = write_system(layer, replace_arrays(system, lam=lam, C=C, D=np.asarray(fitted.D)))
    return replace_layers(block, [full]), _relative_error(moments, W, D)


def _sample(shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, Int[np.ndarray, " r"]]]:
    """Evenly spaced sequences of some chunks: the number of each chunk, and rows in it."""
    sizes = [shape[0] for shape in shapes]
    most = _MOST_POLE_INPUTS // max(math.prod(shape[1:]) for shape in shapes)
    count = min(sum(sizes), max(1, most))
    chosen = np.linspace(0, sum(sizes) - 1, count).round().astype(int)
    for number, end in enumerate(itertools.accumulate(sizes)):
        rows = chosen[(chosen >= end - sizes[number]) & (chosen < end)] - (end - sizes[number])
        if len(rows):
            yield number, rows


def _joined(chunks: Sequence[np.ndarray]) -> np.ndarray:
    """Chunks of sequences as one array, filled up with zeros to the longest one."""
    longest = max(chunk.shape[1] for chunk in chunks)
    return np.concatenate([
        np.pad(chunk, [(0, 0), (0, longest - chunk.shape[1]), *[(0, 0)] * (chunk.ndim - 2)])
        for chunk in chunks
    ])  # fmt: skip


def refit_linears(
    forward: BlockwiseForward, block: PyTree, grams: Sequence[Float[np.ndarray, "_Z _Z"]]
) -> PyTree:
    """Fit the linear maps of a block.

    Args:
        forward: block-wise forward pass of the model.
        block: the block.
        grams: moments of each linear map, from `linear_grams`.
    """
    linears = forward.linears(block)
    new = [
        linear.replaced(*refit_linear(gram, np.asarray(linear.weight, float), ridge=_LINEAR_RIDGE))
        for linear, gram in zip(linears, grams, strict=True)
    ]
    return eqx.tree_at(lambda b: list(forward.linears(b)), block, new)


def refit_model_head(
    forward: BlockwiseForward,
    model: PyTree,
    features: Float[np.ndarray, "records F"],
    outputs: Float[np.ndarray, "records m"],
    start: Float[np.ndarray, "F m"],
) -> PyTree:
    """Fit the head of a model such that `features` map to `outputs`.

    Args:
        forward: block-wise forward pass of the model.
        model: a model that has a head.
        features: inputs of the head.
        outputs: desired outputs.
        start: weights that the ridge pulls toward.
    """
    head = forward.head(model)
    assert head is not None
    head = head.replaced(*refit_head(features.astype(float), outputs, start))
    return eqx.tree_at(forward.head, model, head)


def _relative_error(
    moments: Moments, W: Float[np.ndarray, "n M T"], D: Float[np.ndarray, "n T T"]
) -> float:
    energy = float(moments.energy.sum())
    return float(moments.residual(W, D).sum()) / (energy if energy > 0 else 1.0)
