"""TODO calibration._refit."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from lastax._typing import Model, OnProgress, silent
from lastax.calibration._budgets import Budget
from lastax.calibration._calibration import calibrate, check_amount
from lastax.calibration._records import Batch
from lastax.calibration._report import Divergence, RefitReport, mean_kl_divergence
from lastax.nn._blockwise import BlockwiseForward
from lastax.surgery._counts import Ratio


def refit(
    model: Model,
    batches: Batch | Iterable[Batch],
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    keep: Sequence[Bool[np.ndarray, " _"]] | None = None,
    budget: str | Budget = "probe",
    minimum: int | Sequence[int] = 1,
    maximum: Sequence[int] | None = None,
    linear_maps: bool = True,
    dense_feedthrough: bool = False,
    forward: BlockwiseForward | None = None,
    divergence: Divergence = mean_kl_divergence,
    on_progress: OnProgress = silent,
) -> tuple[Model, RefitReport]:
    """Remove states, chosen greedily, and fit what is left to do what the whole network did.

    In each layer `C` and `D` change, poles and `B` of the states that stay do not. A layer that
    loses nothing and whose input is as it was stays as it is, bit for bit. On the calibration data
    no layer answers worse than it would if its states were only cut.

    `calibrate(model, batches).refit(...)` is the same; it serves many budgets with one pass.

    Args:
        model: a `Classifier` or `Retrieval`, or with `forward` any model.
        batches: calibration data, one batch or several: arrays `x`, `length` where sequences are
            padded, `weight` with 0 for rows that only fill up. Labels are not looked at. Training
            data; 16 to 64 sequences serve the layers, the head gains from some hundreds.
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in all.
        keep: or a mask a block, to refit states that were chosen otherwise (`plan_pruning`).
        budget: how many states each layer keeps: a name in `BUDGETS`, or a function of a
            `BudgetContext`.
        minimum: least number of states of each layer, or one number for all.
        maximum: most states of each layer. Equal to the minimum it fixes the layer.
        linear_maps: also refit the linear maps of the gates and the head, with no change of shape.
        dense_feedthrough: fit `D` from every input to every output. Its weights count as states
            (`feedthrough_states` a layer), of which so many fewer stay; not so with `keep`.
        forward: how data pass a model of another kind.
        divergence: how far outputs are from the original ones, for the probe and the report.
        on_progress: called with a description of each part of the work.

    Returns:
        The smaller model, and what was done.

    Raises:
        ValueError: unless exactly one of `ratio`, `states` and `keep` is given and possible, or if
            the calibration data are empty or not finite.
    """
    check_amount(ratio, states, keep)
    calibration = calibrate(
        model,
        batches,
        dense_feedthrough=dense_feedthrough,
        forward=forward,
        divergence=divergence,
        on_progress=on_progress,
    )
    return calibration.refit(
        ratio=ratio,
        states=states,
        keep=keep,
        budget=budget,
        minimum=minimum,
        maximum=maximum,
        linear_maps=linear_maps,
    )
