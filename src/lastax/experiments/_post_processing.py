"""What may follow pruning in a sweep."""

import enum


class PostProcessing(enum.StrEnum):
    """A step after pruning; sweeps report each as a row of its own."""

    NONE = "none"
    RECALIBRATED = "recalibrated"
    RECONSTRUCTED = "reconstructed"
    FINE_TUNED = "fine-tuned"
    DISTILLED = "distilled"

    def label(self, method: str, epochs: int) -> str:
        """Name of the row of `method`, trained for `epochs` epochs where that applies."""
        return {
            PostProcessing.NONE: method,
            PostProcessing.RECALIBRATED: f"{method}, BatchNorm recalibrated",
            PostProcessing.RECONSTRUCTED: f"{method}, reconstructed",
            PostProcessing.FINE_TUNED: f"{method} + {epochs} epochs",
            PostProcessing.DISTILLED: f"{method} + {epochs} epochs, distilled",
        }[self]

    @property
    def trains(self) -> bool:
        """Whether the network is trained after pruning."""
        return self in (PostProcessing.FINE_TUNED, PostProcessing.DISTILLED)

    @property
    def needs_calibration(self) -> bool:
        """Whether the step uses calibration data."""
        return self in (PostProcessing.RECALIBRATED, PostProcessing.RECONSTRUCTED)
