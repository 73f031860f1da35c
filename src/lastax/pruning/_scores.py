"""Scores: one number per state. States with the lowest scores are removed first."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from lastax._typing import Array, PRNGKeyArray
from lastax.analysis._balancing import Gramians, hankel_singular_values
from lastax.analysis._state_norms import (
    finite_horizon_hinf_norms,
    hinf_norms,
    impulse_energies,
    magnitudes,
    published_squared_hinf_norms,
)
from lastax.ssm._multi_siso import AnySystem, MultiSISO, channel_systems


def layer_adaptive(squared: Float[Array, " P"]) -> Float[Array, " P"]:
    """Each square divided by the sum of itself and all larger squares of its layer.

    In ascending order this is `s_i / (s_i + s_{i+1} + ... + s_P)`: the share of a state in the sum
    that remains once all smaller ones are removed. The largest square scores 1, so a global
    ranking never empties a layer. Of equal squares the earlier one scores less. Infinity scores
    infinity and does not affect the others. Lee et al., LAMP, ICLR 2021, equation 3.
    """
    xp = squared.__array_namespace__()
    unbounded = xp.isinf(squared)
    finite = xp.where(unbounded, 0.0, squared)
    order = xp.argsort(finite, stable=True)
    ascending = finite[order]
    remaining = xp.flip(xp.cumsum(xp.flip(ascending)))
    nonzero = remaining != 0
    share = xp.where(nonzero, ascending / xp.where(nonzero, remaining, 1.0), 0.0)
    return xp.where(unbounded, xp.inf, share[xp.argsort(order, stable=True)])


def last_scores(system: AnySystem) -> Float[Array, " P"]:
    """LAST: squared H-infinity norms, layer-adaptive. Gwak et al., NeurIPS 2024, equation 9."""
    return layer_adaptive(hinf_norms(system) ** 2)


def last_per_channel_scores(system: AnySystem) -> Float[Array, " P"]:
    """LAST normalized inside each channel instead of inside the whole layer.

    Every channel of a `MultiSISO` then has a state that scores 1. For a `System` this is LAST.
    """
    squared = hinf_norms(system) ** 2
    if not isinstance(system, MultiSISO):
        return layer_adaptive(squared)
    xp = squared.__array_namespace__()
    edges = itertools.accumulate(system.counts, initial=0)
    parts = [squared[start:end] for start, end in itertools.pairwise(edges)]
    return xp.concat([layer_adaptive(part) for part in parts if len(part)])


def aire_scores(system: AnySystem) -> Float[Array, " P"]:
    """AIRE: impulse-response energies, layer-adaptive. AIRE-Prune, ICLR 2026."""
    return layer_adaptive(impulse_energies(system))


def finite_horizon_last_scores(system: AnySystem, length: int) -> Float[Array, " P"]:
    """LAST with the gain that each state can reach within `length` steps."""
    return layer_adaptive(finite_horizon_hinf_norms(system, length) ** 2)


def published_last_scores(system: AnySystem) -> Float[Array, " P"]:
    """LAST as its published code computes it (`published_squared_hinf_norms`)."""
    return layer_adaptive(published_squared_hinf_norms(system))


def lamp_scores(system: AnySystem) -> Float[Array, " P"]:
    """LAMP: squared parameter magnitudes, layer-adaptive. Lee et al., ICLR 2021, per state."""
    return layer_adaptive(magnitudes(system) ** 2)


def random_scores(system: AnySystem, *, key: PRNGKeyArray) -> Float[Array, " P"]:
    """Independent uniform random numbers: the baseline for all scores."""
    return jax.random.uniform(key, (system.states,))


def hankel_scores(system: AnySystem, *, gramians: Gramians | None = None) -> Float[Array, " P"]:
    """Squared Hankel singular values, layer-adaptive: the score of each rank, highest first.

    An entry belongs to a rank of the balanced system, not to a state of `system`;
    `balanced_truncation` creates the states. A state holds two real dimensions, so its square is
    the mean of their squared singular values. In a `MultiSISO` ranks are per channel, and the
    whole layer is normalized together.

    Args:
        system: a stable system, on the host.
        gramians: controllability Gramians of real data; of white noise if omitted.

    Raises:
        ValueError: if a state has `|lam| >= 1`.
    """
    parts = channel_systems(system) if isinstance(system, MultiSISO) else [system]
    found: Sequence[Float[np.ndarray, "n n"] | None]
    found = [None] * len(parts) if gramians is None else gramians
    squares = [
        (hankel_singular_values(part, gramian=gramian) ** 2).reshape(-1, 2).mean(axis=1)
        for part, gramian in zip(parts, found, strict=True)
        if part.states
    ]
    # Of equal values `layer_adaptive` scores the last highest; here the first rank comes first.
    return layer_adaptive(np.concatenate(squares)[::-1])[::-1]  # type: ignore[arg-type]
