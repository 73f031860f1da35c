"""Speed of the Pathfinder generator, compared with the generator of the published images.

    python -m lastax.data.pathfinder_speed

prints a table for one core. The time covers snakes, disks and files.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lastax.data._pathfinder_settings import LEVELS
from lastax.data.pathfinder_generator import BATCH, draw_images, generate

# Seconds per image on one core that the published generator takes for the two long snakes alone,
# measured once with the settings of the Long Range Arena.
REFERENCE_SECONDS = {(32, "hard"): 0.15, (128, "hard"): 3.4}


@dataclass(frozen=True)
class Speed:
    """Speed for one size and level.

    Attributes:
        resolution: side of an image in pixels.
        level: level of difficulty.
        pictures: number of images.
        tables: seconds for the tables, once per process.
        seconds: seconds per image on one core.
        reference: seconds per image of the published generator on one core; None if unknown.
    """

    resolution: int
    level: str
    pictures: int
    tables: float
    seconds: float
    reference: float | None

    @property
    def speedup(self) -> float | None:
        """Speedup over the published generator."""
        return None if self.reference is None else self.reference / self.seconds


def measure_speed(resolution: int, level: str, *, pictures: int = BATCH, seed: int = 0) -> Speed:
    """Generate `pictures` images in a temporary folder and measure the CPU time.

    Raises:
        ValueError: if the resolution or level is unknown.
    """
    started = time.process_time()
    draw_images(resolution, level, seed, 0, 1)
    prepared = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), resolution=resolution, level=level, count=pictures, seed=seed)
    seconds = (time.process_time() - prepared) / pictures
    reference = REFERENCE_SECONDS.get((resolution, level))
    return Speed(resolution, level, pictures, prepared - started, seconds, reference)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--pictures", type=int, default=BATCH)
    asked = parser.parse_args()
    print("| pixels | level | images/s | ms/image | speedup over the published generator |")
    print("|---|---|---|---|---|")
    for resolution in asked.resolutions:
        for level in asked.levels:
            speed = measure_speed(resolution, level, pictures=asked.pictures)
            speedup = "" if speed.speedup is None else f"{speed.speedup:.0f}"
            numbers = f"{1 / speed.seconds:.0f} | {1e3 * speed.seconds:.2f} | {speedup}"
            print(f"| {resolution} | {level} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
