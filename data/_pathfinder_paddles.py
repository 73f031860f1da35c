"""The paddles that Pathfinder pictures are made of: every way to draw one, drawn once."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

from lastax.data._pathfinder_settings import Settings

ANTIALIAS = 2  # all is drawn that much larger, then made smaller
FULL = 255
OCCUPIED = 76  # masks count in 255ths: no snake begins where more than 0.3 is taken
WEIGHT_ONE = 2**16
_DEGREES = np.arange(-180, 180) * np.pi / 180
_SOMEWHERE = 64  # steps are rounded up from a place, as float noise would count about 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Paddles:
    """All paddles of one size and margin. Points and steps are (row, column).

    Directions have numbers. The first 360 are those of a snake's first paddle, by degree. The
    others lead from a pivot, a margin before the paddle, to one of the candidates for its head,
    the far end. A first paddle is drawn from its tail on, any other from its head back.

    Attributes:
        half: rasters are 2 * half + 1 pixels wide and drawn from their middle on.
        lines: how bright each raster is, 0..255.
        masks: how far each takes the room, 0..255.
        raster: the raster of a paddle of each direction.
        angles: in which a paddle of each direction is drawn, in radians.
        turns: step from a paddle's pivot to the next paddle's.
        weights: of each candidate after a paddle of each direction, WEIGHT_ONE for straight on.
            Integers, as their sums are the same in whichever order they are added.
        heads: step from a pivot to each candidate.
        seed_heads: step from the tail of a first paddle to its head.
        seed_pivots: step from the tail of a first paddle to its pivot.
        footprints: pixels that must be free for a first paddle of each raster, as steps from its
            tail; some twice.
        tails: pixels where the first long snake may begin, a list for each raster ...
        tail_counts: ... of this length, then repeated. No snake begins with a raster that has none.
        around: from the tail of the first long snake to the second one's, by degree, not rounded.
    """

    half: int
    lines: UInt8[np.ndarray, "rasters side side"]
    masks: UInt8[np.ndarray, "rasters side side"]
    raster: Int64[np.ndarray, " directions"]
    angles: Float64[np.ndarray, " directions"]
    turns: Int32[np.ndarray, "directions 2"]
    weights: Int32[np.ndarray, "directions candidates"]
    heads: Int32[np.ndarray, "candidates 2"]
    seed_heads: Int32[np.ndarray, "360 2"]
    seed_pivots: Int32[np.ndarray, "360 2"]
    footprints: Int32[np.ndarray, "rasters pixels 2"]
    tails: Int64[np.ndarray, "rasters places 2"]
    tail_counts: Int64[np.ndarray, " rasters"]
    around: Float64[np.ndarray, "360 2"]


@functools.cache
def make_paddles(settings: Settings, margin: int) -> Paddles:
    """The paddles of pictures drawn with `settings` and `margin`."""
    length = settings.paddle_length
    heads = _circle(length + margin)
    turned = np.arctan2(heads[:, 0], heads[:, 1])
    directions = np.concatenate([_DEGREES, turned])
    angles = np.concatenate([_DEGREES, _flipped(turned)])
    half = length + int(np.ceil(settings.paddle_thickness)) + margin
    ends, raster = np.unique(
        steps(angles, length * ANTIALIAS, half * ANTIALIAS), axis=0, return_inverse=True
    )
    thickness = round(settings.paddle_thickness * ANTIALIAS)
    drawn = np.stack([_draw_line(end, half * ANTIALIAS, thickness) for end in ends])
    lines = np.stack([shrink(line, 2 * half + 1) for line in drawn])
    masks = np.stack([shrink(room, 2 * half + 1) for room in dilate(drawn, margin * ANTIALIAS)])
    raster = raster.reshape(-1)
    seed_heads = steps(_DEGREES, length)
    footprints = _footprints(masks, length + margin)
    tails = _tails(settings, footprints)
    tail_counts = np.array(list(map(len, tails)))
    return Paddles(
        half=half,
        lines=lines,
        masks=masks,
        raster=raster,
        angles=angles,
        turns=steps(directions, length + 2 * margin),
        weights=_weights(directions, turned, settings.continuity),
        heads=heads,
        seed_heads=seed_heads,
        seed_pivots=seed_heads + steps(_flipped(_DEGREES), length + margin),
        footprints=footprints,
        tails=np.stack([np.resize(places, (max(tail_counts), 2)) for places in tails]),
        tail_counts=tail_counts,
        around=_moves(_DEGREES, settings.seed_distance),
    )


def steps(
    angles: Float64[np.ndarray, " n"], length: int, start: int = _SOMEWHERE
) -> Int32[np.ndarray, "n 2"]:
    """From a pixel `length` on, as (rows, columns), rounded up."""
    return np.ceil(start + _moves(angles, length)).astype(np.int32) - start


def _moves(angles: Float64[np.ndarray, " n"], length: int) -> Float64[np.ndarray, "n 2"]:
    return length * np.stack([np.sin(angles), np.cos(angles)], axis=1)


def dilate(rasters: UInt8[np.ndarray, "n h w"], radius: int) -> UInt8[np.ndarray, "n h w"]:
    """Each pixel of each raster as bright as the brightest within `radius` of it."""
    _, height, width = rasters.shape
    padded = np.pad(rasters, ((0, 0), (radius, radius), (radius, radius)))
    result = np.zeros_like(rasters)
    for row, column in np.argwhere(_disk(radius)):
        shifted = padded[:, row : row + height, column : column + width]
        np.maximum(result, shifted, out=result)
    return result


def _disk(radius: int) -> Bool[np.ndarray, "side side"]:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return rows**2 + columns**2 <= radius**2


def _circle(radius: int) -> Int32[np.ndarray, "n 2"]:
    """The pixels on a circle about a pixel, in the order of rows, then columns."""
    angles = np.arange(0, 360, 360 / (2 * np.pi * radius)) * np.pi / 180
    points = _SOMEWHERE + _moves(angles, radius)
    return np.unique(points.astype(np.int32), axis=0) - _SOMEWHERE


def _flipped(angles: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.where(angles < 0, angles + np.pi, angles - np.pi)


def _draw_line(end: Int32[np.ndarray, " 2"], half: int, thickness: int) -> UInt8[np.ndarray, "s s"]:
    from PIL import Image, ImageDraw

    picture = Image.new("L", (2 * half + 1, 2 * half + 1))
    corners = [(half, half), (half + int(end[1]), half + int(end[0]))]
    ImageDraw.Draw(picture).line(corners, fill=FULL, width=thickness)
    return np.asarray(picture)


def shrink(raster: UInt8[np.ndarray, "s s"], side: int) -> UInt8[np.ndarray, "t t"]:
    """`raster` made smaller, smoothly."""
    from PIL import Image

    return np.asarray(Image.fromarray(raster).resize((side, side), Image.Resampling.LANCZOS))


def _weights(
    directions: Float64[np.ndarray, " n"], turned: Float64[np.ndarray, " c"], continuity: float
) -> Int32[np.ndarray, "n c"]:
    """cos(continuity * turn)**2 of the turn from each direction to each candidate's."""
    turn = np.abs(turned - directions[:, None])
    turn = np.minimum(turn, 2 * np.pi - turn)
    chance = np.cos(np.minimum(continuity * turn, np.pi / 2)) ** 2
    return np.rint(chance * WEIGHT_ONE).astype(np.int32)


