"""A system whose step size changes from step to step."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float

from lastax._typing import Array
from lastax.nn._channel_recurrence import make_recurrence
from lastax.ssm._multi_siso import AnySystem
from lastax.ssm._step_sizes import StepSizes


def apply_per_step(
    system: AnySystem,
    sizes: StepSizes | None,
    u: Float[Array, "L H"],
    step_rescale: Float[Array, " L"],
) -> Float[Array, "L H"]:
    """Apply a system to one sequence from the zero state, with one step size per step.

    Args:
        system: the system for the nominal step size, unidirectional or bidirectional.
        sizes: how it depends on the step size.
        u: input, shape `(L, H)`.
        step_rescale: factor on the step sizes at each step, shape `(L,)`. A step has the same size
            in both directions of time.

    Returns:
        Output, shape `(L, H)`.
    """
    forward = make_recurrence(dataclasses.replace(system, C_reverse=None), sizes)
    y = forward.chunk(forward.init(), u, step_rescale=step_rescale)[1]
    if system.C_reverse is None:
        return y
    backward = make_recurrence(
        dataclasses.replace(system, C=system.C_reverse, C_reverse=None, D=jnp.zeros_like(system.D)),
        sizes,
    )
    reverse = backward.chunk(backward.init(), u[::-1], step_rescale=step_rescale[::-1])[1]
    return y + reverse[::-1]
