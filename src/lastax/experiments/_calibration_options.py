"""Settings of methods that use calibration data."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CalibrationOptions:
    """Settings of methods that use calibration data.

    Attributes:
        sequences: number of unlabeled training sequences.
        budget: how `calibrated` distributes states over the layers: a name in `BUDGETS`.
        reconstruct: L-BFGS steps of block-wise reconstruction after any method.
        dense_feedthrough: whether refits fit `D` as a dense matrix, whose weights count as states.
    """

    sequences: int = 64
    budget: str = "probe"
    reconstruct: int = 0
    dense_feedthrough: bool = False
