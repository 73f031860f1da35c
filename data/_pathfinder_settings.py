"""Sizes and difficulties of Pathfinder pictures, as the Long Range Arena has them.

Tay et al., Long Range Arena, ICLR 2021 (settings in lra_benchmarks/data/pathfinder.py); Linsley et
al., Learning long-range spatial dependencies with horizontal gated recurrent units, NeurIPS 2018
(the task).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pictures of one size are drawn; lengths in pixels.

    Attributes:
        resolution: side of the picture.
        padding: width of the border that no paddle may touch.
        seed_distance: between the tails of the two long snakes.
        marker_radius: of the disks at two ends of long snakes.
        paddle_length: from end to end.
        paddle_thickness: across.
        margins: half the gap between paddles; each picture takes one of them.
        continuity: how straight snakes are; a turn by 90 degrees / continuity has no chance.
        distractor_paddles: in all short snakes of a picture together, about.
        snake_contrast: brightness of short snakes; that of markers is 1.
        paddle_contrast: brightness of long snakes, as a part of `snake_contrast`.
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
            snake_contrast=2.0,  # lines as thin as these come out at half their brightness
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
    """How hard pictures are.

    Attributes:
        folder: where the published files of this level lie.
        contour_length: paddles of each long snake.
    """

    folder: str
    contour_length: int

    @property
    def distractor_length(self) -> int:
        """Paddles of each short snake."""
        return self.contour_length // 3

    def distractors(self, settings: Settings) -> int:
        """Short snakes of a picture. Only those of "hard" are published: the rule is the same."""
        return settings.distractor_paddles // self.distractor_length


LEVELS = {
    "easy": Level("curv_baseline", 6),
    "intermediate": Level("curv_contour_length_9", 9),
    "hard": Level("curv_contour_length_14", 14),
}
