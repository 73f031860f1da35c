"""The registry of pruning methods. A new method is one `Method` and one `register_method` call."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import Array, PRNGKeyArray
from lastax.analysis._balancing import balanced_truncation
from lastax.analysis._state_norms import hinf_norms, magnitudes
from lastax.calibration._features import output_weights, state_slots
from lastax.calibration._gramians import empirical_gramians
from lastax.calibration._moments import Moments, state_energies
from lastax.pruning._scores import (
    aire_scores,
    finite_horizon_last_scores,
    hankel_scores,
    lamp_scores,
    last_per_channel_scores,
    last_scores,
    layer_adaptive,
    published_last_scores,
    random_scores,
)
from lastax.pruning._selection import Masks, Scores, select_global, select_uniform
from lastax.ssm._multi_siso import AnySystem


@dataclasses.dataclass(frozen=True)
class ScoreContext:
    """What a score may use besides the system of the layer.

    Attributes:
        length: number of steps of the task's sequences.
        key: random key of this layer.
        moments: second moments of this layer on calibration data.
    """

    length: int | None = None
    key: PRNGKeyArray | None = None
    moments: Moments | None = None


Score = Callable[[AnySystem, ScoreContext], Array]
Select = Callable[[Scores, int], Masks]
Reduce = Callable[[AnySystem, Bool[np.ndarray, " P"], ScoreContext], AnySystem]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to prune.

    Attributes:
        score: one number per state of a layer's system; states with low scores are removed first.
            None for methods that choose the states while they refit.
        summary: one line for tables and `--help`.
        select: turns the scores of all layers and the number of states to keep into one mask per
            layer.
        reduce: computes a smaller system with new states, for methods that do not keep a subset
            of the old ones. The mask gives the number of states, per channel where there are
            channels.
        refit: whether the output maps of the remaining states are fitted to calibration data.
        uses_moments: whether `score` or `reduce` reads `ScoreContext.moments`.
        uses_key: whether `score` or `reduce` reads `ScoreContext.key`. Pruned runs and sweeps
            then depend on their seed.
    """

    score: Score | None
    summary: str
    select: Select = select_global
    reduce: Reduce | None = None
    refit: bool = False
    uses_moments: bool = False
    uses_key: bool = False

    def __post_init__(self) -> None:
        """Reject combinations that mean nothing."""
        if self.score is None and not self.refit:
            raise ValueError("Method: a method without a score must refit (refit=True)")
        if self.reduce is not None and self.refit:
            raise ValueError("Method: new states (reduce=) cannot be refitted (refit=True)")

    @property
    def needs_calibration(self) -> bool:
        """Whether the method needs calibration data."""
        return self.refit or self.uses_moments

    @property
    def uses_budget(self) -> bool:
        """Whether a budget divides the states among the layers, because there are no scores."""
        return self.score is None

    @property
    def scores_parameters(self) -> bool:
        """Whether the score of each existing state follows from the parameters alone."""
        return self.score is not None and self.reduce is None and not self.needs_calibration


def register_method(name: str, method: Method) -> Method:
    """Add a method to `METHODS`, under a name that `prune`, the commands and sweeps accept.

    Commands import your module with `lastax --import my_module prune ...`.

    Args:
        name: lower-case words joined by hyphens.
        method: what to run under that name.

    Returns:
        `method`.

    Raises:
        ValueError: if the name is taken by another method, or is not a plain word.
    """
    if not name.replace("-", "").isalnum():
        raise ValueError(f"register_method: name must be letters, digits and hyphens, got {name!r}")
    if _METHODS.get(name, method) is not method:
        raise ValueError(f"register_method: there is already a method {name!r}")
    _METHODS[name] = method
    return method


def find_method(function: str, method: str | Method) -> Method:
    """The method of a name; a `Method` is returned as it is.

    Raises:
        ValueError: in the words of `function`, if no method has this name.
    """
    if isinstance(method, Method):
        return method
    given = repr(method) if isinstance(method, str) else getattr(method, "__name__", repr(method))
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(
            f"{function}: no pruning method {given}; choose one of {', '.join(_METHODS)}, or pass "
            "a score of your own as lastax.Method(lambda system, context: ..., summary='...')"
        )
    return _METHODS[method]


