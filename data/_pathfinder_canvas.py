"""A stack of images of one size, into which small rasters are drawn."""

import numpy as np
from jaxtyping import Int, Int32, UInt8


class Canvas:
    """`count` black square images, for rasters of (2 * half + 1)^2 pixels.

    Attributes:
        pixels: the images with a border of `half` pixels, so that rasters may extend beyond an
            edge.
        inside: view of `pixels` without the border.
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
        """Draw a raster, centered at `places`, into each image of `which`; keep the maximum."""
        corners = (which * self._across + places[0]) * self._across + places[1]
        index = corners[:, None] + self._offsets
        flat = self.pixels.reshape(-1)
        flat[index] = np.maximum(flat[index], rasters.reshape(index.shape))

    def clear_outside(self) -> None:
        """Set the border to 0."""
        half = (self._across - self.inside.shape[1]) // 2
        for edge in (slice(None, half), slice(-half, None)):
            self.pixels[:, edge] = 0
            self.pixels[:, :, edge] = 0
