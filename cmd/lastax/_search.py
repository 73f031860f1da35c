"""How many states are to stay: said, or found by what the validation split loses."""

import dataclasses
import functools
import math
from collections.abc import Callable

import click

import lastax
from lastax.cmd._console import err, percent
from lastax.cmd._open import evaluate_on
from lastax.cmd._pruning import REFITTED, Reductions

# What `auto` tries, on the validation split.
CANDIDATES = (lastax.pruning.CALIBRATED, REFITTED, "empirical-balanced", "last-finite-horizon")
# What `auto` may lose, in points, where nothing is said.
USUAL_LOSS = 1.0


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much to remove, said in one of three ways; 30 % if in none."""

    ratio: float | None
    states: int | None
    max_loss: float | None

    def check(self, config: lastax.training.RunConfig) -> None:
        """Refuse what makes no sense for a run.

        Raises:
            click.UsageError: naming the option and what it may be.
        """
        if sum(value is not None for value in vars(self).values()) > 1:
            raise click.UsageError("give one of --ratio, --states and --max-loss")
        if self.max_loss is not None and not math.isfinite(self.max_loss):
            raise click.UsageError(f"--max-loss {self.max_loss}: must be 0 to 100 points")
        least, most = len(config.states), sum(config.states)
        if self.states is not None and not least <= self.states <= most:
            raise click.UsageError(f"--states {self.states}: this run allows {least} to {most}")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise click.UsageError(f"--ratio {self.ratio}: must be at least 0 and below 1")

    @property
    def label(self) -> str:
        """A word for names of folders."""
        if self.max_loss is not None:
            return f"loss{self.max_loss:g}"
        if self.states is not None:
            return f"states{self.states}"
        return f"{100 * self._share:g}"

    def count(
        self, config: lastax.training.RunConfig, loss_of: Callable[[int], float], taken: int = 0
    ) -> int:
        """How many states to keep; `loss_of` tells the points that keeping so many costs.

        The least to be tried is those that are `taken` already and one a layer.
        """
        least, most = len(config.states), sum(config.states)
        if self.max_loss is not None:
            # Accuracies are ratios of counts: the margin is for their rounding alone.
            allowed = self.max_loss + 1e-7
            return _fewest(least + taken, most, lambda count: loss_of(count) <= allowed)
        if self.states is not None:
            return self.states
        return lastax.keep_count(most, self._share, at_least=least)

    @property
    def _share(self) -> float:
        return 0.3 if self.ratio is None else self.ratio


class Search:
    """How many states to keep, and by which method, by the validation split alone."""

    def __init__(self, reductions: Reductions, given: Amount) -> None:
        self._reductions, self._given = reductions, given
        self._loss = functools.cache(self._measure_loss)

    @functools.cached_property
    def _whole(self) -> float:
        return self._accuracy(self._reductions.model)

    def _accuracy(self, model: lastax.nn.Network) -> float:
        return evaluate_on(model, self._reductions.data, "validation").accuracy

    def count(self, method: str) -> int:
        """How many states the method is to keep."""
        reductions = self._reductions
        loss = functools.partial(self._loss, method)
        return self._given.count(reductions.config, loss, reductions.feedthrough_states)

    def best(self) -> tuple[str, int]:
        """The method that keeps the fewest states, of those the one that answers best."""
        found = []
        for method in CANDIDATES:
            try:
                count = self.count(method)
                found.append((count, self._loss(method, count), method))
            except ValueError as error:
                err.print(f"without {method}: {error}")
        count, _, method = min(found)
        return method, count

    def _measure_loss(self, method: str, count: int) -> float:
        """Points of validation accuracy that the method costs at this size."""
        pruned = self._reductions.reduce(method, count)
        # At the old size one compiled program serves the whole search.
        at_old_size = lastax.surgery.expand_to_original(pruned.model, self._reductions.model, pruned.keep)
        reached = self._accuracy(at_old_size)
        states = sum(self._reductions.config.states)
        err.print(f"{method}, {count} of {states} states: validation {percent(reached)}")
        return 100 * (self._whole - reached)


def _fewest(low: int, high: int, acceptable: Callable[[int], bool]) -> int:
    """By bisection, a count that is acceptable while one less is not.

    `high`, where nothing is removed, counts as acceptable. Accuracy does not fall evenly, so a
    smaller count may be acceptable too.
    """
    while low < high:
        middle = (low + high) // 2
        if acceptable(middle):
            high = middle
        else:
            low = middle + 1
    return high
