"""Pruning in one call."""

import warnings

import numpy as np

from lastax._typing import Model, PRNGKeyArray
from lastax.nn._blockwise import BlockwiseForward
from lastax.pruning._methods import Method
from lastax.pruning._reducer import CalibrationData, Reducer
from lastax.surgery._counts import Ratio
from lastax.surgery._layers import UnstableStatesWarning


def prune(
    model: Model,
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    method: str | Method | None = None,
    length: int | None = None,
    key: PRNGKeyArray | None = None,
    calibration: CalibrationData | None = None,
    forward: BlockwiseForward | None = None,
) -> Model:
    """Remove the least important states of a model; its arrays become smaller.

    `prune(model, ratio=0.3)` removes 30 % of all states by LAST and leaves everything else as it
    is. `prune(model, ratio=0.8, calibration=batch)` chooses the states by their effect on real
    data and refits the remaining ones; `refit` does the same with more options and a report.
    States with `|lam| >= 1` have no finite norm: they are kept, with a warning.

    Args:
        model: any PyTree that contains layers (`find_layers`).
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in total.
        method: a name in `METHODS`, or a `Method`. Default: "calibrated" with calibration data,
            "last" without.
        length: number of steps of the task's sequences, for "last-finite-horizon".
        key: random key, for "random".
        calibration: unlabeled data, as `refit` takes them, or the result of `calibrate`.
        forward: the forward pass of a model that is not one of lastax's networks; only methods
            that use calibration data need it.

    Returns:
        A model of the same type.

    Raises:
        ValueError: unless exactly one of `ratio` and `states` is given and possible, or if the
            method needs an argument that is missing.
    """
    if method is None:
        method = "last" if calibration is None else "calibrated"
    reducer = Reducer(model, calibration, length=length, key=key, forward=forward, function="prune")
    reduction = reducer.reduce(method, ratio=ratio, states=states)
    # `calibrate` warns by itself.
    if reduction.report is None and any(np.any(mask) for mask in reduction.unstable):
        where = [np.flatnonzero(mask).tolist() for mask in reduction.unstable]
        warnings.warn(
            f"prune: states with |lam| >= 1 have no finite norm and are kept, per layer: {where}",
            UnstableStatesWarning,
            stacklevel=2,
        )
    return reduction.model
