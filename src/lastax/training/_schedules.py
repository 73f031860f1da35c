"""Learning rate schedules."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Float, Int

from lastax._typing import Array

Schedule = Callable[[int | Int[Array, ""]], Float[Array, ""]]


def warmup_cosine_schedule(
    base: float,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int = 0,
    minimum: float = 0.0,
    anneal: bool = True,
) -> Schedule:
    """Linear warm-up, then a cosine to the end of the run.

    Step `t` of `w` warm-up steps has the rate `base (t + 1) / w`. Without `anneal` the rate stays
    at `base` after the warm-up.
    """
    warmup = steps_per_epoch * warmup_epochs
    decay = max(steps_per_epoch * epochs - warmup, 1)

    def rate(step: int | Array) -> Array:
        step = jnp.asarray(step)
        risen = base * (step + 1) / max(warmup, 1)
        fallen = _cosine(base, minimum, (step - warmup) / decay) if anneal else base
        return jnp.where(step < warmup, risen, fallen)

    return rate


def published_schedule(
    base: float,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int = 0,
    minimum: float = 0.0,
    anneal: bool = True,
) -> Schedule:
    """The rates of the published S5 and LAST training, step for step.

    Each rate is set after an update, so the first step runs at the full base rate and every later
    step at the rate of the step before. The cosine counts from step 0 over the epochs without
    warm-up: it starts partway down after the warm-up, and stays at `minimum` for the last
    `warmup_epochs` epochs.
    """
    warmup = steps_per_epoch * warmup_epochs
    decay = max(steps_per_epoch * (epochs - warmup_epochs), 1)

    def rate(step: int | Array) -> Array:
        previous = jnp.asarray(step) - 1
        risen = base * (previous + 1) / max(warmup, 1)
        fallen = _cosine(base, minimum, previous / decay) if anneal else base
        later = jnp.where(previous < warmup, risen, fallen)
        return jnp.where(previous < 0, base, later)

    return rate


SCHEDULES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {"warmup-cosine": warmup_cosine_schedule, "published": published_schedule}
)


def _cosine(base: float, minimum: float, progress: Array) -> Array:
    progress = jnp.clip(progress, 0.0, 1.0)
    return minimum + (base - minimum) * 0.5 * (1 + jnp.cos(math.pi * progress))
