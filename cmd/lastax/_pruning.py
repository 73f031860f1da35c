"""Making a network smaller by any method, those that need calibration data included."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click
import numpy as np

import lastax
from lastax.cmd._console import err, pruning_key
from lastax.data import Data, training_batches

CALIBRATED = "calibrated"
SUMMARIES = {name: method.summary for name, method in lastax.METHODS.items()} | {
    CALIBRATED: "greedy elimination and closed-form refit on unlabeled training sequences"
}


def makes_new_states(method: str) -> bool:
    """Whether the states that a method leaves are others than those of before."""
    return method in lastax.METHODS and lastax.METHODS[method].reduce is not None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How many training sequences a refit may look at, and how it shares states out."""

    sequences: int
    budget: str


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A smaller network; of each layer of the one before a score a state, and which stay."""

    model: lastax.Network
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
    """`--calibration` and `--budget`, of the method `calibrated`."""
    budget = click.option(
        "--budget",
        type=click.Choice(list(lastax.BUDGETS)),
        default="probe",
        help="How many states each layer keeps. [calibrated]",
    )(command)
    return click.option(
        "--calibration",
        "sequences",
        type=click.IntRange(1),
        default=64,
        help="Unlabeled training sequences to look at. [calibrated]",
    )(budget)


def reducer(
    model: lastax.Network,
    method: str,
    *,
    config: lastax.RunConfig,
    data: Data,
    seed: int,
    calibration: Calibration,
) -> Callable[[int], Pruned]:
    """A function from a number of states to the network with so many."""
    if method == CALIBRATED:
        batch = calibration_batch(data, calibration.sequences, seed)

        def refit(count: int) -> Pruned:
            with err.status(f"refit to {count} states on {len(batch['x'])} sequences"):
                small, report = lastax.refit(model, batch, states=count, budget=calibration.budget)
            return Pruned(small, [_ranks(layer) for layer in report.layers], report.keep)

        return refit

    def cut(count: int) -> Pruned:
        plan = lastax.plan_pruning(
            model,
            states=count,
            method=method,
            length=config.length,
            key=pruning_key(seed, config),
        )
        return Pruned(plan.apply(model), plan.scores, plan.keep)

    return cut


def calibration_batch(data: Data, sequences: int, seed: int) -> dict[str, Any]:
    """Training records drawn at random, without labels and as they are."""
    source = data.sources["train"]
    size = min(sequences, len(source))
    batch = next(training_batches(source, batch_size=size, seed=seed))
    return {name: value for name, value in batch.items() if name != "label"}


def _ranks(layer: lastax.LayerReport) -> np.ndarray:
    """The later a state would have gone, the more it is worth."""
    count = len(layer.keep)
    if layer.order is None or count == layer.keep.sum():
        return np.ones(count)
    ranks = np.empty(count)
    ranks[layer.order] = np.arange(1, count + 1) / count
    return ranks
