"""Pruning in one call: score every state, select, and take the others out; or refit as well."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from lastax._balance import balanced_truncation, hankel_scores
from lastax._calibrate import Batch
from lastax._features import output_weights, state_slots
from lastax._multi_siso import AnySystem, MultiSISO
from lastax._norms import hinf_norms, magnitudes
from lastax._reduce import Calibration, calibrate
from lastax._refit import Moments, state_energies
from lastax._scores import (
    aire_scores,
    finite_horizon_last_scores,
    lamp_scores,
    last_per_channel_scores,
    last_scores,
    layer_adaptive,
    published_last_scores,
    random_scores,
)
from lastax._selection import Masks, Ratio, Scores, keep_count, select_global, select_uniform
from lastax._stages import Stages
from lastax._surgery import (
    Layer,
    Model,
    UnstableStatesWarning,
    WritableLayer,
    find_layers,
    keep_states,
    replace_layers,
    systems,
    write_systems,
)
from lastax._typing import Array, PRNGKeyArray

# The name of choosing and refitting on real data: more than a score and a selection.
CALIBRATED = "calibrated"


@dataclasses.dataclass(frozen=True)
class ScoreContext:
    """What a score may need beside the system: the task's sequence length, a random key, data.

    `moments` are those of the layer on calibration data.
    """

    length: int | None = None
    key: PRNGKeyArray | None = None
    moments: Moments | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to prune: a score of each state, and a rule that turns all scores into masks.

    With `reduce` the masks say how many states stay, in each channel if there are channels, and
    `reduce` makes them from the system: they are others than those of before. `measured` methods
    need calibration data.
    """

    score: Callable[[AnySystem, ScoreContext], Array]
    select: Callable[[Scores, int], Masks]
    summary: str
    reduce: Callable[[AnySystem, np.ndarray, ScoreContext], AnySystem] | None = None
    measured: bool = False


def _horizon_score(system: AnySystem, given: ScoreContext) -> Array:
    if given.length is None:
        raise ValueError("finite-horizon LAST needs the length of the sequences: give length=")
    return finite_horizon_last_scores(system, given.length)


def _random_score(system: AnySystem, given: ScoreContext) -> Array:
    if given.key is None:
        raise ValueError("random pruning needs a key: give key=jax.random.key(seed)")
    return random_scores(system, key=given.key)


def _energy_score(system: AnySystem, given: ScoreContext) -> Array:
    slots = state_slots(system)
    energies = state_energies(_moments(given), output_weights(system))
    flat: Any = np.empty(system.states)
    flat[slots[slots >= 0]] = energies[slots >= 0]
    return layer_adaptive(flat)


def _moments(given: ScoreContext) -> Moments:
    if given.moments is None:
        raise ValueError("this method goes by real data: give calibration=, a batch or several")
    return given.moments


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
            reduce=lambda system, keep, _: balanced_truncation(system, keep),
        ),
        "measured-energy": Method(
            _energy_score,
            select_global,
            "mean energy of a state's own output on real data, normalized inside each layer",
            measured=True,
        ),
        "measured-balanced": Method(
            lambda system, given: hankel_scores(system, moments=_moments(given)),
            select_global,
            "balanced truncation for real data: new states, from their measured Gramian",
            reduce=lambda system, keep, given: balanced_truncation(
                system, keep, moments=given.moments
            ),
            measured=True,
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
    moments: Sequence[Moments] | None = None,
) -> list[Float[np.ndarray, " _"]]:
    """The scores that `method` gives to the states of each layer; unstable states get infinity.

    Args:
        found: the layers' systems, from `systems(model)`.
        method: a name in `METHODS`, or a `Method` of your own.
        length: steps of the task's sequences, for methods with a finite horizon.
        key: for random pruning; folded anew for each layer.
        moments: each layer's, for measured methods (`calibrate(model, batches).moments`).

    Raises:
        ValueError: if there is no such method, or it lacks what it needs.
    """
    chosen = _find_method(method)
    contexts = _contexts(len(found), length, key, moments)
    scores = []
    for index, (system, given) in enumerate(zip(found, contexts, strict=True)):
        if chosen.reduce is not None and np.any(np.abs(system.lam) >= 1):
            raise ValueError(
                f"pruning: layer {index} has states with |lam| >= 1, which this method, that makes "
                "new states, is not defined for; take another one, or stabilize the model first"
            )
        score = np.asarray(chosen.score(system, given), float)
        scores.append(np.where(np.abs(system.lam) >= 1, np.inf, score))
    return scores


