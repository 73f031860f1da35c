"""Where the snakes of Pathfinder pictures lie.

Two long snakes grow by turns and all begins anew when one cannot go on; then short ones are put
where there is room. Linsley et al., NeurIPS 2018 (github.com/drewlinsley/pathfinder). Hundreds of
tries a picture are needed, so thousands are made side by side.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt64

from lastax.data._pathfinder_canvas import Canvas
from lastax.data._pathfinder_paddles import FULL, OCCUPIED
from lastax.data._pathfinder_settings import Level
from lastax.data._pathfinder_snakes import Kit, Places, begin, grow
from lastax.data._random_tree import below, children, uniform

_TRIES_AT_ONCE = 8192
_DISTRACTOR_TRIES = 5
_LEAST_ROOM = 0.01  # of the picture
_GUESSES = 16  # of a free pixel, before all are looked at
_FAR = -(2**14)  # where paddles lie that are not there

# Children of a picture's key: tries at long snakes from 0 on, then those at short ones.
_DISTRACTORS = 2**40
# Children of a try's key: one for each paddle, by number, then those for first paddles.
_SEEDS = 64


@dataclass(frozen=True)
class Contours:
    """The two long snakes of pictures.

    Attributes:
        paddles: by turns of the first and the second snake.
        tries: how many it took.
    """

    paddles: Int32[np.ndarray, "paddles 4 n"]
    tries: Int64[np.ndarray, " n"]


def place_contours(kit: Kit, length: int, keys: UInt64[np.ndarray, " n"]) -> Contours:
    """Two snakes of `length` paddles for the picture of each key: the first try that succeeds."""
    paddles = np.zeros((2 * length, 4, len(keys)), np.int32)
    tries = np.zeros(len(keys), np.int64)
    pending = np.arange(len(keys))
    while pending.size:
        each = -(-_TRIES_AT_ONCE // pending.size)
        numbers = tries[pending, None] + np.arange(each)
        tried = children(keys[pending, None], numbers).reshape(-1)
        succeeded, snakes = _try_contours(kit, length, tried)
        won, first = np.unique(succeeded // each, return_index=True)
        tries[pending] += each
        tries[pending[won]] += succeeded[first] % each + 1 - each
        paddles[:, :, pending[won]] = snakes[:, :, first]
        pending = np.delete(pending, won)
    return Contours(paddles, tries)


def _try_contours(
    kit: Kit, length: int, keys: UInt64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " m"], Int32[np.ndarray, "paddles 4 m"]]:
    """One try for each key at two snakes: which ones succeeded, and their paddles by turns.

    A paddle keeps off all before it but the last one of either snake. So the last of the other
    snake is no obstacle, as if both grew at once.
    """
    first = begin(kit, children(keys, _SEEDS), functools.partial(_first_tail, kit))
    keys = keys[first.kept]
    tails = first.paddles[1:3]
    second = begin(kit, children(keys, _SEEDS + 1), functools.partial(_second_tail, kit, tails))
    alive = first.kept[second.kept]
    keys = keys[second.kept]
    placed = np.stack([first.paddles[:, second.kept], second.paddles])
    pivots = [first.pivots[:, second.kept], second.pivots]
    for paddle in range(2, 2 * length):
        chance = uniform(keys, paddle)
        directions = placed[paddle - 2, 3]
        grown = grow(kit, placed[: paddle - 2], pivots[0], directions, chance)
        alive, keys = alive[grown.kept], keys[grown.kept]
        placed = np.concatenate([np.take(placed, grown.kept, axis=2), grown.paddles[None]])
        pivots = [pivots[1][:, grown.kept], grown.pivots]
    return alive, placed


def _first_tail(
    kit: Kit,
    which: Int64[np.ndarray, " n"],
    rasters: Int64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
) -> Places:
    del which  # all pictures are empty
    counts = kit.paddles.tail_counts[rasters]
    return kit.paddles.tails[rasters, below(counts, keys, 1)].T, counts > 0


def _second_tail(
    kit: Kit,
    first: Int32[np.ndarray, "2 all"],
    which: Int64[np.ndarray, " n"],
    rasters: Int64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
) -> Places:
    """A place at the seed distance from `first`; whether it is free does not matter."""
    steps = kit.paddles.around[below(360, keys, 1)].T
    return np.rint(first[:, which] + steps).astype(np.int32), np.ones(len(keys), bool)


def place_distractors(
    kit: Kit,
    level: Level,
    contours: Int32[np.ndarray, "paddles 4 n"],
    keys: UInt64[np.ndarray, " n"],
) -> Int32[np.ndarray, "snakes length 4 n"]:
    """Short snakes beside `contours`. Where one finds no room in five tries, its rasters are -1."""
    length, snakes = level.distractor_length, level.distractors(kit.settings)
    placed = np.empty((snakes, length, 4, len(keys)), np.int32)
    placed[:] = np.array([0, _FAR, _FAR, 0])[:, None]
    found = np.zeros((snakes, len(keys)), bool)
    # The original keeps no room for the first snake's last paddle.
    crowd = np.delete(contours, -2, axis=0)
    room = _Room(kit, len(keys))
    room.take(np.arange(len(keys)), crowd)
    for snake in range(snakes):
        pending = np.flatnonzero(room.shares() >= _LEAST_ROOM)
        others = np.concatenate([crowd, placed[:snake].reshape(-1, 4, len(keys))])
        for number in range(_DISTRACTOR_TRIES):
            tried = children(keys[pending], _DISTRACTORS + snake * _DISTRACTOR_TRIES + number)
            kept, paddles = _try_distractor(kit, length, room, pending, others, tried)
            room.take(pending[kept], paddles)
            placed[snake][:, :, pending[kept]] = paddles
            found[snake, pending[kept]] = True
            pending = np.delete(pending, kept)
    placed[:, :, 0] = np.where(found[:, None], placed[:, :, 0], -1)
    return placed


def _try_distractor(
    kit: Kit,
    length: int,
    room: "_Room",
    pictures: Int64[np.ndarray, " n"],
    others: Int32[np.ndarray, "paddles 4 all"],
    keys: UInt64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " m"], Int32[np.ndarray, "length 4 m"]]:
    """One try at a short snake in each of `pictures`: which ones succeeded, and their paddles."""
    seeds = begin(kit, children(keys, _SEEDS), functools.partial(room.find, pictures))
    kept, pivots, paddles = seeds.kept, seeds.pivots, seeds.paddles[None]
    for paddle in range(1, length):
        placed = np.concatenate([others[:, :, pictures[kept]], paddles[:-1]])
        grown = grow(kit, placed, pivots, paddles[-1, 3], uniform(keys[kept], paddle))
        kept, pivots = kept[grown.kept], grown.pivots
        paddles = np.concatenate([paddles[:, :, grown.kept], grown.paddles[None]])
    return kept, paddles


class _Room:
    """What is free for the tails of short snakes, in pictures that are empty at first."""

    def __init__(self, kit: Kit, count: int):
        self._paddles = kit.paddles
        self._side, padding = kit.settings.resolution, kit.settings.padding
        self._steps = kit.paddles.footprints + kit.paddles.half  # to where the canvas begins
        self._canvas = Canvas(count, self._side, kit.paddles.half)
        self._canvas.inside[:] = FULL
        self._canvas.inside[:, padding:-padding, padding:-padding] = 0

    def take(
        self, pictures: Int64[np.ndarray, " n"], paddles: Int32[np.ndarray, "paddles 4 n"]
    ) -> None:
        """Let paddles lie in `pictures`."""
        for rasters, *places, _ in paddles:
            self._canvas.stamp(pictures, np.stack(places), self._paddles.masks[rasters])
        self._canvas.clear_outside()

    def shares(self) -> Float64[np.ndarray, " n"]:
        """What part of each picture is free."""
        return (self._canvas.inside <= OCCUPIED).mean(axis=(1, 2))

    def find(
        self,
        pictures: Int64[np.ndarray, " all"],
        which: Int64[np.ndarray, " n"],
        rasters: Int64[np.ndarray, " n"],
        keys: UInt64[np.ndarray, " n"],
    ) -> Places:
        """A tail in each of `pictures[which]`, from all those with a free footprint, if any."""
        tails = np.zeros((2, len(which)), np.int32)
        some = self._paddles.tail_counts[rasters] > 0
        tried = np.flatnonzero(some)
        pixels = below(self._side**2, keys[tried, None], 1 + np.arange(_GUESSES))
        points = np.stack(np.divmod(pixels, self._side))
        free = self._free(pictures[which[tried]], points, rasters[tried])
        best = np.argmax(free, axis=1)
        tails[:, tried] = np.take_along_axis(points, best[None, :, None], axis=2)[..., 0]
        # Where no guess was right, all pixels are looked at: the choice stays a fair one.
        for index in tried[~free[np.arange(len(tried)), best]]:
            places = self._all_free(int(pictures[which[index]]), int(rasters[index]))
            some[index] = len(places) > 0
            if some[index]:
                tails[:, index] = places[below(len(places), keys[[index]], 1 + _GUESSES)[0]]
        return tails, some

    def _free(
        self,
        pictures: Int64[np.ndarray, " n"],
        points: Int64[np.ndarray, "2 n guesses"],
        rasters: Int64[np.ndarray, " n"],
    ) -> Bool[np.ndarray, "n guesses"]:
        """Whether footprints of tails at `points` are free."""
        rows, columns = points[..., None] + np.moveaxis(self._steps[rasters], -1, 0)[:, :, None]
        taken = self._canvas.pixels[pictures[:, None, None], rows, columns]
        return taken.max(axis=-1) <= OCCUPIED

    def _all_free(self, picture: int, raster: int) -> Int64[np.ndarray, "n 2"]:
        """All tails in `picture` with a free footprint."""
        pixels, side = self._canvas.pixels[picture], self._side
        taken = np.zeros((side, side), np.uint8)
        for row, column in self._steps[raster]:
            np.maximum(taken, pixels[row : row + side, column : column + side], out=taken)
        return np.argwhere(taken <= OCCUPIED)
