"""The scale of floating-point sounds, which may exceed -1..1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lastax.data._errors import DataError

_LARGEST = 2.0**31  # the largest integers that sounds are stored as
_HOT = 4.0  # sounds that are only too loud stay below


@dataclass(frozen=True)
class SoundScale:
    """How floating-point sounds are brought into -1..1.

    Attributes:
        divisor: all of them are divided by this power of two.
        limit: sounds with larger samples are bad.
    """

    divisor: float = 1.0
    limit: float = _LARGEST

    @property
    def factor(self) -> float:
        """Factor on the samples."""
        return 1 / self.divisor

    def check(self, peak: float) -> None:
        """Raise DataError if a sound with the largest sample `peak` is bad."""
        if peak > self.limit:
            common = ", while most clips stay in -1..1" if self.limit < _LARGEST else ""
            raise DataError(f"has samples up to {peak:,.6g}{common}")

    def notes(self, names: Sequence[str], peaks: Float64[np.ndarray, " n"]) -> tuple[str, ...]:
        """One line about sounds beyond -1..1, if there are any.

        Args:
            names: names of all clips.
            peaks: their largest samples; 0 for sounds that are not scaled.
        """
        if self.divisor == 1:
            return ()
        beyond, loudest = np.count_nonzero(peaks > 1), int(peaks.argmax())
        return (
            f"{beyond:,} of {len(names):,} clips exceed -1..1, {names[loudest]} with samples up to "
            f"{peaks[loudest]:,.6g}: all floating-point clips are divided by {self.divisor:,.0f}",
        )


# Of sounds that stay in -1..1, such as all sounds that are stored as integers.
NORMAL = SoundScale(limit=_HOT)


def fitting_scale(peaks: Float64[np.ndarray, " n"]) -> SoundScale:
    """The scale for sounds with these largest samples; 0 for sounds that are silent or integers.

    If most sounds stay in -1..1, louder ones than 4 are bad. The divisor is the smallest power of
    two that brings all others into -1..1.
    """
    heard = peaks[peaks > 0]
    if not len(heard):
        return NORMAL
    limit = _HOT if np.median(heard) <= 1 else _LARGEST
    loudest = float(heard[heard <= limit].max(initial=1.0))
    return SoundScale(2.0 ** math.ceil(math.log2(loudest)), limit)
