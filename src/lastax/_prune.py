"""Pruning in one call: score every state, select, and take the others out."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from lastax._balance import balanced_truncation, hankel_scores
from lastax._multi_siso import AnySystem, MultiSISO
from lastax._norms import hinf_norms, magnitudes
from lastax._scores import (
    aire_scores,
    finite_horizon_last_scores,
    lamp_scores,
    last_per_channel_scores,
    last_scores,
    published_last_scores,
    random_scores,
)
from lastax._selection import Masks, Ratio, Scores, keep_count, select_global, select_uniform
from lastax._surgery import (
    Layer,
    Model,
    WritableLayer,
    find_layers,
    keep_states,
    replace_layers,
    systems,
    write_systems,
)
from lastax._typing import Array, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class ScoreContext:
    """What a score may need beside the system: the task's sequence length, a random key."""

    length: int | None = None
    key: PRNGKeyArray | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to prune: a score of each state, and a rule that turns all scores into masks.

    With `reduce` the masks say how many states stay, in each channel if there are channels, and
    `reduce` makes them from the system: they are others than those of before.
    """

    score: Callable[[AnySystem, ScoreContext], Array]
    select: Callable[[Scores, int], Masks]
    summary: str
    reduce: Callable[[AnySystem, np.ndarray], AnySystem] | None = None


class UnstableStatesWarning(UserWarning):
    """Some states have `|lam| >= 1`: no finite norm. They are kept."""


def _horizon_score(system: AnySystem, given: ScoreContext) -> Array:
    if given.length is None:
        raise ValueError("finite-horizon LAST needs the length of the sequences: give length=")
    return finite_horizon_last_scores(system, given.length)


def _random_score(system: AnySystem, given: ScoreContext) -> Array:
    if given.key is None:
        raise ValueError("random pruning needs a key: give key=jax.random.key(seed)")
    return random_scores(system, key=given.key)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "random": Method(_random_score, select_global, "uniform random numbers"),
        "uniform-magnitude": Method(
            lambda system, _: magnitudes(system),
            select_uniform,
            "|lam| ||B|| ||C||, the same share of every layer",
        ),
        "global-magnitude": Method(
            lambda system, _: magnitudes(system),
            select_global,
            "|lam| ||B|| ||C|| over all layers",
        ),
        "lamp": Method(
            lambda system, _: lamp_scores(system),
            select_global,
            "squared magnitudes, normalized inside each layer",
        ),
        "uniform-hinf": Method(
            lambda system, _: hinf_norms(system),
            select_uniform,
            "H-infinity norms, the same share of every layer",
        ),
        "global-hinf": Method(
            lambda system, _: hinf_norms(system),
            select_global,
            "H-infinity norms over all layers",
        ),
        "last": Method(
            lambda system, _: last_scores(system),
            select_global,
            "squared H-infinity norms, normalized inside each layer",
        ),
        "last-finite-horizon": Method(
            _horizon_score,
            select_global,
            "LAST on what the task's sequence length lets a state reach",
        ),
        "last-per-channel": Method(
            lambda system, _: last_per_channel_scores(system),
            select_global,
            "LAST normalized inside each channel (S4D; elsewhere the same as LAST)",
        ),
        "last-published": Method(
            lambda system, _: published_last_scores(system),
            select_global,
            "LAST as its published code computes it, for comparison",
        ),
        "aire": Method(
            lambda system, _: aire_scores(system),
            select_global,
            "impulse-response energies, normalized inside each layer",
        ),
        "balanced": Method(
            lambda system, _: hankel_scores(system),
            select_global,
            "balanced truncation: new states, from squared Hankel singular values",
            reduce=balanced_truncation,
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class PruningPlan:
    """What a method decided: a score and a mask a layer, and which states are unstable.

    `systems` are what the layers become, where the states that stay are not those of before.
    """

    scores: list[Float[np.ndarray, " _"]]
    keep: list[Bool[np.ndarray, " _"]]
    unstable: list[Bool[np.ndarray, " _"]]
    systems: list[AnySystem] | None = None

    def apply(self, model: Model) -> Model:
        """The model that was planned: smaller arrays, everything else unchanged."""
        small = keep_states(model, self.keep)
        return small if self.systems is None else write_systems(small, self.systems)

    @property
    def states_before(self) -> list[int]:
        """Number of states of each layer as it is."""
        return [len(mask) for mask in self.keep]

    @property
    def states_after(self) -> list[int]:
        """Number of states of each layer that would stay."""
        return [int(mask.sum()) for mask in self.keep]


def score_states(
    found: Sequence[AnySystem],
    method: str | Method = "last",
    *,
    length: int | None = None,
    key: PRNGKeyArray | None = None,
) -> list[Float[np.ndarray, " _"]]:
    """The scores that `method` gives to the states of each layer; unstable states get infinity.

    Args:
        found: the layers' systems, from `systems(model)`.
        method: a name in `METHODS`, or a `Method` of your own.
        length: steps of the task's sequences, for methods with a finite horizon.
        key: for random pruning; folded anew for each layer.

    Raises:
        ValueError: if there is no such method, or it lacks what it needs.
    """
    chosen = _find_method(method)
    scores = []
    for index, system in enumerate(found):
        layer_key = None if key is None else jax.random.fold_in(key, index)
        if chosen.reduce is not None and np.any(np.abs(system.lam) >= 1):
            raise ValueError(
                f"pruning: layer {index} has states with |lam| >= 1, which this method, that makes "
                "new states, is not defined for; take another one, or stabilize the model first"
            )
        score = np.asarray(chosen.score(system, ScoreContext(length, layer_key)), float)
        scores.append(np.where(np.abs(system.lam) >= 1, np.inf, score))
    return scores


def plan_pruning(
    model: Any,
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    method: str | Method = "last",
    length: int | None = None,
    key: PRNGKeyArray | None = None,
) -> PruningPlan:
    """Decide which states of a model to keep, without touching it.

    Args:
        model: any PyTree that holds layers (`find_layers`).
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in all.
        method: a name in `METHODS`, or a `Method` of your own.
        length: steps of the task's sequences, for methods with a finite horizon.
        key: for random pruning.

    Raises:
        ValueError: unless exactly one of `ratio` and `states` is given and possible.
    """
    found = systems(model)
    scores = score_states(found, method, length=length, key=key)
    unstable = [np.abs(system.lam) >= 1 for system in found]
    if ratio is not None and states is None:
        total = sum(system.states for system in found)
        states = keep_count(total, ratio, at_least=len(found))
    elif ratio is not None or states is None:
        raise ValueError("pruning: give either ratio= or states=")
    keep = _find_method(method).select(scores, states)
    lost = [np.flatnonzero(u & ~k).tolist() for u, k in zip(unstable, keep, strict=True)]
    if any(lost):
        raise ValueError(
            f"pruning: {states} states are too few to keep every unstable one (|lam| >= 1); these "
            f"would go, a layer: {lost}. Keep more, or stabilize the model first"
        )
    reduce = _find_method(method).reduce
    if reduce is None or all(np.all(mask) for mask in keep):
        return PruningPlan(scores, keep, unstable)
    reduced = [reduce(system, mask) for system, mask in zip(found, keep, strict=True)]
    # Not every number of states can be reached: what was made counts.
    layout = [_first_states(system, small) for system, small in zip(found, reduced, strict=True)]
    return PruningPlan(scores, layout, unstable, reduced)


def prune(
    model: Model,
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    method: str | Method = "last",
    length: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Model:
    """The model without its least important states: smaller arrays, everything else unchanged.

    `small = prune(model, ratio=0.3)` removes 30 % of all states by LAST. Arguments are those of
    `plan_pruning`. States with `|lam| >= 1` have no finite norm: they are kept, with a warning.
    """
    plan = plan_pruning(model, ratio=ratio, states=states, method=method, length=length, key=key)
    if any(np.any(mask) for mask in plan.unstable):
        where = [np.flatnonzero(mask).tolist() for mask in plan.unstable]
        warnings.warn(
            f"states with |lam| >= 1 have no finite norm and are kept, a layer: {where}",
            UnstableStatesWarning,
            stacklevel=2,
        )
    return plan.apply(model)


def padded(small: Model, model: Any, keep: Sequence[Bool[np.ndarray, " _"]]) -> Model:
    """`small`, at the size of the `model` that it was made from: the rest is not heard.

    The same outputs but for rounding, in the shapes of `model`: one compiled program then evaluates
    many networks. `keep` tells where its states stand, a mask a layer.

    Raises:
        ValueError: if a layer has no method `with_system`.
    """
    pairs = zip(find_layers(model), find_layers(small), keep, strict=True)
    written: list[Layer] = []
    for layer, smaller, mask in pairs:
        if not isinstance(layer, WritableLayer):
            raise ValueError(f"padded: a {type(layer).__name__} has no with_system()")
        written.append(layer.with_system(_padded(layer.system(), smaller.system(), mask)))
    return replace_layers(small, written)


def _padded(system: AnySystem, small: AnySystem, mask: Bool[np.ndarray, " P"]) -> AnySystem:
    def place(name: str, axis: int, others: float) -> Any:
        own = getattr(system, name)
        if own is None:
            return None
        full = np.moveaxis(np.array(own), axis, 0)
        full[mask] = np.moveaxis(np.asarray(getattr(small, name)), axis, 0)
        full[~mask] *= others
        return np.moveaxis(full, 0, axis)

    last = np.ndim(system.C) - 1
    return dataclasses.replace(
        system,
        lam=place("lam", 0, 1.0),
        B=place("B", 0, 1.0),
        C=place("C", last, 0.0),
        C_reverse=place("C_reverse", last, 0.0),
        D=small.D,
    )


def _first_states(system: AnySystem, small: AnySystem) -> Bool[np.ndarray, " P"]:
    """A mask of as many states as there are in `small`, the first ones of each channel."""
    if not isinstance(system, MultiSISO):
        return np.arange(system.states) < small.states
    assert isinstance(small, MultiSISO)
    starts = np.cumsum(system.counts) - np.asarray(system.counts)
    rank = np.arange(system.states) - starts[system.channel]
    return rank < np.asarray(small.counts)[system.channel]


def _find_method(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise ValueError(f"no pruning method {method!r}; there are {', '.join(METHODS)}")
    return METHODS[method]
