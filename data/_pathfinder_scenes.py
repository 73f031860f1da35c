"""Placement of the snakes of Pathfinder images.

Two long snakes grow in alternation, and both start again if one cannot grow. Then short snakes
are placed in the free area. Linsley et al., NeurIPS 2018 (github.com/drewlinsley/pathfinder). An
image needs hundreds of tries, so thousands of tries run in one vectorized operation.
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
_LEAST_ROOM = 0.01  # share of the image
_GUESSES = 16  # random pixels to test before all pixels are tested
_FAR = -(2**14)  # position of absent paddles

# Children of the key of an image: tries at long snakes from 0, then tries at short ones.
_DISTRACTORS = 2**40
# Children of the key of a try: one per paddle, then those of first paddles.
_SEEDS = 64


@dataclass(frozen=True)
class Contours:
    """The two long snakes of each image.

    Attributes:
        paddles: paddles of the first and the second snake in alternation.
        tries: number of tries.
    """

    paddles: Int32[np.ndarray, "paddles 4 n"]
    tries: Int64[np.ndarray, " n"]


def place_contours(kit: Kit, length: int, keys: UInt64[np.ndarray, " n"]) -> Contours:
    """Two snakes of `length` paddles for each key: the first successful try."""
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
    """One try at two snakes per key: the successful tries, and their paddles in alternation.

    A new paddle avoids all earlier paddles except the last one of each snake. The last paddle of
    the other snake is no obstacle, as if both snakes grew at the same time.
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
    del which  # all images are empty
    counts = kit.paddles.tail_counts[rasters]
    return kit.paddles.tails[rasters, below(counts, keys, 1)].T, counts > 0


def _second_tail(
    kit: Kit,
    first: Int32[np.ndarray, "2 all"],
    which: Int64[np.ndarray, " n"],
    rasters: Int64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
) -> Places:
    """A pixel at the seed distance from `first`. It need not be free."""
    steps = kit.paddles.around[below(360, keys, 1)].T
    return np.rint(first[:, which] + steps).astype(np.int32), np.ones(len(keys), bool)


def place_distractors(
    kit: Kit,
    level: Level,
    contours: Int32[np.ndarray, "paddles 4 n"],
    keys: UInt64[np.ndarray, " n"],
) -> Int32[np.ndarray, "snakes length 4 n"]:
    """Short snakes next to `contours`. Rasters are -1 if five tries found no place."""
    length, snakes = level.distractor_length, level.distractors(kit.settings)
    placed = np.empty((snakes, length, 4, len(keys)), np.int32)
    placed[:] = np.array([0, _FAR, _FAR, 0])[:, None]
    found = np.zeros((snakes, len(keys)), bool)
    # The original code ignores the last paddle of the first snake here.
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
    """One try at a short snake per image: the successful tries, and their paddles."""
    seeds = begin(kit, children(keys, _SEEDS), functools.partial(room.find, pictures))
    kept, pivots, paddles = seeds.kept, seeds.pivots, seeds.paddles[None]
    for paddle in range(1, length):
        placed = np.concatenate([others[:, :, pictures[kept]], paddles[:-1]])
        grown = grow(kit, placed, pivots, paddles[-1, 3], uniform(keys[kept], paddle))
        kept, pivots = kept[grown.kept], grown.pivots
        paddles = np.concatenate([paddles[:, :, grown.kept], grown.paddles[None]])
    return kept, paddles


class _Room:
    """Free area for the tails of short snakes; at first everything inside the border."""

    def __init__(self, kit: Kit, count: int):
        self._paddles = kit.paddles
        self._side, padding = kit.settings.resolution, kit.settings.padding
        self._steps = kit.paddles.footprints + kit.paddles.half  # offsets in the padded canvas
        self._canvas = Canvas(count, self._side, kit.paddles.half)
        self._canvas.inside[:] = FULL
        self._canvas.inside[:, padding:-padding, padding:-padding] = 0

    def take(
        self, pictures: Int64[np.ndarray, " n"], paddles: Int32[np.ndarray, "paddles 4 n"]
    ) -> None:
        """Mark the area of paddles in `pictures` as occupied."""
        for rasters, *places, _ in paddles:
            self._canvas.stamp(pictures, np.stack(places), self._paddles.masks[rasters])
        self._canvas.clear_outside()

    def shares(self) -> Float64[np.ndarray, " n"]:
        """Free share of each image."""
        return (self._canvas.inside <= OCCUPIED).mean(axis=(1, 2))

    def find(
        self,
        pictures: Int64[np.ndarray, " all"],
        which: Int64[np.ndarray, " n"],
        rasters: Int64[np.ndarray, " n"],
        keys: UInt64[np.ndarray, " n"],
    ) -> Places:
        """A random tail with a free footprint in each image, and whether one exists."""
        tails = np.zeros((2, len(which)), np.int32)
        some = self._paddles.tail_counts[rasters] > 0
        tried = np.flatnonzero(some)
        pixels = below(self._side**2, keys[tried, None], 1 + np.arange(_GUESSES))
        points = np.stack(np.divmod(pixels, self._side))
        free = self._free(pictures[which[tried]], points, rasters[tried])
        best = np.argmax(free, axis=1)
        tails[:, tried] = np.take_along_axis(points, best[None, :, None], axis=2)[..., 0]
        # If no guess is free, test all pixels. The choice stays uniform.
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
        """Whether the footprints of tails at `points` are free."""
        rows, columns = points[..., None] + np.moveaxis(self._steps[rasters], -1, 0)[:, :, None]
        taken = self._canvas.pixels[pictures[:, None, None], rows, columns]
        return taken.max(axis=-1) <= OCCUPIED

    def _all_free(self, picture: int, raster: int) -> Int64[np.ndarray, "n 2"]:
        """All tails with a free footprint in one image."""
        pixels, side = self._canvas.pixels[picture], self._side
        taken = np.zeros((side, side), np.uint8)
        for row, column in self._steps[raster]:
            np.maximum(taken, pixels[row : row + side, column : column + side], out=taken)
        return np.argwhere(taken <= OCCUPIED)
