"""The paddles (dashes) of Pathfinder images, drawn once per orientation."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

from lastax.data._pathfinder_settings import Settings

ANTIALIAS = 2  # factor of supersampling
FULL = 255
OCCUPIED = 76  # no snake begins where a mask exceeds 0.3 (in 255ths)
WEIGHT_ONE = 2**16
_DEGREES = np.arange(-180, 180) * np.pi / 180
_SOMEWHERE = 64  # rounding up near 0 would depend on float noise, so it starts here


@dataclass(frozen=True, kw_only=True, eq=False)
class Paddles:
    """All paddles of one size and margin. Points and offsets are (row, column).

    Directions are numbered. The first 360 are directions of the first paddle of a snake, in
    degrees. Each other direction leads from a pivot, which lies one margin before the paddle, to
    one candidate for the head, the far end of the paddle. A first paddle is drawn from its tail
    to its head, all other paddles from head to tail.

    Attributes:
        half: rasters are 2 * half + 1 pixels wide; paddles start at the center.
        lines: brightness of each raster, 0..255.
        masks: area that each raster occupies, 0..255.
        raster: raster of each direction.
        angles: drawing angle of each direction, in radians.
        turns: offset from the pivot of a paddle to the pivot of the next one.
        weights: weight of each candidate after each direction; WEIGHT_ONE for no turn. Integers,
            so that sums do not depend on the order.
        heads: offset from a pivot to each candidate.
        seed_heads: offset from the tail of a first paddle to its head.
        seed_pivots: offset from the tail of a first paddle to its pivot.
        footprints: pixels that must be free for a first paddle of each raster, as offsets from
            the tail; some are repeated.
        tails: for each raster, pixels where the first long snake may begin, repeated cyclically.
        tail_counts: number of different `tails` of each raster. No snake begins with a raster
            whose count is 0.
        around: offset from the tail of the first long snake to the tail of the second one, by
            degree, not rounded.
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
    """The paddles for `settings` and `margin`."""
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
    """Offsets of `length` in the directions `angles`, as (rows, columns), rounded up."""
    return np.ceil(start + _moves(angles, length)).astype(np.int32) - start


def _moves(angles: Float64[np.ndarray, " n"], length: int) -> Float64[np.ndarray, "n 2"]:
    return length * np.stack([np.sin(angles), np.cos(angles)], axis=1)


def dilate(rasters: UInt8[np.ndarray, "n h w"], radius: int) -> UInt8[np.ndarray, "n h w"]:
    """Grayscale dilation: the maximum within `radius` of each pixel."""
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
    """The pixels on a circle around the origin, sorted by row, then column."""
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
    """`raster` downsampled with a Lanczos filter."""
    from PIL import Image

    return np.asarray(Image.fromarray(raster).resize((side, side), Image.Resampling.LANCZOS))


def _weights(
    directions: Float64[np.ndarray, " n"], turned: Float64[np.ndarray, " c"], continuity: float
) -> Int32[np.ndarray, "n c"]:
    """cos(continuity * turn)^2, where `turn` is the angle from each direction to each candidate."""
    turn = np.abs(turned - directions[:, None])
    turn = np.minimum(turn, 2 * np.pi - turn)
    chance = np.cos(np.minimum(continuity * turn, np.pi / 2)) ** 2
    return np.rint(chance * WEIGHT_ONE).astype(np.int32)


def _footprints(
    masks: UInt8[np.ndarray, "rasters side side"], reach: int
) -> Int32[np.ndarray, "rasters pixels 2"]:
    """Pixels that a first paddle occupies completely, as offsets from its tail.

    The original code draws this footprint into a square that extends `reach` pixels to each side
    of the tail, one pixel too far down and to the right. The shift decides where snakes begin, so
    this function reproduces it.
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
    """For each raster, the pixels whose footprint lies in the central region of an empty image.

    A footprint may extend beyond the image. If a footprint could lie completely outside, the
    original code finds no place at all, because its dilation takes the maximum of an empty set.
    Therefore first paddles point up and to the left, and many short snakes find no place.
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
