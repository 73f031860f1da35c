"""How much calibration data and reconstruction a network gets if the user does not say."""

from __future__ import annotations

import equinox as eqx
import jax

from lastax.experiments._calibration_options import CalibrationOptions
from lastax.nn._networks import Network

# Sequences are chosen in multiples of the least number, up to the most.
_LEAST, _MOST = 64, 256
_STEPS = 100
# Largest parameters * steps * sequences for which reconstruction takes less than a minute on two
# processor cores.
_AFFORDABLE = 6e9


def default_calibration(model: Network, length: int) -> CalibrationOptions:
    """The calibration that gives most accuracy within about a minute on two processor cores.

    Small networks with short sequences get 256 sequences and 100 steps of block-wise
    reconstruction. Larger ones get fewer sequences. Where 64 sequences take longer, they get 64
    sequences and no reconstruction (`CalibrationOptions()`). On a GPU all of this is faster.

    Args:
        model: the network to prune.
        length: number of steps per sequence.
    """
    parameters = sum(array.size for array in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    affordable = int(_AFFORDABLE / (parameters * length))
    if affordable < _LEAST:
        return CalibrationOptions()
    sequences = min(affordable // _LEAST * _LEAST, _MOST)
    return CalibrationOptions(sequences, reconstruct=_STEPS)
