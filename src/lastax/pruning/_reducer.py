"""One model reduced by any method to any size, with one pass over the calibration data."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import OnProgress, PRNGKeyArray, silent
from lastax.calibration._blockwise_pass import check_untied
from lastax.calibration._budgets import Budget
from lastax.calibration._calibration import Calibration, measure
from lastax.calibration._chunks import CalibrationBatches
from lastax.calibration._moments import Moments
from lastax.calibration._reconstruction import reconstruct
from lastax.calibration._refit import refit
from lastax.calibration._report import LayerReport, RefitReport
from lastax.nn._blockwise import BlockwiseForward
from lastax.pruning._methods import Method, find_method
from lastax.pruning._plan import PruningPlan, plan, score_contexts
from lastax.ssm._multi_siso import AnySystem
from lastax.surgery._counts import Ratio, requested_count
from lastax.surgery._layers import systems_of
from lastax.surgery._states import writable_layers

CalibrationData = CalibrationBatches | Calibration


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A smaller model, and how it came about.

    Attributes:
        model: the smaller model.
        scores: one array per layer, one number per state. After greedy elimination, the later a
            state would have been removed, the higher.
        keep: one mask per layer.
        unstable: one mask per layer: states with `|lam| >= 1`.
        report: what the refit did, for methods that refit.
    """

    model: Any
    scores: list[Float[np.ndarray, " _"]]
    keep: list[Bool[np.ndarray, " _"]]
    unstable: list[Bool[np.ndarray, " _"]]
    report: RefitReport | None = None

    @property
    def states_before(self) -> list[int]:
        """Number of states per layer before pruning."""
        return [len(mask) for mask in self.keep]

    @property
    def states_after(self) -> list[int]:
        """Number of states per layer after pruning; a dense feedthrough does not count here."""
        return [int(mask.sum()) for mask in self.keep]


@dataclasses.dataclass(frozen=True, eq=False)
class Reducer:
    """Reduces one model by any method to any number of states.

    The systems of the layers and the pass over the calibration data are computed once, when a
    method first needs them. `prune` is one call of this.

    Attributes:
        model: any PyTree that contains layers (`find_layers`).
        data: unlabeled calibration data, as `refit` takes them, or a `Calibration`.
        length: number of steps of the task's sequences, for finite-horizon methods.
        key: random key, for random pruning.
        budget: how `calibrated` distributes the states over the layers: a name in `BUDGETS`.
        dense_feedthrough: whether refits fit `D` as a dense matrix, whose weights count as states.
        reconstruction_steps: L-BFGS steps of block-wise reconstruction after any method.
        forward: the forward pass of a model that is not one of lastax's networks.
        on_progress: called with a short description of each part of the work.
    """

    model: Any
    data: CalibrationData | None = None
    length: int | None = None
    key: PRNGKeyArray | None = None
    budget: str | Budget = "probe"
    dense_feedthrough: bool = False
    reconstruction_steps: int = 0
    forward: BlockwiseForward | None = None
    on_progress: OnProgress = silent
    function: str = "Reducer.reduce"

    @functools.cached_property
    def _data(self) -> CalibrationData | None:
        """The calibration data, which are read more than once."""
        return list(self.data) if isinstance(self.data, Iterator) else self.data

    @functools.cached_property
    def systems(self) -> list[AnySystem]:
        """The systems of the layers, in float64 on the host."""
        return systems_of(self.function, self.model)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """What one pass over the calibration data has shown.

        Raises:
            ValueError: if there are no calibration data, or the `Calibration` is of another model.
        """
        if self._data is None:
            raise ValueError(f"{self.function}: this needs calibration data: pass calibration=")
        if isinstance(self._data, Calibration):
            if self._data.data.given is not self.model:
                raise ValueError(
                    f"{self.function}: the Calibration is of another model; call calibrate for "
                    "this one"
                )
            return self._data
        return measure(
            self.function,
            self.model,
            self._data,
            dense_feedthrough=self.dense_feedthrough,
            forward=self.forward,
            on_progress=self.on_progress,
        )

    @functools.cached_property
    def feedthrough_states(self) -> int:
        """Number of states that the weights of the dense feedthrough matrices count as."""
        # A `Calibration` has its own setting.
        if not self.dense_feedthrough and not isinstance(self.data, Calibration):
            return 0
        return sum(self.calibration.feedthrough_states)

    def reduce(
        self, method: str | Method, *, ratio: Ratio | None = None, states: int | None = None
    ) -> Reduction:
        """The model with fewer states, by `method`.

        Args:
            method: a name in `METHODS`, or a `Method`.
            ratio: share of all states to remove, in [0, 1).
            states: or the number of states to keep in total.

        Raises:
            ValueError: if the method, the number of states, or the data do not suit the model.
        """
        chosen = find_method(self.function, method)
        total = sum(system.states for system in self.systems)
        count = requested_count(self.function, total, len(self.systems), ratio, states)
        reduction = self._reduce(chosen, count)
        if not self.reconstruction_steps:
            return reduction
        return self.reconstruct(reduction, self.reconstruction_steps)

    def reconstruct(self, reduction: Reduction, steps: int) -> Reduction:
        """The reduction after `steps` of block-wise reconstruction (`lastax.reconstruct`)."""
        data, forward = self._data, self.forward
        if isinstance(data, Calibration):
            forward = data.data.forward
            data = data.batches
        if data is None:
            raise ValueError(f"{self.function}: this needs calibration data: pass calibration=")
        small = reconstruct(
            self.model,
            reduction.model,
            data,
            steps=steps,
            forward=forward,
            on_progress=self.on_progress,
        )
        return dataclasses.replace(reduction, model=small)

    def _reduce(self, method: Method, count: int) -> Reduction:
        if method.score is None:
            return self._refitted(states=count, budget=self.budget)
        if method.refit:
            remaining = count - self.feedthrough_states
            if remaining < len(self.systems):
                raise ValueError(
                    f"{self.function}: of {count} states to keep, {self.feedthrough_states} count "
                    "for the dense feedthrough matrices, and every layer needs one more; keep "
                    "more states, or leave D diagonal"
                )
            return self._refitted(keep=self._plan(method, remaining).keep)
        decided = self._plan(method, count)
        return Reduction(decided.apply(self.model), decided.scores, decided.keep, decided.unstable)

    def _moments(self) -> list[Moments]:
        self.calibration.blocks_of_layers(self.function)  # Errors name the function of the caller.
        return self.calibration.layer_moments

    def _plan(self, method: Method, count: int) -> PruningPlan:
        if method.reduce is not None:
            writable_layers(self.function, self.model)
        moments = self._moments() if method.uses_moments else None
        contexts = score_contexts(self.systems, self.length, self.key, moments)
        return plan(self.function, self.systems, method, count, contexts)

    def _refitted(self, **amount: Any) -> Reduction:
        writable_layers(self.function, self.model)
        check_untied(self.function, self.calibration.data)
        blocks = [held[0] for held in self.calibration.blocks_of_layers(self.function)]
        small, report = refit(self.model, self.calibration, **amount)
        return Reduction(
            small,
            [_elimination_ranks(layer) for layer in report.layers],
            report.keep,
            [self.calibration.unstable[block] for block in blocks],
            report,
        )


def _elimination_ranks(layer: LayerReport) -> Float[np.ndarray, " P"]:
    """1 for the state that would be removed last, proportionally less for earlier ones."""
    count = len(layer.keep)
    if layer.order is None or count == layer.keep.sum():
        return np.ones(count)
    ranks = np.empty(count)
    ranks[layer.order] = np.arange(1, count + 1) / count
    return ranks