def _contexts(
    layers: int,
    length: int | None,
    key: PRNGKeyArray | None,
    moments: Sequence[Moments] | None,
) -> list[ScoreContext]:
    """What the scores of each layer may need."""
    keys = [None if key is None else jax.random.fold_in(key, index) for index in range(layers)]
    measured: Sequence[Moments | None] = [None] * layers if moments is None else moments
    return [ScoreContext(length, own_key, own) for own_key, own in zip(keys, measured, strict=True)]


def plan_pruning(
    model: Any,
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    method: str | Method = "last",
    length: int | None = None,
    key: PRNGKeyArray | None = None,
    moments: Sequence[Moments] | None = None,
) -> PruningPlan:
    """Decide which states of a model to keep, without touching it.

    Args:
        model: any PyTree that holds layers (`find_layers`).
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in all.
        method: a name in `METHODS`, or a `Method` of your own.
        length: steps of the task's sequences, for methods with a finite horizon.
        key: for random pruning.
        moments: each layer's, for measured methods (`calibrate(model, batches).moments`).

    Raises:
        ValueError: unless exactly one of `ratio` and `states` is given and possible.
    """
    found = systems(model)
    scores = score_states(found, method, length=length, key=key, moments=moments)
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
    contexts = _contexts(len(found), length, key, moments)
    reduced = [reduce(*each) for each in zip(found, keep, contexts, strict=True)]
    # Not every number of states can be reached: what was made counts.
    layout = [_first_states(system, small) for system, small in zip(found, reduced, strict=True)]
    return PruningPlan(scores, layout, unstable, reduced)


def prune(
    model: Model,
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    method: str | Method | None = None,
    length: int | None = None,
    key: PRNGKeyArray | None = None,
    calibration: Batch | Iterable[Batch] | Calibration | None = None,
    stages: Stages | None = None,
) -> Model:
    """The model without its least important states: smaller arrays.

    `small = prune(model, ratio=0.3)` removes 30 % of all states by LAST; everything else stays as
    it is. `prune(model, ratio=0.8, calibration=batch)` chooses by what the states do on real data,
    and refits what is left (`refit` says how, and more of what was done). States with `|lam| >= 1`
    have no finite norm: they are kept, with a warning.

    Args:
        model: any PyTree that holds layers (`find_layers`).
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in all.
        method: a name in `METHODS`, a `Method` of your own, or "calibrated". Left out it is
            "calibrated" if there are calibration data, and "last" if not.
        length: steps of the task's sequences, for methods with a finite horizon.
        key: for random pruning.
        calibration: unlabeled data, as `refit` takes them, or what `calibrate` made of them.
        stages: how these data pass a model that is not lastax's own.

    Raises:
        ValueError: unless exactly one of `ratio` and `states` is given and possible, or if the
            method needs what is not given.
    """
    if method is None:
        method = "last" if calibration is None else CALIBRATED
    known = calibration
    if known is not None and not isinstance(known, Calibration):
        known = calibrate(model, known, stages=stages)
    if method == CALIBRATED:
        if known is None:
            raise ValueError("calibrated pruning goes by real data: give calibration=")
        return known.refit(ratio=ratio, states=states)[0]
    moments = None if known is None else known.moments
    plan = plan_pruning(
        model, ratio=ratio, states=states, method=method, length=length, key=key, moments=moments
    )
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
        raise ValueError(
            f"no pruning method {method!r}; there are {', '.join((*METHODS, CALIBRATED))}"
        )
    return METHODS[method]
