"""Calibration: one forward pass of unlabeled data, and the moments that it gives."""

from __future__ import annotations

import dataclasses
import functools
import operator
import warnings

import numpy as np
from jaxtyping import Bool, Float, PyTree

from lastax._typing import Batch, OnProgress, silent
from lastax.calibration._accumulation import layer_moments
from lastax.calibration._allocation import Curve
from lastax.calibration._block_refit import refit_layer
from lastax.calibration._blockwise_pass import BlockwisePass, blockwise_pass, layer_of
from lastax.calibration._chunks import CalibrationBatches
from lastax.calibration._elimination import LayerPath
from lastax.calibration._features import RegressionSystem, feedthrough_states, state_slots
from lastax.calibration._forward_check import check_forward
from lastax.calibration._moments import Moments
from lastax.calibration._probe import outputs_from, probe_curve
from lastax.calibration._removal_path import removal_path
from lastax.calibration._report import Divergence, mean_kl_divergence
from lastax.nn._blockwise import BlockwiseForward, HiddenStates
from lastax.nn._layer import Layer
from lastax.surgery._layers import UnstableStatesWarning, find_layers, layer_identity
from lastax.surgery._reading import float32_system, host_system


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What one pass of calibration data through a model measured. Created by `calibrate`.

    Pass it to `refit` or `prune` in place of the data; one `Calibration` serves any number of
    sizes. `paths` and `probe_curves` are computed when they are first needed.

    Attributes:
        data: the model, its block-wise forward pass and the calibration data.
        moments: moments of each block's layer, in the order of the forward pass. Inputs and targets
            are those of the original model. `layer_moments` has the order of the layers.
        unstable: one mask per block, in the same order: states with `|lam| >= 1`.
        outputs: outputs of the original model, shape `(records, m)`.
        dense_feedthrough: whether refits fit a dense `D`.
        divergence: distance between original and reduced outputs.
        on_progress: called with a description of each part of the work.
    """

    data: BlockwisePass
    moments: list[Moments]
    unstable: list[Bool[np.ndarray, " _"]]
    outputs: Float[np.ndarray, "records m"]
    dense_feedthrough: bool = False
    divergence: Divergence = mean_kl_divergence
    on_progress: OnProgress = silent

    @property
    def model(self) -> PyTree:
        """The original model."""
        return self.data.model

    @property
    def batches(self) -> list[Batch]:
        """The calibration data, without labels."""
        return [chunk.batch for chunk in self.data.chunks]

    @property
    def sizes(self) -> list[int]:
        """Number of states of each layer."""
        return [len(mask) for mask in self.unstable]

    @property
    def layer_numbers(self) -> list[int]:
        """For each block the index of its layer in `find_layers(model)`."""
        layers = [layer_identity(layer) for layer in find_layers(self.model)]
        return [layers.index(layer_identity(layer_of(block))) for block in self.data.blocks]

    def blocks_of_layers(self, function: str) -> list[list[int]]:
        """For each layer, in the order of `find_layers`, the blocks that hold it; several if tied.

        Raises:
            ValueError: if no block holds a layer. The message begins with `function`.
        """
        numbers = self.layer_numbers
        blocks = [
            [block for block, number in enumerate(numbers) if number == layer]
            for layer in range(len(find_layers(self.model)))
        ]
        missing = [layer for layer, held in enumerate(blocks) if not held]
        if missing:
            raise ValueError(
                f"{function}: forward.blocks leaves out layers {missing} of "
                "lastax.find_layers(model); return every block that holds a layer"
            )
        return blocks

    @property
    def layer_moments(self) -> list[Moments]:
        """Moments of each layer in the order of `find_layers`, over all blocks that hold it."""
        return [
            functools.reduce(operator.add, [self.moments[block] for block in blocks])
            for blocks in self.blocks_of_layers("Calibration.layer_moments")
        ]

    @functools.cached_property
    def systems(self) -> list[RegressionSystem]:
        """The systems of the layers, in the precision of the model."""
        return [float32_system(layer_of(block)) for block in self.data.blocks]

    @property
    def feedthrough_states(self) -> list[int]:
        """Number of states per layer that the weights of a new dense `D` count as."""
        if not self.dense_feedthrough:
            return [0] * len(self.systems)
        return [feedthrough_states(system) for system in self.systems]

    @functools.cached_property
    def paths(self) -> list[LayerPath]:
        """Order of elimination of each layer, with inputs from the original model."""
        paths = []
        for index, moments in enumerate(self.moments):
            self.report_progress("ordering states of", index)
            paths.append(self.path(index, moments))
        return paths

    def path(self, index: int, moments: Moments) -> LayerPath:
        """Order of elimination of one layer for given moments."""
        return removal_path(
            self.systems[index],
            moments,
            self.unstable[index],
            dense_feedthrough=self.dense_feedthrough,
        )

    @functools.cached_property
    def probe_curves(self) -> list[Curve]:
        """For each layer and size: divergence of the outputs if only this layer is cut to it."""
        inputs, curves = self.data.enter(), []
        for index, block in enumerate(self.data.blocks):
            self.report_progress("probing", index)
            curves.append(self._probe_curve(index, inputs))
            inputs = self.data.block_outputs(block, inputs)
        return curves

    def _probe_curve(self, index: int, inputs: list[HiddenStates]) -> Curve:
        block, *rest = self.data.blocks[index:]
        moments, path = self.moments[index], self.paths[index]
        dense = self.dense_feedthrough

        def cost(size: int) -> float:
            cut, _ = refit_layer(block, moments, path.keep(size), dense_feedthrough=dense)
            outputs = outputs_from(self.data, [cut, *rest], inputs)
            return max(self.divergence(self.outputs, outputs), 0.0)

        return probe_curve(len(path.order), cost)

    def report_progress(self, doing: str, index: int) -> None:
        """Call `on_progress` with a description of the work on one layer."""
        self.on_progress(_describe(doing, index, len(self.unstable)))


def calibrate(
    model: PyTree,
    batches: CalibrationBatches,
    *,
    dense_feedthrough: bool = False,
    forward: BlockwiseForward | None = None,
    divergence: Divergence = mean_kl_divergence,
    on_progress: OnProgress = silent,
) -> Calibration:
    """Pass calibration data through a model and collect what refits need.

    `refit(model, calibration, ...)` and `prune(model, calibration=calibration, ...)` accept the
    result in place of the data. Use it to try several sizes with one pass.

    Args:
        model: a `Classifier` or `Retrieval`; with `forward=`, any model.
        batches: unlabeled calibration data, as for `refit`.
        dense_feedthrough: whether refits fit a dense `D`, whose weights count as states.
        forward: block-wise forward pass of a model of another class.
        divergence: distance between original and reduced outputs, for the probe and the report.
        on_progress: called with a description of each part of the work.

    Raises:
        ValueError: if the data are empty or not finite, or a layer cannot have a
            dense `D`.
    """
    return measure(
        "calibrate",
        model,
        batches,
        dense_feedthrough=dense_feedthrough,
        forward=forward,
        divergence=divergence,
        on_progress=on_progress,
    )


def measure(
    function: str,
    model: PyTree,
    batches: CalibrationBatches,
    *,
    dense_feedthrough: bool = False,
    forward: BlockwiseForward | None = None,
    divergence: Divergence = mean_kl_divergence,
    on_progress: OnProgress = silent,
) -> Calibration:
    """`calibrate` on behalf of `function`, the function that errors and warnings name."""
    data = blockwise_pass(function, model, batches, forward)
    check_forward(function, data)
    blocks = data.blocks
    for index, block in enumerate(blocks):
        if dense_feedthrough:
            _check_one_system(f"{function}: layer {index}", layer_of(block))
    unstable = [
        np.abs(host_system(function, index, layer_of(block)).lam) >= 1
        for index, block in enumerate(blocks)
    ]
    inputs, moments = data.enter(), []
    for index, block in enumerate(blocks):
        on_progress(_describe("measuring", index, len(blocks)))
        moments.append(layer_moments(f"{function}: layer {index}", data.forward, block, inputs))
        inputs = data.block_outputs(block, inputs)
    if any(mask.any() for mask in unstable):
        where = [np.flatnonzero(mask).tolist() for mask in unstable]
        warnings.warn(
            f"{function}: states with |lam| >= 1 are removed last, per layer: {where}",
            UnstableStatesWarning,
            stacklevel=3,
        )
    outputs = data.outputs(inputs)
    return Calibration(data, moments, unstable, outputs, dense_feedthrough, divergence, on_progress)


def _check_one_system(name: str, layer: Layer) -> None:
    if len(state_slots(float32_system(layer))) > 1:
        raise ValueError(
            f"{name}: a dense D would mix channels, but {type(layer).__name__} has one system per "
            "channel; leave dense_feedthrough=False"
        )


def _describe(doing: str, index: int, layers: int) -> str:
    return f"{doing} layer {index}, of {layers}"