def _footprints(
    masks: UInt8[np.ndarray, "rasters side side"], reach: int
) -> Int32[np.ndarray, "rasters pixels 2"]:
    """Where a first paddle takes all the room of a pixel, as steps from its tail.

    The original draws this footprint in a square of its own, `reach` pixels to each side of the
    tail, and there one pixel too far down and right. That decides where snakes begin, so it is
    done here as well.
    """
    middle = masks.shape[1] // 2
    found = []
    for mask in masks:
        pixels = np.argwhere(mask == FULL) - middle + 1
        found.append(pixels[np.all(np.abs(pixels) <= reach, axis=1)])
    most = max(map(len, found))
    return np.stack([np.resize(pixels, (most, 2)) for pixels in found]).astype(np.int32)


def _tails(
    settings: Settings, footprints: Int32[np.ndarray, "rasters pixels 2"]
) -> list[Int64[np.ndarray, "places 2"]]:
    """For each raster, the pixels whose footprint lies in the middle of an empty picture.

    Outside the picture footprints are free. But if one could lie there as a whole, the original
    finds no place at all: its dilation then has nothing to take a maximum of. So first paddles
    point up and to the left, and many short snakes find no place.
    """
    side, band = settings.resolution, 2 * settings.seed_distance
    reach = int(np.abs(footprints).max())
    inside = np.zeros((side + 2 * reach, side + 2 * reach), bool)
    inside[reach : reach + side, reach : reach + side] = True
    taken = inside.copy()
    taken[reach + band : reach + side - band, reach + band : reach + side - band] = False
    tails = []
    for footprint in footprints + reach:
        touches, blocked = np.zeros((2, side, side), bool)
        for row, column in footprint:
            touches |= inside[row : row + side, column : column + side]
            blocked |= taken[row : row + side, column : column + side]
        tails.append(np.argwhere(~blocked if touches.all() else np.zeros_like(blocked)))
    return tails
