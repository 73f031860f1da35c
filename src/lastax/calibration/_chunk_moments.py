"""Second moments of a layer's regressions over one chunk of calibration data.

Products are computed in float64 on the host, over groups of steps that fit there.
"""

import functools
from collections.abc import Iterator

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from lastax._typing import Array
from lastax.calibration._channel_moments import channel_moments, has_closed_form
from lastax.calibration._features import (
    RegressionSystem,
    moments_of_rows,
    state_features,
    state_slots,
)
from lastax.calibration._moments import Moments
from lastax.ssm._multi_siso import MultiSISO
from lastax.ssm._precision import exact_products

# Double-precision values that the host multiplies at once.
MAX_HOST_VALUES = 2**23


@functools.singledispatch
def chunk_moments(
    system: RegressionSystem,
    u: Float[Array, "n L H"],
    y: Float[np.ndarray, "n L H"],
    valid: Bool[np.ndarray, "n L"],
) -> Moments | None:
    """Moments of a layer's regressions over all valid steps, from the features of each step.

    Args:
        system: the system of the layer.
        u: inputs of the layer, on the devices that compute the features.
        y: targets.
        valid: valid steps.

    Returns:
        The moments; None if no step is valid.
    """
    slots, total = state_slots(system), None
    features, inputs = np.asarray(_features(system, u)), np.asarray(u)
    for rows in row_groups(valid, features[0, 0].size + 2 * u.shape[-1]):
        part = moments_of_rows(slots, features[rows], inputs[rows], y[rows])
        total = part if total is None else total + part
    return total


@chunk_moments.register(MultiSISO)
def _moments_of_channels(
    system: MultiSISO,
    u: Float[Array, "n L H"],
    y: Float[np.ndarray, "n L H"],
    valid: Bool[np.ndarray, "n L"],
) -> Moments | None:
    if has_closed_form(system, valid):
        return channel_moments(system, np.asarray(u), y, valid)
    return chunk_moments.dispatch(object)(system, u, y, valid)


def row_groups(
    valid: Bool[np.ndarray, "n L"], values_per_row: int
) -> Iterator[tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]]:
    """Indices (sequence, step) of valid steps, in groups of at most `MAX_HOST_VALUES` values."""
    sequence, step = np.nonzero(valid)
    size = max(1, MAX_HOST_VALUES // max(1, values_per_row))
    for start in range(0, len(step), size):
        yield sequence[start : start + size], step[start : start + size]


@eqx.filter_jit
@exact_products
def _features(system: RegressionSystem, u: Float[Array, "n L H"]) -> Array:
    return jax.vmap(functools.partial(state_features, system))(u)
