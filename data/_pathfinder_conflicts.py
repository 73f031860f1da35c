"""Lookup tables of conflicts between paddles, so that snakes grow without drawing.

The effect of a paddle on the next paddle of a snake depends only on the offset between the paddle
and the pivot of the snake: the dilated mask lowers the probability of the candidates for the
head, and a candidate collides if its own paddle would overlap the mask. Both are computed once
for each raster and offset.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt64

from lastax.data._pathfinder_paddles import FULL, Paddles, dilate, make_paddles
from lastax.data._pathfinder_settings import Settings

COLLISION = 459  # two masks collide where their sum reaches 1.8 (in 255ths)
_WORD = 64  # maximal number of candidates: one bit each


@dataclass(frozen=True, kw_only=True, eq=False)
class Conflicts:
    """Effects of paddles and of the border on the candidates around a pivot.

    Attributes:
        taken: how much of the probability of each candidate is removed, in 255ths; one row per
            raster and offset, then one row per pivot for the border.
        hits: for the same rows, bit c is set if candidate c collides.
        candidates: number of candidates.
        reach: distance in rows or columns from which a paddle has no effect.
        border: first row of the border.
        outside: pivots this far outside the image have no candidate inside.
        resolution: side of the image.
    """

    taken: UInt8[np.ndarray, "rows width"]
    hits: UInt64[np.ndarray, " rows"]
    candidates: int
    reach: int
    border: int
    outside: int
    resolution: int

    def look_up(
        self,
        rasters: Int32[np.ndarray, "paddles n"],
        places: Int32[np.ndarray, "paddles 2 n"],
        pivots: Int32[np.ndarray, "2 n"],
    ) -> tuple[UInt8[np.ndarray, "n candidates"], Bool[np.ndarray, "n candidates"]]:
        """Effect of paddles at `places` and of the border, for each of `pivots`.

        Returns:
            How much of the probability of each candidate is removed, and which candidates collide.
        """
        side, across = 2 * self.reach + 1, self.resolution + 2 * self.outside
        steps = np.clip(pivots - places, -self.reach, self.reach) + self.reach
        inside = np.clip(pivots + self.outside, 0, across - 1)
        rows = np.empty((len(rasters) + 1, pivots.shape[1]), np.int32)
        rows[0] = self.border + inside[0] * across + inside[1]
        rows[1:] = (rasters * side + steps[:, 0]) * side + steps[:, 1]
        taken = np.maximum.reduce(np.take(self.taken, rows, axis=0), axis=0)
        hits = np.bitwise_or.reduce(np.take(self.hits, rows), axis=0)
        bits = hits.astype("<u8").view(np.uint8).reshape(-1, _WORD // 8)
        collide = np.unpackbits(bits, axis=1, count=self.candidates, bitorder="little")
        return taken[:, : self.candidates], collide.view(bool)


@dataclass(frozen=True, eq=False)
class _Strong:
    """Pixels of the mask of a candidate that can collide: offsets from the pivot, and values."""

    steps: Int64[np.ndarray, "n 2"]
    values: Int64[np.ndarray, " n"]


@functools.cache
def make_conflicts(settings: Settings, margin: int) -> Conflicts:
    """The conflicts between the paddles that `make_paddles` makes from the same arguments."""
    paddles = make_paddles(settings, margin)
    strong = _strong_pixels(paddles)
    span = int(max(np.abs(paddles.heads).max(), *(np.abs(one.steps).max() for one in strong)))
    reach = span + paddles.half + margin + 1
    outside = span + 1
    border = np.pad(
        np.zeros((1,) + 2 * (settings.resolution - 2 * settings.padding,), np.uint8),
        _sides(settings.padding),
        constant_values=FULL,
    )
    tables = (
        _rows(
            paddles,
            strong,
            masks=np.pad(paddles.masks, _sides(span + reach - paddles.half)),
            dilated=dilate(np.pad(paddles.masks, _sides(span + reach - paddles.half)), margin),
            span=span,
        ),
        _rows(
            paddles,
            strong,
            masks=np.pad(border, _sides(span + outside)),
            # Heads must be inside.
            dilated=np.pad(dilate(border, margin), _sides(span + outside), constant_values=FULL),
            span=span,
        ),
    )
    return Conflicts(
        taken=np.concatenate([taken for taken, _ in tables]),
        hits=np.concatenate([hits for _, hits in tables]),
        candidates=len(paddles.heads),
        reach=reach,
        border=len(tables[0][1]),
        outside=outside,
        resolution=settings.resolution,
    )


def _sides(width: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (width, width), (width, width))


def _strong_pixels(paddles: Paddles) -> list[_Strong]:
    masks = paddles.masks[paddles.raster[360:]]
    strong = []
    for head, mask in zip(paddles.heads, masks, strict=True):
        pixels = np.argwhere(mask >= COLLISION - FULL)
        values = mask[pixels[:, 0], pixels[:, 1]].astype(np.int64)
        strong.append(_Strong(head + pixels - paddles.half, values))
    return strong


def _rows(
    paddles: Paddles,
    strong: list[_Strong],
    *,
    masks: UInt8[np.ndarray, "rasters h w"],
    dilated: UInt8[np.ndarray, "rasters h w"],
    span: int,
) -> tuple[UInt8[np.ndarray, "rows width"], UInt64[np.ndarray, " rows"]]:
    """Rows of a table for pivots at all pixels of the rasters, except `span` at each edge."""
    count, height, width = masks.shape
    shape = (count, height - 2 * span, width - 2 * span)

    def moved(rasters: np.ndarray, step: np.ndarray) -> np.ndarray:
        row, column = span + step
        return rasters[:, row : row + shape[1], column : column + shape[2]]

    # Rows of a multiple of 8 bytes are copied fast.
    taken = np.zeros((*shape, -8 * (-len(paddles.heads) // 8)), np.uint8)
    hits = np.zeros(shape, np.uint64)
    for candidate, (head, pixels) in enumerate(zip(paddles.heads, strong, strict=True)):
        taken[..., candidate] = moved(dilated, head)
        collides = np.zeros(shape, bool)
        for step, value in zip(pixels.steps, pixels.values.tolist(), strict=True):
            collides |= moved(masks, step) >= COLLISION - value
        hits |= collides.astype(np.uint64) << np.uint64(candidate)
    return taken.reshape(-1, taken.shape[-1]), hits.reshape(-1)
