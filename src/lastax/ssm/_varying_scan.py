"""The recurrence `x_k = lam_k * x_{k-1} + b_k` with factors that change from step to step."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Inexact

from lastax._typing import Array
from lastax.ssm._scan_methods import LONGEST_CHUNK


def varying_scan(
    lam: Inexact[Array, "L P"],
    b: Inexact[Array, "L P"],
    *,
    initial: Inexact[Array, " P"] | None = None,
    reset: Bool[Array, " L"] | None = None,
) -> Inexact[Array, "L P"]:
    """All states of the recurrence `x_k = lam_k * x_{k-1} + b_k`.

    Steps are computed in parallel within pieces of up to 128 steps, and the pieces in order. Long
    products of factors would be less precise.

    Args:
        lam: factor of each state at each step, shape `(L, P)`.
        b: driving input, shape `(L, P)`.
        initial: state before the first step, shape `(P,)`; zero by default.
        reset: true for each step before which the state becomes zero, shape `(L,)`. Values before
            a reset have no effect after it, even if they are not finite.

    Returns:
        The states, shape `(L, P)`.
    """
    length, steps = b.shape[0], min(LONGEST_CHUNK, max(b.shape[0], 1))
    starts = jnp.zeros((length, 1), bool) if reset is None else reset[:, None]
    pieces = jax.tree.map(lambda x: _cut(x, steps), (lam, b, starts))
    factors, states, cleared = jax.lax.associative_scan(_join, pieces, axis=1)

    def follow(state: Array, piece: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        factors, states, cleared = piece
        states = states + jnp.where(cleared, 0, factors * state[None])
        return states[-1], states

    before = jnp.zeros(b.shape[1:], b.dtype) if initial is None else initial.astype(b.dtype)
    _, states = jax.lax.scan(follow, before, (factors, states, cleared))
    return states.reshape(states.shape[0] * steps, b.shape[1])[:length]


def _join(
    earlier: tuple[Array, Array, Array], later: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    factor, state, cleared = earlier
    next_factor, next_state, next_cleared = later
    carried = jnp.where(next_cleared, 0, next_factor * state)
    return next_factor * factor, carried + next_state, cleared | next_cleared


def _cut(x: Array, steps: int) -> Array:
    """`(L, F)` as `(n, steps, F)`, filled with zeros at the end."""
    x = jnp.pad(x, ((0, -x.shape[0] % steps), (0, 0)))
    return x.reshape(x.shape[0] // steps, steps, x.shape[1])
