"""Which states a method keeps, decided without changing the model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import Model, PRNGKeyArray
from lastax.analysis._single import check_concrete, check_single
from lastax.calibration._moments import Moments
from lastax.pruning._methods import Method, ScoreContext, find_method
from lastax.ssm._multi_siso import AnySystem, MultiSISO
from lastax.surgery._counts import Ratio, requested_count
from lastax.surgery._layers import systems_of
from lastax.surgery._states import keep_states, write_systems


@dataclasses.dataclass(frozen=True)
class PruningPlan:
    """The decision of a method.

    Attributes:
        scores: one array per layer, one number per state.
        keep: one mask per layer.
        unstable: one mask per layer: states with `|lam| >= 1`.
        systems: the new systems of the layers, for methods that create new states.
    """

    scores: list[Float[np.ndarray, " _"]]
    keep: list[Bool[np.ndarray, " _"]]
    unstable: list[Bool[np.ndarray, " _"]]
    systems: list[AnySystem] | None = None

    def apply(self, model: Model) -> Model:
        """The planned model: smaller arrays, everything else unchanged."""
        small = keep_states(model, self.keep)
        return small if self.systems is None else write_systems(small, self.systems)

    @property
    def states_before(self) -> list[int]:
        """Number of states per layer before pruning."""
        return [len(mask) for mask in self.keep]

    @property
    def states_after(self) -> list[int]:
        """Number of states per layer after pruning."""
        return [int(mask.sum()) for mask in self.keep]


def score_states(
    systems: Sequence[AnySystem],
    method: str | Method = "last",
    *,
    length: int | None = None,
    key: PRNGKeyArray | None = None,
    moments: Sequence[Moments] | None = None,
) -> list[Float[np.ndarray, " _"]]:
    """The scores that `method` gives to the states of each layer; unstable states get infinity.

    Args:
        systems: the systems of the layers, from `lastax.systems(model)`.
        method: a name in `METHODS`, or a `Method`.
        length: number of steps of the task's sequences, for finite-horizon methods.
        key: random key, for random pruning; each layer gets its own key from it.
        moments: one per layer, for methods that use calibration data
            (`calibrate(model, batches).layer_moments`).

    Raises:
        ValueError: if the method is unknown, has no scores, or lacks an argument that it needs; if
            `systems` is a model.
    """
    if not isinstance(systems, Sequence):
        raise ValueError(
            f"score_states: needs a list of systems, got {type(systems).__name__}; pass "
            "lastax.systems(model)"
        )
    return _score_states(
        "score_states", systems, method, score_contexts(systems, length, key, moments)
    )


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
    """Decide which states of a model to keep, without changing it.

    Args:
        model: any PyTree that contains layers (`find_layers`).
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in total.
        method: a name in `METHODS`, or a `Method`. Methods that refit are not plans: use `prune`.
        length: number of steps of the task's sequences, for finite-horizon methods.
        key: random key, for random pruning.
        moments: one per layer, for methods that use calibration data
            (`calibrate(model, batches).layer_moments`).

    Raises:
        ValueError: unless exactly one of `ratio` and `states` is given and possible, or if the
            method is unknown, refits, or lacks an argument that it needs.
    """
    chosen = find_method("plan_pruning", method)
    if chosen.refit:
        raise ValueError(
            f"plan_pruning: {_name(method)} also refits the remaining states; call prune or refit"
        )
    found = systems_of("plan_pruning", model)
    total = sum(system.states for system in found)
    count = requested_count("plan_pruning", total, len(found), ratio, states)
    return plan("plan_pruning", found, chosen, count, score_contexts(found, length, key, moments))


def plan(
    function: str,
    found: Sequence[AnySystem],
    method: Method,
    count: int,
    contexts: Sequence[ScoreContext],
) -> PruningPlan:
    """The masks, and with `method.reduce` the new systems, that keep `count` states.

    Raises:
        ValueError: in the words of `function`, if an unstable state would be removed.
    """
    scores = _score_states(function, found, method, contexts)
    unstable = [np.abs(np.asarray(system.lam)) >= 1 for system in found]
    keep = method.select(scores, count)
    lost = [np.flatnonzero(u & ~k).tolist() for u, k in zip(unstable, keep, strict=True)]
    if any(lost):
        raise ValueError(
            f"{function}: {count} states are too few to keep every unstable one (|lam| >= 1); "
            f"these would be removed, per layer: {lost}. Keep more states, or stabilize the model"
        )
    if method.reduce is None or all(np.all(mask) for mask in keep):
        return PruningPlan(scores, keep, unstable)
    reduced = [method.reduce(*each) for each in zip(found, keep, contexts, strict=True)]
    # Some numbers of states cannot be reached, so the masks follow what was computed.
    masks = [_first_states(system, small) for system, small in zip(found, reduced, strict=True)]
    return PruningPlan(scores, masks, unstable, reduced)


def score_contexts(
    found: Sequence[AnySystem],
    length: int | None,
    key: PRNGKeyArray | None,
    moments: Sequence[Moments] | None,
) -> list[ScoreContext]:
    """The context of each layer."""
    keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(found))]
    known: Sequence[Moments | None] = [None] * len(found) if moments is None else moments
    return [ScoreContext(length, one, own) for one, own in zip(keys, known, strict=True)]


def _score_states(
    function: str,
    found: Sequence[AnySystem],
    method: str | Method,
    contexts: Sequence[ScoreContext],
) -> list[Float[np.ndarray, " _"]]:
    chosen = find_method(function, method)
    if chosen.score is None:
        raise ValueError(
            f"{function}: {_name(method)} has no scores; it chooses states while it refits"
        )
    scores = []
    for index, (system, context) in enumerate(zip(found, contexts, strict=True)):
        check_concrete(function, system)
        check_single(function, system)
        unstable = np.abs(np.asarray(system.lam)) >= 1
        if chosen.reduce is not None and np.any(unstable):
            raise ValueError(
                f"{function}: layer {index} has states with |lam| >= 1, and a method that creates "
                "new states is not defined for them; use another method, or stabilize the model"
            )
        scores.append(np.where(unstable, np.inf, np.asarray(chosen.score(system, context), float)))
    return scores


def _name(method: str | Method) -> str:
    return method if isinstance(method, str) else f"this method ({method.summary})"


def _first_states(system: AnySystem, small: AnySystem) -> Bool[np.ndarray, " P"]:
    """A mask of as many states as `small` has, the first ones of each channel."""
    if not isinstance(system, MultiSISO):
        return np.arange(system.states) < small.states
    assert isinstance(small, MultiSISO)
    starts = np.cumsum(system.counts) - np.asarray(system.counts)
    rank = np.arange(system.states) - starts[system.channel]
    return rank < np.asarray(small.counts)[system.channel]
