"""How many states a model needs, and which method needs the fewest: a search by accuracy."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lastax.pruning._reducer import Reducer
from lastax.surgery._states import expand_to_original

# Methods that `search_method` compares by default.
AUTO_METHODS = ("calibrated", "last-refitted", "empirical-balanced", "last-finite-horizon")

# Accuracies are ratios of counts; the margin covers their rounding.
_MARGIN = 1e-7


class Trial(NamedTuple):
    """One reduced model of a search.

    Attributes:
        method: name of the method.
        states: number of states kept.
        accuracy: accuracy of the reduced model, from 0 to 1.
        loss: accuracy lost to the unpruned model, in percentage points.
    """

    method: str
    states: int
    accuracy: float
    loss: float


def search_method(
    reducer: Reducer,
    accuracy: Callable[[Any], float],
    *,
    methods: Sequence[str] = AUTO_METHODS,
    max_loss: float | int | None = None,
    states: int | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    on_failure: Callable[[str, ValueError], None] = lambda method, error: None,
) -> Trial:
    """The method that keeps the fewest states; of equals, the most accurate one.

    For each method the number of states is found by bisection: one that loses at most `max_loss`,
    while one state less loses more. Accuracy does not fall evenly, so a smaller number may be
    acceptable too.

    Args:
        reducer: the model, its calibration data and settings.
        accuracy: accuracy of a model on validation data, from 0 to 1. Reduced models are passed at
            the original shapes (`expand_to_original`), so that they share one compiled program.
        methods: names in `METHODS`.
        max_loss: accuracy that may be lost, in percentage points.
        states: or a fixed number of states to keep; the most accurate method wins.
        on_trial: called after each reduced model.
        on_failure: called with a method that does not suit the model, and the reason.

    Raises:
        ValueError: unless exactly one of `max_loss` and `states` is given, or if no method suits
            the model.
    """
    if (max_loss is None) == (states is None):
        raise ValueError("search_method: pass exactly one of max_loss= and states=")
    original = accuracy(reducer.model)
    total = sum(system.states for system in reducer.systems)

    @functools.cache
    def attempt(method: str, count: int) -> Trial:
        reduction = reducer.reduce(method, states=count)
        full = expand_to_original(reducer.model, reduction.model, reduction.keep)
        reached = accuracy(full)
        trial = Trial(method, count, reached, 100 * (original - reached))
        on_trial(trial)
        return trial

    def best_of(method: str) -> Trial:
        if states is not None:
            return attempt(method, states)
        assert max_loss is not None
        limit = max_loss + _MARGIN
        low = len(reducer.systems) + reducer.feedthrough_states
        return attempt(method, _fewest(low, total, lambda n: attempt(method, n).loss <= limit))

    found: list[Trial] = []
    failures: list[str] = []
    for method in methods:
        try:
            found.append(best_of(method))
        except ValueError as error:
            failures.append(f"{method}: {error}")
            on_failure(method, error)
    if not found:
        raise ValueError(f"search_method: no method suits the model ({'; '.join(failures)})")
    return min(found, key=lambda trial: (trial.states, trial.loss))


def _fewest(low: int, high: int, acceptable: Callable[[int], bool]) -> int:
    """By bisection, a number that is acceptable while one less is not; `high` always is."""
    while low < high:
        middle = (low + high) // 2
        if acceptable(middle):
            high = middle
        else:
            low = middle + 1
    return high
