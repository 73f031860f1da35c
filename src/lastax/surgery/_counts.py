"""Numbers of states that remain, in exact integer arithmetic."""

import numbers
from fractions import Fraction

import numpy as np

Ratio = float | int | Fraction


def keep_count(total: int, ratio: Ratio, *, at_least: int = 1) -> int:
    """Number of states that remain when a share of them is removed.

    `floor((1 - ratio) total)`, computed exactly from the decimal representation of `ratio`. A ratio
    of 0.9 keeps 3 of 30 states, where binary floating point would give 2.

    Args:
        total: number of states.
        ratio: share of the states to remove, in [0, 1).
        at_least: smallest result.

    Raises:
        ValueError: unless `0 <= ratio < 1`.
    """
    return _keep_count("keep_count", total, ratio, at_least)


def requested_count(
    function: str, total: int, layers: int, ratio: Ratio | None, states: int | None
) -> int:
    """Number of states to keep, from the arguments `ratio=` or `states=` of `function`.

    Every layer keeps at least one state.

    Raises:
        ValueError: naming `function`, unless exactly one of the two is given and possible.
    """
    if (ratio is None) == (states is None):
        raise ValueError(f"{function}: pass exactly one of ratio= and states=")
    if states is None:
        assert ratio is not None
        return _keep_count(function, total, ratio, layers)
    states = checked_count(function, states)
    if not layers <= states <= total:
        raise ValueError(
            f"{function}: states must be between {layers} (one per layer) and {total} (all), "
            f"got {states}"
        )
    return states


def checked_count(function: str, states: object) -> int:
    """A number of states, as an integer.

    Raises:
        ValueError: naming `function`, if it is of another type.
    """
    if not isinstance(states, int | np.integer):
        raise ValueError(f"{function}: states must be an integer, got {states!r}")
    return int(states)


def _keep_count(function: str, total: int, ratio: Ratio, at_least: int) -> int:
    if not isinstance(ratio, numbers.Real) or not 0 <= ratio < 1:
        raise ValueError(f"{function}: ratio must be in [0, 1), got {ratio!r}")
    exact = ratio if isinstance(ratio, Fraction) else Fraction(str(ratio))
    return max(int((1 - exact) * total), at_least)
