"""Drawing of Pathfinder images from their snakes, and sample sheets."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int, Int32, UInt8

from lastax.data._pathfinder_canvas import Canvas
from lastax.data._pathfinder_paddles import ANTIALIAS, FULL, shrink
from lastax.data._pathfinder_settings import Settings
from lastax.data._pathfinder_snakes import Kit

if TYPE_CHECKING:
    from PIL.Image import Image

_PIXELS_AT_ONCE = 2**20  # bounds memory
_FILTER = 3  # radius of the downsampling filter, in pixels


def draw(
    kit: Kit,
    contours: Int32[np.ndarray, "paddles 4 n"],
    distractors: Int32[np.ndarray, "others 4 n"],
    marked: Int[np.ndarray, "2 n 2"],
) -> UInt8[np.ndarray, "n side side"]:
    """Draw paddles and markers. Paddles with raster -1 are absent.

    Overlapping objects take the maximum. Each image is then scaled to 0..255, like the published
    images.

    Args:
        kit: tables for placing and drawing paddles.
        contours: paddles of the long snakes.
        distractors: paddles of the short snakes.
        marked: positions of the two markers.
    """
    count, side = marked.shape[1], kit.settings.resolution
    pictures = np.empty((count, side, side), np.uint8)
    step = -(-_PIXELS_AT_ONCE // side**2)
    for start in range(0, count, step):
        some = slice(start, start + step)
        light = _light(kit, contours[..., some], distractors[..., some], marked[:, some])
        least = light.min(axis=(1, 2), keepdims=True)
        most = light.max(axis=(1, 2), keepdims=True)
        pictures[some] = (light - least) * (FULL / (most - least)) + 0.5
    return pictures


def _light(
    kit: Kit,
    contours: Int32[np.ndarray, "paddles 4 n"],
    distractors: Int32[np.ndarray, "others 4 n"],
    marked: Int[np.ndarray, "2 n 2"],
) -> Float64[np.ndarray, "n side side"]:
    short = kit.settings.snake_contrast
    layers = (
        (_lines(kit, contours), short * kit.settings.paddle_contrast),
        (_lines(kit, distractors), short),
        (_markers(kit.settings, marked), 1.0),
    )
    light = np.zeros(layers[0][0].inside.shape)
    for canvas, contrast in layers:
        np.maximum(light, canvas.inside / FULL * contrast, out=light)
    return light


def _lines(kit: Kit, paddles: Int32[np.ndarray, "paddles 4 n"]) -> Canvas:
    canvas = Canvas(paddles.shape[2], kit.settings.resolution, kit.paddles.half)
    for rasters, *places, _ in paddles:
        there = np.flatnonzero(rasters >= 0)
        lines = kit.paddles.lines[rasters[there]]
        canvas.stamp(there, np.stack(places)[:, there], lines)
    return canvas


def _markers(settings: Settings, marked: Int[np.ndarray, "2 n 2"]) -> Canvas:
    rasters = _marker_rasters(settings.marker_radius)
    side, half = settings.resolution, len(rasters) // 2
    canvas = Canvas(marked.shape[1], side, half)
    for points in marked:
        # Downsampling loses light near an edge, so there is one raster per distance from it.
        near = np.where(points < half, points, np.maximum(half, points - side + 2 * half + 1))
        places = (points - near + half).T.astype(np.int32)
        canvas.stamp(np.arange(len(points)), places, rasters[near[:, 0], near[:, 1]])
    return canvas


@functools.cache
def _marker_rasters(radius: float) -> UInt8[np.ndarray, "side side side side"]:
    """For each pixel of a small image, the image of a disk around it."""
    half = int(np.ceil(radius)) + _FILTER + 1
    side = 2 * half + 1
    pixels = np.arange(side * ANTIALIAS)
    rasters = np.empty((side, side, side, side), np.uint8)
    for row, column in np.ndindex(side, side):
        rows, columns = pixels[:, None] - row * ANTIALIAS, pixels - column * ANTIALIAS
        disk = rows**2 + columns**2 <= (radius * ANTIALIAS) ** 2
        rasters[row, column] = shrink(disk.astype(np.uint8) * np.uint8(FULL), side)
    return rasters


def sample_sheet(
    images: UInt8[np.ndarray, "n side side"],
    labels: Int[np.ndarray, " n"],
    *,
    columns: int = 6,
    width: int = 1200,
) -> "Image":
    """A sheet of images: those with label 0 above, those with label 1 below.

    Pixels are enlarged by an integer factor, so the sheet has at most `width` pixels per row.
    """
    from PIL import Image, ImageDraw, ImageFont

    captions = ("0: the disks mark two snakes", "1: the disks mark the ends of one snake")
    side = images.shape[1]
    gap, line = 8, 28
    scale = max(1, ((width - gap) // columns - gap) // side)
    cell = side * scale + gap
    blocks = [images[labels == label] for label in range(2)]
    heights = [line + cell * -(-len(block) // columns) for block in blocks]
    sheet = Image.new("L", (columns * cell + gap, sum(heights) + gap), 255)
    writer, top = ImageDraw.Draw(sheet), 0
    for caption, block, height in zip(captions, blocks, heights, strict=True):
        writer.text((gap, top + gap), caption, fill=0, font=ImageFont.load_default(16))
        for number, image in enumerate(block):
            row, column = divmod(number, columns)
            corner = (gap + column * cell, top + line + row * cell)
            sheet.paste(Image.fromarray(np.kron(image, np.ones((scale, scale), np.uint8))), corner)
        top += height
    return sheet
