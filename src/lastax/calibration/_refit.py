"""Pruning with a closed-form refit."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool

from lastax._typing import Model, OnProgress, silent
from lastax.calibration._blockwise_pass import check_untied
from lastax.calibration._budgets import Budget, distribute_states, find_budget
from lastax.calibration._calibration import Calibration, measure
from lastax.calibration._chunks import CalibrationBatches
from lastax.calibration._refit_pass import Choice, cut_and_refit
from lastax.calibration._report import Divergence, RefitReport, mean_kl_divergence
from lastax.nn._blockwise import BlockwiseForward
from lastax.surgery._counts import Ratio, checked_count, requested_count
from lastax.surgery._states import writable_layers


def refit(
    model: Model,
    data: CalibrationBatches | Calibration,
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    keep: Sequence[Bool[np.ndarray, " _"]] | None = None,
    budget: str | Budget = "probe",
    minimum: int | np.integer | Sequence[int] = 1,
    maximum: Sequence[int] | None = None,
    linear_maps: bool = True,
    poles: bool = True,
    dense_feedthrough: bool = False,
    forward: BlockwiseForward | None = None,
    divergence: Divergence = mean_kl_divergence,
    on_progress: OnProgress = silent,
) -> tuple[Model, RefitReport]:
    """Remove states by greedy elimination and fit the remaining ones to the original outputs.

    The refit changes `C` and `D` of each layer, and the eigenvalues of layers with one system per
    channel (S4D). Eigenvalues of other layers and `B` stay. It needs no labels and no gradients. On
    the calibration data the error of a layer is never larger than without the refit.

    Args:
        model: a `Classifier` or `Retrieval`; with `forward=`, any model.
        data: calibration data, one batch or several, or a `Calibration`. Keys of a batch: `x`;
            `length` if sequences are padded; `weight`, 0 for rows that only fill the batch up. An
            array stands for `{"x": array}`. Labels are not used. Take training data: 16 to 64
            sequences are enough for the layers, the head benefits from some hundreds.
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in total.
        keep: or one mask per layer, in the order of `find_layers`, to refit states that were chosen
            otherwise (`plan_pruning`).
        budget: how the states are distributed over the layers: a name in `BUDGETS`, or a function
            of a `BudgetContext`.
        minimum: least number of states per layer, in the same order, or one number for all layers.
        maximum: largest number of states per layer. A layer with equal minimum and maximum is
            fixed.
        linear_maps: whether to refit the linear maps of the gates and the head too.
        poles: whether to fit the eigenvalues of the remaining states of stable unidirectional
            layers with one system per channel, too. Channels that keep more than 8 states keep
            their eigenvalues.
        dense_feedthrough: whether to fit a dense `D`. Its weights count as states
            (`feedthrough_states` per layer), so fewer states remain, except with `keep`.
        forward: block-wise forward pass of a model of another class.
        divergence: distance between original and reduced outputs, both of shape `(n, m)`, for the
            probe and the report. The default is the mean of `KL(original || reduced)` of class
            probabilities in nats. If the outputs are not logits, pass another function, for example
            their mean squared difference.
        on_progress: called with a description of each part of the work.

    If `data` is a `Calibration`, it determines the last four arguments; do not pass them.

    Returns:
        The smaller model and a report.

    Raises:
        ValueError: unless exactly one of `ratio`, `states` and `keep` is given and possible; if
            the data are empty or not finite; if the `Calibration` is of another model.
    """
    if sum(amount is not None for amount in (ratio, states, keep)) != 1:
        raise ValueError("refit: pass exactly one of ratio=, states= and keep=")
    find_budget("refit", budget)
    if isinstance(data, Calibration):
        options = (dense_feedthrough, forward, divergence, on_progress)
        if options != (False, None, mean_kl_divergence, silent):
            raise ValueError(
                "refit: a Calibration determines dense_feedthrough, forward, divergence and "
                "on_progress; pass them to calibrate"
            )
        calibration = data
    else:
        calibration = measure(
            "refit",
            model,
            data,
            dense_feedthrough=dense_feedthrough,
            forward=forward,
            divergence=divergence,
            on_progress=on_progress,
        )
    if calibration.data.given is not model:
        raise ValueError("refit: the Calibration is of another model; call calibrate for this one")
    check_untied("refit", calibration.data)
    writable_layers("refit", calibration.data.blocks)
    blocks = [held[0] for held in calibration.blocks_of_layers("refit")]
    numbers = calibration.layer_numbers
    sizes = calibration.sizes
    choices: Sequence[Choice]
    if keep is not None:
        masks = _checked_masks(keep, [sizes[block] for block in blocks])
        choices = [masks[number] for number in numbers]
    else:
        if states is None:
            total = requested_count("refit", sum(sizes), len(sizes), ratio, None)
        else:
            total = checked_count("refit", states)
        choices = distribute_states(
            calibration,
            total,
            budget=budget,
            minimum=_by_block(minimum, numbers),
            maximum=_by_block(maximum, numbers),
        )
    small, report = cut_and_refit(calibration, choices, linear_maps=linear_maps, poles=poles)
    layers = [report.layers[block] for block in blocks]
    return small, dataclasses.replace(report, layers=layers)


Limit = TypeVar("Limit")


def _by_block(limits: Limit, numbers: list[int]) -> Limit | list[int]:
    """Limits per layer in the order of the blocks; `distribute_states` checks their number."""
    if not isinstance(limits, Sequence) or len(limits) != len(numbers):
        return limits
    return [limits[number] for number in numbers]


def _checked_masks(
    keep: Sequence[Bool[np.ndarray, " _"]], sizes: list[int]
) -> list[Bool[np.ndarray, " _"]]:
    lengths = [len(mask) for mask in keep]
    wrong = [index for index, mask in enumerate(keep) if np.asarray(mask).dtype != bool]
    if wrong:
        raise ValueError(f"refit: keep must hold boolean masks; those of layers {wrong} are not")
    if lengths != sizes:
        raise ValueError(
            f"refit: keep must hold one mask per layer, of {sizes} states, got masks of {lengths}"
        )
    empty = [index for index, mask in enumerate(keep) if not np.any(mask)]
    if empty:
        raise ValueError(f"refit: keep must leave a state in each layer; layers {empty} lose all")
    return [np.asarray(mask) for mask in keep]
