"""Making a network smaller by any method, those that need calibration data included."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click
import numpy as np

import lastax
from lastax.cmd._console import err, pruning_key
from lastax.data import Data, training_batches

REFITTED = "last-refitted"
SUMMARIES = {name: method.summary for name, method in lastax.METHODS.items()} | {
    lastax.pruning.CALIBRATED: "greedy elimination and closed-form refit on unlabeled training sequences",
    REFITTED: "the states that LAST keeps, refitted in the same way",
}
# What else looks at calibration data.
_MEASURED = {name for name, method in lastax.METHODS.items() if method.measured}
MEASURED = frozenset({lastax.pruning.CALIBRATED, REFITTED} | _MEASURED)


def makes_new_states(method: str) -> bool:
    """Whether the states that a method leaves are others than those of before."""
    return method in lastax.METHODS and lastax.METHODS[method].reduce is not None


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """How many training sequences may be looked at, and how a refit shares states out.

    `polish` is for how many steps each block is polished after whatever method. `dense_feedthrough` gives
    what is refitted a whole matrix `D`.
    """

    sequences: int
    budget: str
    polish: int = 0
    dense_feedthrough: bool = False


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A smaller network; of each layer of the one before a score a state, and which stay."""

    model: lastax.nn.Network
    scores: list[np.ndarray]
    keep: list[np.ndarray]

    @property
    def states_before(self) -> list[int]:
        """Number of states of each layer as it was."""
        return [len(mask) for mask in self.keep]

    @property
    def states_after(self) -> list[int]:
        """Number of states of each layer that are left."""
        return [int(mask.sum()) for mask in self.keep]


def calibration_options(command: Callable) -> Callable:
    """`--calibration` and `--budget`, of methods that look at data."""
    budget = click.option(
        "--budget",
        type=click.Choice(list(lastax.calibration.BUDGETS)),
        default="probe",
        help="How many states each layer keeps. [calibrated]",
    )(command)
    return click.option(
        "--calibration",
        "sequences",
        type=click.IntRange(1),
        default=64,
        help="Unlabeled training sequences that methods with data may look at.",
    )(budget)


def finetune_rate_option(command: Callable) -> Callable:
    """`--finetune-rate`, beside `--finetune`."""
    return click.option(
        "--finetune-rate",
        "rate",
        type=click.FloatRange(0, min_open=True),
        default=0.1,
        help="Learning rates of that, as a share of the run's own.",
    )(command)


class Reductions:
    """A network made smaller by any method, to any size.

    What the calibration data show is found out once, when a method first asks for it.
    """

    def __init__(
        self,
        model: lastax.nn.Network,
        config: lastax.training.RunConfig,
        data: Data,
        seed: int,
        settings: CalibrationSettings,
    ) -> None:
        self.model, self.config, self.data = model, config, data
        self._seed, self._settings = seed, settings
        # Started and stopped as work comes: a calibration goes on telling it what it does.
        self._status = err.status("")

    @functools.cached_property
    def batch(self) -> dict[str, Any]:
        """The calibration data."""
        return calibration_batch(self.data, self._settings.sequences, self._seed)

    @functools.cached_property
    def _calibration(self) -> lastax.calibration.Calibration:
        batch = self.batch
        with self._status:
            return lastax.calibrate(
                self.model, batch, dense_feedthrough=self._settings.dense_feedthrough, progress=self._status.update
            )

    @functools.cached_property
    def feedthrough_states(self) -> int:
        """How many states it counts for that what is refitted gets a full `D`."""
        return sum(self._calibration.feedthrough_states) if self._settings.dense_feedthrough else 0

    def reduce(self, method: str, count: int) -> Pruned:
        """The network with `count` states, polished if the settings say so.

        Of a refit with a full `D` it has as many fewer as that counts for.

        Raises:
            ValueError: if the method does not suit the network.
        """
        pruned = self._reduce(method, count)
        return self.polished(pruned, self._settings.polish) if self._settings.polish else pruned

    def polished(self, pruned: Pruned, steps: int) -> Pruned:
        """What is left, moved until its blocks answer as before."""
        batch = self.batch
        with self._status:
            small = lastax.reconstruct(
                pruned.model, self.model, batch, steps=steps, progress=self._status.update
            )
        return dataclasses.replace(pruned, model=small)

    def _reduce(self, method: str, count: int) -> Pruned:
        if method == lastax.pruning.CALIBRATED:
            return self._refitted(states=count)
        if method == REFITTED:
            heard = count - self.feedthrough_states
            if heard < len(self.config.states):
                raise ValueError(
                    f"{count} states to keep, but {self.feedthrough_states} are for each layer's full D "
                    "and every layer needs one more: keep more, or leave D a diagonal"
                )
            return self._refitted(keep=self._plan("last", heard).keep)
        plan = self._plan(method, count)
        return Pruned(plan.apply(self.model), plan.scores, plan.keep)

    def _plan(self, method: str, count: int) -> lastax.pruning.PruningPlan:
        return lastax.plan_pruning(
            self.model,
            states=count,
            method=method,
            length=self.config.length,
            key=pruning_key(self._seed, self.config),
            moments=self._calibration.moments if method in _MEASURED else None,
        )

    def _refitted(self, **amount: Any) -> Pruned:
        calibration = self._calibration
        with self._status:
            small, report = calibration.refit(budget=self._settings.budget, **amount)
        return Pruned(small, [_ranks(layer) for layer in report.layers], report.keep)


def calibration_batch(data: Data, sequences: int, seed: int) -> dict[str, Any]:
    """Training records drawn at random, without labels and as they are."""
    source = data.sources["train"]
    size = min(sequences, len(source))
    batch = next(training_batches(source, batch_size=size, seed=seed))
    return {name: value for name, value in batch.items() if name != "label"}


def _ranks(layer: lastax.calibration.LayerReport) -> np.ndarray:
    """The later a state would have gone, the more it is worth."""
    count = len(layer.keep)
    if layer.order is None or count == layer.keep.sum():
        return np.ones(count)
    ranks = np.empty(count)
    ranks[layer.order] = np.arange(1, count + 1) / count
    return ranks
