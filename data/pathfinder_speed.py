"""How fast Pathfinder pictures are made, beside the generator of the published ones.

    python -m lastax.data.pathfinder_speed

prints a table for one core. All that a picture takes is counted: snakes, disks, file.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lastax.data._pathfinder_settings import LEVELS
from lastax.data.pathfinder_generator import BATCH, draw_images, generate

# Seconds of one core that the published pictures' generator takes for the two long snakes of a
# picture, by itself: measured once with the settings of the Long Range Arena.
STATED = {(32, "hard"): 0.15, (128, "hard"): 3.4}


@dataclass(frozen=True)
class Speed:
    """What pictures of one kind take.

    Attributes:
        resolution: pixels a side.
        level: of difficulty.
        pictures: how many were made.
        tables: seconds that computing tables takes, once a process.
        seconds: of one core, a picture.
        stated: seconds of one core of the published ones' generator, a picture; None if unknown.
    """

    resolution: int
    level: str
    pictures: int
    tables: float
    seconds: float
    stated: float | None

    @property
    def times(self) -> float | None:
        """How many times as fast as stated."""
        return None if self.stated is None else self.stated / self.seconds


def measure_speed(resolution: int, level: str, *, pictures: int = BATCH, seed: int = 0) -> Speed:
    """Make `pictures` in a temporary folder and say how long it took.

    Seconds are those that this process was at work, so other work on the machine does not count.

    Raises:
        ValueError: if there is no such resolution or level.
    """
    started = time.process_time()
    draw_images(resolution, level, seed, 0, 1)
    prepared = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), resolution=resolution, level=level, count=pictures, seed=seed)
    seconds = (time.process_time() - prepared) / pictures
    stated = STATED.get((resolution, level))
    return Speed(resolution, level, pictures, prepared - started, seconds, stated)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--pictures", type=int, default=BATCH)
    asked = parser.parse_args()
    print("| pixels | level | pictures a second | ms a picture | times as fast as stated |")
    print("|---|---|---|---|---|")
    for resolution in asked.resolutions:
        for level in asked.levels:
            speed = measure_speed(resolution, level, pictures=asked.pictures)
            times = "" if speed.times is None else f"{speed.times:.0f}"
            numbers = f"{1 / speed.seconds:.0f} | {1e3 * speed.seconds:.2f} | {times}"
            print(f"| {resolution} | {level} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
