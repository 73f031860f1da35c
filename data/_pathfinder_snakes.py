"""Vectorized growth of the snakes of Pathfinder images.

A paddle is (raster, row, column, direction); see `Paddles`. The random numbers of a snake depend
on its key alone.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64, UInt64

from lastax.data._pathfinder_conflicts import Conflicts, make_conflicts
from lastax.data._pathfinder_paddles import FULL, WEIGHT_ONE, Paddles, make_paddles
from lastax.data._pathfinder_settings import Settings
from lastax.data._random_tree import below, children

_SEED_TRIES = 3
_LEAST_CHANCE = 1e-4  # total probability of all candidates

Places = tuple[Int[np.ndarray, "2 n"], Bool[np.ndarray, " n"]]
Find = Callable[
    [Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], UInt64[np.ndarray, " n"]], Places
]


@dataclass(frozen=True)
class Kit:
    """Tables for placing paddles with one margin."""

    settings: Settings
    paddles: Paddles
    conflicts: Conflicts


@functools.cache
def make_kit(settings: Settings, margin: int) -> Kit:
    """The tables for `settings` and `margin`. The first call takes up to 0.5 s."""
    return Kit(settings, make_paddles(settings, margin), make_conflicts(settings, margin))


@dataclass(frozen=True)
class Grown:
    """Snakes after adding one paddle, without the snakes that could not grow.

    Attributes:
        kept: indices of the remaining snakes.
        paddles: the new paddles.
        pivots: pivots of the new paddles.
    """

    kept: Int64[np.ndarray, " n"]
    paddles: Int32[np.ndarray, "4 n"]
    pivots: Int32[np.ndarray, "2 n"]


def begin(kit: Kit, keys: UInt64[np.ndarray, " n"], find: Find) -> Grown:
    """Place the first paddle of a snake for each of `keys`.

    Each of up to three tries draws a direction and a tail. `find(which, rasters, keys)` returns
    tails and whether they exist. A try succeeds if head and pivot lie in the image.
    """
    directions = np.zeros(len(keys), np.int64)
    tails = np.zeros((2, len(keys)), np.int32)
    placed = np.zeros(len(keys), bool)
    pending = np.arange(len(keys))
    for number in range(_SEED_TRIES):
        tried = children(keys[pending], number)
        drawn = below(360, tried, 0)
        found, some = find(pending, kit.paddles.raster[drawn], tried)
        drawn, found, pending = drawn[some], found[:, some], pending[some]
        inside = _inside(kit, found + kit.paddles.seed_heads[drawn].T)
        inside &= _inside(kit, found + kit.paddles.seed_pivots[drawn].T)
        directions[pending], tails[:, pending], placed[pending] = drawn, found, inside
        pending = pending[~inside]
    kept = np.flatnonzero(placed)
    directions, tails = directions[kept], tails[:, kept]
    pivots = tails + kit.paddles.seed_pivots[directions].T
    return Grown(kept, _paddles(kit, directions, tails), pivots)


def grow(
    kit: Kit,
    placed: Int32[np.ndarray, "paddles 4 n"],
    pivots: Int32[np.ndarray, "2 n"],
    directions: Int32[np.ndarray, " n"],
    chance: Float64[np.ndarray, " n"],
) -> Grown:
    """Add one paddle to each snake whose last paddle has `pivots` and `directions`.

    The published rule draws up to three heads from the candidates, with replacement, and takes
    the first one whose paddle does not collide. This is equivalent to a single draw, `chance`: a
    head is found with probability 1 - (1 - q)^3, where q is the share of candidates that do not
    collide, and it is one of those candidates with probability proportional to its weight.
    """
    pivots = pivots + kit.paddles.turns[directions].T
    taken, collide = kit.conflicts.look_up(placed[:, 0], placed[:, 1:3], pivots)
    weights = np.take(kit.paddles.weights, directions, axis=0) * (FULL - taken)
    total = weights.sum(axis=1, dtype=np.int32)
    weights *= ~collide
    free = weights.sum(axis=1, dtype=np.int32)
    missed = 1 - free / np.maximum(total, 1)
    found = 1 - missed * missed * missed
    kept = np.flatnonzero((total >= _LEAST_CHANCE * FULL * WEIGHT_ONE) & (chance < found))
    free, pivots = free[kept], pivots[:, kept]
    drawn = np.minimum((chance[kept] / found[kept] * free).astype(np.int32), free - 1)
    sums = np.cumsum(weights[kept], axis=1, dtype=np.int32)
    candidates = np.argmax(sums > drawn[:, None], axis=1)
    return Grown(
        kept=kept,
        paddles=_paddles(kit, 360 + candidates, pivots + kit.paddles.heads[candidates].T),
        pivots=pivots,
    )


def _paddles(
    kit: Kit, directions: Int64[np.ndarray, " n"], places: Int32[np.ndarray, "2 n"]
) -> Int32[np.ndarray, "4 n"]:
    return np.stack([kit.paddles.raster[directions], *places, directions]).astype(np.int32)


def _inside(kit: Kit, points: Int[np.ndarray, "2 n"]) -> Bool[np.ndarray, " n"]:
    return np.all((points >= 0) & (points < kit.settings.resolution), axis=0)