def given_moments(context: ScoreContext) -> Moments:
    """The moments of a context.

    Raises:
        ValueError: if there are none.
    """
    if context.moments is None:
        raise ValueError("this method needs calibration data: pass calibration=")
    return context.moments


def _finite_horizon(system: AnySystem, context: ScoreContext) -> Array:
    if context.length is None:
        raise ValueError("last-finite-horizon needs the length of the sequences: pass length=")
    return finite_horizon_last_scores(system, context.length)


def _random(system: AnySystem, context: ScoreContext) -> Array:
    if context.key is None:
        raise ValueError("random pruning needs a key: pass key=jax.random.key(seed)")
    return random_scores(system, key=context.key)


def _empirical_energy(system: AnySystem, context: ScoreContext) -> Array:
    slots = state_slots(system)
    energies = state_energies(given_moments(context), output_weights(system))
    flat: Float[np.ndarray, " P"] = np.empty(system.states)
    flat[slots[slots >= 0]] = energies[slots >= 0]
    return layer_adaptive(flat)  # type: ignore[arg-type]


def _empirical_hankel(system: AnySystem, context: ScoreContext) -> Array:
    gramians = empirical_gramians(system, given_moments(context))
    return hankel_scores(system, gramians=gramians)


def _empirical_truncation(
    system: AnySystem, keep: Bool[np.ndarray, " P"], context: ScoreContext
) -> AnySystem:
    gramians = empirical_gramians(system, given_moments(context))
    return balanced_truncation(system, keep, gramians=gramians)


_LAST = Method(
    lambda system, _: last_scores(system),
    "squared H-infinity norms, normalized within each layer",
)

_METHODS: dict[str, Method] = {
    "random": Method(_random, "uniform random numbers", uses_key=True),
    "uniform-magnitude": Method(
        lambda system, _: magnitudes(system),
        "|lam| ||B|| ||C||, the same share of every layer",
        select_uniform,
    ),
    "global-magnitude": Method(
        lambda system, _: magnitudes(system), "|lam| ||B|| ||C||, over all layers"
    ),
    "lamp": Method(
        lambda system, _: lamp_scores(system), "squared magnitudes, normalized within each layer"
    ),
    "uniform-hinf": Method(
        lambda system, _: hinf_norms(system),
        "H-infinity norms, the same share of every layer",
        select_uniform,
    ),
    "global-hinf": Method(
        lambda system, _: hinf_norms(system), "H-infinity norms, over all layers"
    ),
    "last": _LAST,
    "last-finite-horizon": Method(
        _finite_horizon, "LAST with the gain that sequences of the task's length can reach"
    ),
    "last-per-channel": Method(
        lambda system, _: last_per_channel_scores(system),
        "LAST normalized within each channel (S4D; for other layers the same as LAST)",
    ),
    "last-published": Method(
        lambda system, _: published_last_scores(system),
        "LAST as its published code computes it, for comparison",
    ),
    "aire": Method(
        lambda system, _: aire_scores(system),
        "impulse-response energies, normalized within each layer",
    ),
    "balanced": Method(
        lambda system, _: hankel_scores(system),
        "balanced truncation: new states, by squared Hankel singular values",
        reduce=lambda system, keep, _: balanced_truncation(system, keep),
    ),
    "empirical-energy": Method(
        _empirical_energy,
        "mean energy of each state's output on calibration data, normalized within each layer",
        uses_moments=True,
    ),
    "empirical-balanced": Method(
        _empirical_hankel,
        "balanced truncation with the empirical Gramian of calibration data: new states",
        reduce=_empirical_truncation,
        uses_moments=True,
    ),
    "last-refitted": dataclasses.replace(
        _LAST, summary="LAST, then a closed-form refit on calibration data", refit=True
    ),
    "calibrated": Method(
        None, "greedy elimination with a closed-form refit on calibration data", refit=True
    ),
}

# All methods by name. `register_method` adds to it.
METHODS: Mapping[str, Method] = MappingProxyType(_METHODS)
