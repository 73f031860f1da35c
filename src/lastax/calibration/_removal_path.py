"""The order in which one layer loses its states."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool

from lastax.calibration._elimination import LayerPath, eliminate, merge_paths
from lastax.calibration._features import RegressionSystem, feedthrough_weights, state_slots
from lastax.calibration._moments import Moments


def removal_path(
    system: RegressionSystem,
    moments: Moments,
    unstable: Bool[np.ndarray, " S"],
    *,
    dense_feedthrough: bool = False,
) -> LayerPath:
    """Order the states of a layer by greedy elimination.

    Args:
        system: the system of the layer.
        moments: moments of its regression.
        unstable: states with `|lam| >= 1`. They are removed last, at infinite cost.
        dense_feedthrough: whether the refit will fit a dense `D`. Then the costs do not count what
            the inputs explain.
    """
    slots = state_slots(system)
    present = slots >= 0
    last = unstable[np.maximum(slots, 0)] & present
    D = feedthrough_weights(system)
    if dense_feedthrough:
        features, targets = moments.without_inputs(D)
    else:
        features, targets = moments.features, moments.targets_without(D)
    path = eliminate(features, targets, moments.width, present=present, last=last)
    removed_last = np.take_along_axis(last, np.maximum(path.order, 0), axis=1)
    costs = np.where(removed_last, np.inf, path.costs)
    path = dataclasses.replace(path, costs=costs)
    return merge_paths(path, slots, moments.energy.sum(axis=1))
