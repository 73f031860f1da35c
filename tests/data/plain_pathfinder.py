"""A second implementation of Pathfinder: one picture at a time, whole frames, slow and plain.

What the published sets are made of, as in the papers and settings that name it; none of the
generator's tables and none of its code.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

SIZES = {  # side: border, between tails, disk, length, thickness, continuity, short, long, in all
    32: (1, 7, 1.5, 2, 0.5, 1.0, 2.0, 1.5, 20),
    64: (1, 12, 2.5, 5, 1.0, 1.8, 0.8, 0.8, 22),
    128: (1, 20, 3.0, 5, 1.5, 1.8, 0.9, 0.9, 35),
    256: (22, 27, 5.0, 5, 2.0, 1.8, 1.0, 1.0, 30),
}
LENGTHS = {"easy": (6, 2), "intermediate": (9, 3), "hard": (14, 4)}


def disk(radius):
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return rows**2 + columns**2 <= radius**2


def dilated(frame, footprint):
    """The brightest pixel under the footprint; -1 where that lies outside as a whole."""
    half = footprint.shape[0] // 2
    padded = np.pad(frame, half, constant_values=-1.0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, footprint.shape)
    return windows[..., footprint].max(axis=-1)


def shrunk(frame):
    """Half the size, an odd number of pixels or an even one."""
    side = (frame.shape[0] + 1) // 2
    small = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small) / 255


def move(angle, length):
    return length * np.array([np.sin(angle), np.cos(angle)])


def step(point, angle, length):
    """The pixel `length` on, rounded up; a sine of 0.49999999999999994 counts as a half."""
    return tuple(np.ceil(np.array(point) + np.round(move(angle, length), 9)).astype(int))


def back(angle):
    return angle + np.pi if angle < 0 else angle - np.pi


@dataclass
class Snake:
    """Paddles so far: (pixel that a paddle is drawn from, in which angle)."""

    pivot: tuple[int, int]
    direction: float
    paddles: list = field(default_factory=list)
    room: np.ndarray | None = None  # of the last paddle: the mask does not have it yet


class Plain:
    def __init__(self, side, margin):
        (self.border, self.apart, self.radius, self.length, self.thickness, self.continuity) = (
            SIZES[side][:6]
        )
        self.short, self.long, self.in_all = SIZES[side][6:]
        self.side, self.margin = side, margin
        self.half = self.length + int(np.ceil(self.thickness)) + margin

    def paddle(self, point, angle, side=None):
        """A frame with a paddle drawn from `point`, and the room that it takes."""
        middle = 2 * self.half
        end = np.ceil(middle + move(angle, 2 * self.length))
        large = Image.new("L", (4 * self.half + 1,) * 2)
        ImageDraw.Draw(large).line(
            [(middle, middle), (int(end[1]), int(end[0]))], 255, round(2 * self.thickness)
        )
        line = np.asarray(large)
        room = ndimage.grey_dilation(line, footprint=disk(2 * self.margin), mode="constant")
        side, around = side or self.side, 4 * self.half
        frames = []
        for raster in (shrunk(line), shrunk(room)):
            frame = np.zeros((side + 2 * around,) * 2)
            row, column = np.array(point) + around - self.half
            frame[row : row + len(raster), column : column + len(raster)] = raster
            frames.append(frame[around:-around, around:-around])
        return frames

    def empty(self):
        """The mask of an empty picture: its border."""
        mask = np.ones((self.side, self.side))
        mask[self.border : -self.border, self.border : -self.border] = 0
        return mask

    def inside(self, *points):
        return all(0 <= value < self.side for point in points for value in point)

    def pivot_of_first(self, tail, angle):
        head = step(tail, angle, self.length)
        return head, step(head, back(angle), self.length + self.margin)

    def free_tails(self, mask, angle, band):
        """All tails of first paddles in direction `angle`, where `band` is taken as well."""
        across = 2 * (self.length + self.margin) + 1
        _, footprint = self.paddle((across // 2 + 1,) * 2, angle, side=across)
        mask = mask.copy()
        mask[:band] = mask[-band:] = mask[:, :band] = mask[:, -band:] = 1
        taken = dilated(mask, footprint == 1)
        return np.argwhere(taken <= 0.3) if taken.min() >= 0 else np.empty((0, 2), int)

    def seed(self, rng, mask, band):
        """A snake of one paddle where there is room, or None."""
        for _ in range(3):
            angle = rng.integers(-180, 180) * np.pi / 180
            tails = self.free_tails(mask, angle, band)
            if not len(tails):
                return None
            tail = tuple(tails[rng.integers(len(tails))])
            head, pivot = self.pivot_of_first(tail, angle)
            if self.inside(head, pivot):
                return Snake(pivot, angle, [(tail, angle)], self.paddle(tail, angle)[1])
        return None

    def second_seed(self, rng, first):
        for _ in range(3):
            angle, around = rng.integers(-180, 180, 2) * np.pi / 180
            tail = tuple(np.round(np.array(first) + move(around, self.apart)).astype(int))
            head, pivot = self.pivot_of_first(tail, angle)
            if self.inside(head, pivot):
                return Snake(pivot, angle, [(tail, angle)], self.paddle(tail, angle)[1])
        return None

    def candidates(self, mask, snake):
        """The next pivot, candidates for the next head, their directions and weights."""
        pivot = step(snake.pivot, snake.direction, self.length + 2 * self.margin)
        radius = self.length + self.margin
        angles = np.arange(0, 2 * np.pi, 1 / radius)
        circle = {
            (int(np.floor(pivot[0] + radius * np.sin(angle))),
             int(np.floor(pivot[1] + radius * np.cos(angle))))
            for angle in angles
        }  # fmt: skip
        heads = sorted(head for head in circle if self.inside(head))
        steps = np.array(heads).reshape(-1, 2) - pivot
        directions = np.arctan2(steps[:, 0], steps[:, 1])
        turns = np.abs(directions - snake.direction)
        turns = np.minimum(turns, 2 * np.pi - turns)
        chances = np.cos(np.minimum(self.continuity * turns, np.pi / 2)) ** 2
        taken = dilated(mask, disk(self.margin))
        weights = chances * [1 - taken[head] for head in heads]
        return pivot, heads, directions, weights

    def collides(self, mask, room):
        return (mask + room).max() >= 1.8 - 1e-9

    def grow(self, rng, mask, snake):
        """One more paddle; the mask with the one before. None if there is no way on."""
        pivot, heads, directions, weights = self.candidates(mask, snake)
        if not len(heads) or weights.sum() < 1e-4:
            return None
        for choice in rng.choice(len(heads), size=3, p=weights / weights.sum()):
            angle = back(directions[choice])
            room = self.paddle(heads[choice], angle)[1]
            if not self.collides(mask, room):
                mask = np.maximum(mask, snake.room)
                paddles = [*snake.paddles, (heads[choice], angle)]
                return mask, Snake(pivot, directions[choice], paddles, room)
        return None

    def try_long(self, rng, length):
        """Two long snakes and the mask after them, or None."""
        mask = self.empty()
        first = self.seed(rng, mask, 2 * self.apart)
        if first is None:
            return None
        second = self.second_seed(rng, first.paddles[0][0])
        snakes = [first, second]
        for _ in range(length - 1):
            for number in range(2):
                grown = self.grow(rng, mask, snakes[number])
                if grown is None:
                    return None
                mask, snakes[number] = grown
        return snakes, np.maximum(mask, snakes[1].room)

    def short_snakes(self, rng, mask, count, length):
        """Those short snakes that find room."""
        placed = []
        for _ in range(count):
            for _ in range(5):
                snake, grown_mask = self.seed(rng, mask, 1), mask
                for _ in range(length - 1):
                    grown = None if snake is None else self.grow(rng, grown_mask, snake)
                    grown_mask, snake = grown if grown is not None else (mask, None)
                if snake is not None:
                    mask = np.maximum(grown_mask, snake.room)
                    placed.append(snake)
                    break
        return placed

    def picture(self, long, short, marked):
        """What is saved of paddles in two kinds of snakes and of disks."""
        light = np.zeros((self.side, self.side))
        for paddles, brightness in ((long, self.long), (short, self.short)):
            for point, angle in paddles:
                light = np.maximum(light, brightness * self.paddle(point, angle)[0])
        pixels = np.arange(2 * self.side)
        for row, column in marked:
            distance = (pixels[:, None] - 2 * row) ** 2 + (pixels - 2 * column) ** 2
            spot = (distance <= (2 * self.radius) ** 2) * np.uint8(255)
            light = np.maximum(light, shrunk(spot))
        return np.floor(light * (255 / light.max()) + 0.5).astype(np.uint8)
