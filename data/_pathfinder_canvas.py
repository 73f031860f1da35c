"""Many pictures of one size, into which as many small rasters are drawn at a time."""

import numpy as np
from jaxtyping import Int, Int32, UInt8


class Canvas:
    """`count` square pictures, all 0, for rasters of 2 * half + 1 pixels a side.

    Attributes:
        pixels: of the pictures, with `half` more on every side, so that rasters may stick out.
        inside: without those, a view.
    """

    def __init__(self, count: int, side: int, half: int):
        self._across = side + 2 * half
        self.pixels: UInt8[np.ndarray, "n h w"] = np.zeros(
            (count, self._across, self._across), np.uint8
        )
        self.inside: UInt8[np.ndarray, "n side side"] = self.pixels[:, half:-half, half:-half]
        rows, columns = np.indices((2 * half + 1, 2 * half + 1)).reshape(2, -1)
        self._offsets = rows * self._across + columns

    def stamp(
        self,
        which: Int[np.ndarray, " m"],
        places: Int32[np.ndarray, "2 m"],
        rasters: UInt8[np.ndarray, "m s s"],
    ) -> None:
        """Draw each of `rasters` about its place, in another picture each: the brighter wins."""
        corners = (which * self._across + places[0]) * self._across + places[1]
        index = corners[:, None] + self._offsets
        flat = self.pixels.reshape(-1)
        flat[index] = np.maximum(flat[index], rasters.reshape(index.shape))

    def clear_outside(self) -> None:
        """Remove what sticks out of the pictures."""
        half = (self._across - self.inside.shape[1]) // 2
        for edge in (slice(None, half), slice(-half, None)):
            self.pixels[:, edge] = 0
            self.pixels[:, :, edge] = 0
