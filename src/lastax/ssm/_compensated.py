"""States of a recurrence as real arrays, each with its rounding error.

A recurrence in float32 rounds at every step. For slow eigenvalues these errors add up: with
`1 - |lam| = 1e-6` they reach 7e-4 of the state within 16,384 steps. A compensated state carries the
error of each rounding along and stays within 1e-7.
"""

from typing import NamedTuple

from jaxtyping import Float

from lastax._typing import Array
from lastax.ssm._powers import DoubleWord, multiply, multiply_double_word
from lastax.ssm._scan_methods import join_halves, split_halves


class RecurrentState(NamedTuple):
    """The states of one layer between two steps.

    Attributes:
        value: `P` real parts, then `P` imaginary parts, shape `(2 P,)`.
        error: what rounding has taken from `value`, shape `(2 P,)`. The exact state is about the
            sum of both. None if the state is not compensated.
    """

    value: Float[Array, " Q"]
    error: Float[Array, " Q"] | None


def advance(factor: DoubleWord, state: RecurrentState, b: Float[Array, " Q"]) -> RecurrentState:
    """One step of the recurrence, `factor * state + b`.

    Args:
        factor: split complex factor of each state and its rounding error, each shape `(P,)`.
        state: state before the step.
        b: driving input with split real and imaginary parts, shape `(2 P,)`.

    Returns:
        The next state.
    """
    value = split_halves(state.value)
    if state.error is None:
        return RecurrentState(join_halves(multiply(factor[0], value)) + b, None)
    product, error = multiply_double_word(factor, (value, split_halves(state.error)))
    return RecurrentState(*add_compensated(join_halves(product), join_halves(error), b))


def add_compensated(
    value: Float[Array, " Q"], error: Float[Array, " Q"], b: Float[Array, " Q"]
) -> tuple[Float[Array, " Q"], Float[Array, " Q"]]:
    """Add `b` to a sum of `value` and `error`. Knuth, TAOCP volume 2, section 4.2.2."""
    total = value + b
    added = total - value
    error = (value - (total - added)) + (b - added) + error
    result = total + error
    return result, error - (result - total)
