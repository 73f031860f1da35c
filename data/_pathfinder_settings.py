"""Sizes and levels of difficulty of Pathfinder images in the Long Range Arena.

Tay et al., Long Range Arena, ICLR 2021 (settings in lra_benchmarks/data/pathfinder.py); Linsley et
al., Learning long-range spatial dependencies with horizontal gated recurrent units, NeurIPS 2018
(the task).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Drawing parameters for images of one size; lengths in pixels.

    Attributes:
        resolution: side of the image.
        padding: width of the border that paddles must not touch.
        seed_distance: distance between the tails of the two long snakes.
        marker_radius: radius of the disks at two ends of long snakes.
        paddle_length: length of a paddle.
        paddle_thickness: width of a paddle.
        margins: half the gap between paddles; each image uses one of these values.
        continuity: straightness of snakes; a turn of 90 degrees / continuity has probability 0.
        distractor_paddles: approximate number of paddles in all short snakes of an image.
        snake_contrast: brightness of short snakes relative to markers.
        paddle_contrast: brightness of long snakes relative to short ones.
    """

    resolution: int
    padding: int = 1
    seed_distance: int
    marker_radius: float
    paddle_length: int = 5
    paddle_thickness: float
    margins: tuple[int, ...]
    continuity: float = 1.8
    distractor_paddles: int
    snake_contrast: float
    paddle_contrast: float = 1.0


SETTINGS = {
    settings.resolution: settings
    for settings in (
        Settings(
            resolution=32,
            seed_distance=7,
            marker_radius=1.5,
            paddle_length=2,
            paddle_thickness=0.5,
            margins=(1,),
            continuity=1.0,
            distractor_paddles=20,
            snake_contrast=2.0,  # lines this thin appear at half their brightness
            paddle_contrast=0.75,
        ),
        Settings(
            resolution=64,
            seed_distance=12,
            marker_radius=2.5,
            paddle_thickness=1.0,
            margins=(1,),
            distractor_paddles=22,
            snake_contrast=0.8,
        ),
        Settings(
            resolution=128,
            seed_distance=20,
            marker_radius=3.0,
            paddle_thickness=1.5,
            margins=(2, 3),
            distractor_paddles=35,
            snake_contrast=0.9,
        ),
        Settings(
            resolution=256,
            padding=22,
            seed_distance=27,
            marker_radius=5.0,
            paddle_thickness=2.0,
            margins=(3,),
            distractor_paddles=30,
            snake_contrast=1.0,
        ),
    )
}


@dataclass(frozen=True)
class Level:
    """A level of difficulty.

    Attributes:
        folder: folder of the published files of this level.
        contour_length: number of paddles per long snake.
    """

    folder: str
    contour_length: int

    @property
    def distractor_length(self) -> int:
        """Number of paddles per short snake."""
        return self.contour_length // 3

    def distractors(self, settings: Settings) -> int:
        """Number of short snakes. Published for "hard" only; other levels use the same rule."""
        return settings.distractor_paddles // self.distractor_length


LEVELS = {
    "easy": Level("curv_baseline", 6),
    "intermediate": Level("curv_contour_length_9", 9),
    "hard": Level("curv_contour_length_14", 14),
}
