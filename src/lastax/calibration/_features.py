"""The output of a system as a linear regression on features of its states.

Four functions describe the regressions of a system. Each is a `functools.singledispatch`; register
all four for a new class of systems. A `System` is one regression on all states. A `MultiSISO` is
one regression per channel; the slots tell which state stands where.
"""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lastax._typing import Array
from lastax.calibration._moments import Moments
from lastax.ssm._multi_siso import MultiSISO
from lastax.ssm._products import product
from lastax.ssm._recurrence import scan_split
from lastax.ssm._system import System


@runtime_checkable
class RegressionSystem(Protocol):
    """A system for which the four functions of this module are registered."""

    @property
    def D(self) -> Array:
        """Feedthrough, either a diagonal `(H,)` or a matrix `(H, H)` whose rows are outputs."""


@functools.singledispatch
def state_features(system: RegressionSystem, u: Float[Array, "L H"]) -> Float[Array, "L S g"]:
    """Features of all states at each step, starting from the zero state.

    The contribution of the states to the output is linear in their features, with the weights
    `output_weights`.

    Args:
        system: the system, with `S` states.
        u: input.

    Returns:
        `g` real columns per state: `2 Re x` and `-2 Im x` for a conjugate pair, `Re x` and `-Im x`
        for a state without its conjugate; the same again for the backward direction of a
        bidirectional system.
    """
    raise NotImplementedError(_no_rule("state_features", system))


@functools.singledispatch
def state_slots(system: RegressionSystem) -> Int[np.ndarray, "n N"]:
    """The states of each of `n` regressions, filled up with -1.

    Regression `i` has the channels `i T` to `(i + 1) T - 1` as targets, where `n T = H`.
    """
    raise NotImplementedError(_no_rule("state_slots", system))


@functools.singledispatch
def output_weights(system: RegressionSystem) -> Float[np.ndarray, "n M T"]:
    """Weights from features to outputs, in float64; zero in slots without a state."""
    raise NotImplementedError(_no_rule("output_weights", system))


@functools.singledispatch
def with_output_weights(
    system: RegressionSystem,
    weights: Float[np.ndarray, "n M T"],
    D: Float[np.ndarray, " H"] | Float[np.ndarray, "H H"],
) -> RegressionSystem:
    """The system with other output weights and another `D`, in its own dtype."""
    raise NotImplementedError(_no_rule("with_output_weights", system))


@state_features.register(System)
def _features_of_system(system: System, u: Float[Array, "L H"]) -> Float[Array, "L S g"]:
    directions = (False,) if system.C_reverse is None else (False, True)
    driven = product(jnp.asarray(u), jnp.concatenate([system.B.real, system.B.imag]).T)
    states = scan_split(system.lam, driven, directions, method=system.scan_method)
    s = 2 if system.conj_sym else 1
    columns = [s * half for x in states for half in _signed_halves(x)]
    return jnp.stack(columns, axis=-1)


def _signed_halves(x: Array) -> tuple[Array, Array]:
    half = x.shape[-1] // 2
    return x[:, :half], -x[:, half:]


@state_slots.register(System)
def _slots_of_system(system: System) -> Int[np.ndarray, "n N"]:
    return np.arange(system.states)[None]


@output_weights.register(System)
def _weights_of_system(system: System) -> Float[np.ndarray, "n M T"]:
    maps = [system.C] if system.C_reverse is None else [system.C, system.C_reverse]
    wide = [np.asarray(C, complex).T for C in maps]
    columns = [half for C in wide for half in (C.real, C.imag)]
    return np.stack(columns, axis=1).reshape(1, -1, wide[0].shape[1])


@with_output_weights.register(System)
def _system_with_weights(
    system: System,
    weights: Float[np.ndarray, "n M T"],
    D: Float[np.ndarray, " H"] | Float[np.ndarray, "H H"],
) -> System:
    columns = weights[0].reshape(system.states, -1, weights.shape[2]).transpose(1, 2, 0)
    xp = system.C.__array_namespace__()
    maps = xp.asarray(columns[::2] + 1j * columns[1::2], dtype=system.C.dtype)
    return dataclasses.replace(
        system,
        C=maps[0],
        C_reverse=None if system.C_reverse is None else maps[1],
        D=xp.asarray(D, dtype=system.D.dtype),
    )


@state_features.register(MultiSISO)
def _features_of_channels(system: MultiSISO, u: Float[Array, "L H"]) -> Float[Array, "L S g"]:
    directions = (False,) if system.C_reverse is None else (False, True)
    inputs = _input_of_each_state(system, jnp.asarray(u))
    B = jnp.asarray(system.B)
    driven = jnp.concatenate([inputs * B.real[None], inputs * B.imag[None]], axis=1)
    states = scan_split(jnp.asarray(system.lam), driven, directions, method=system.scan_method)
    s = 2 if system.conj_sym else 1
    return jnp.stack([s * half for x in states for half in _signed_halves(x)], axis=-1)


def _input_of_each_state(system: MultiSISO, u: Float[Array, "L H"]) -> Float[Array, "L S"]:
    most = max(system.counts)
    if min(system.counts) < most:
        return u[:, system.channel]
    # On a CPU, a gather takes as long as the whole recurrence.
    return jnp.broadcast_to(u[:, :, None], (*u.shape, most)).reshape(len(u), -1)


@state_slots.register(MultiSISO)
def _slots_of_channels(system: MultiSISO) -> Int[np.ndarray, "n N"]:
    counts = np.asarray(system.counts)
    places = np.arange(max(1, counts.max()))[None]
    starts = np.cumsum(counts) - counts
    return np.where(places < counts[:, None], starts[:, None] + places, -1)


@output_weights.register(MultiSISO)
def _weights_of_channels(system: MultiSISO) -> Float[np.ndarray, "n M T"]:
    maps = [system.C] if system.C_reverse is None else [system.C, system.C_reverse]
    columns = [half for C in maps for half in (np.real(C), np.imag(C))]
    flat = np.stack(columns, axis=1).astype(float)
    slots = _slots_of_channels(system)
    placed = flat[np.maximum(slots, 0)] * (slots >= 0)[..., None]
    return placed.reshape(len(slots), -1, 1)


@with_output_weights.register(MultiSISO)
def _channels_with_weights(
    system: MultiSISO, weights: Float[np.ndarray, "n M T"], D: Float[np.ndarray, " H"]
) -> MultiSISO:
    slots = _slots_of_channels(system)
    placed = weights.reshape(*slots.shape, -1)
    flat = np.empty((system.states, placed.shape[2]))
    flat[slots[slots >= 0]] = placed[slots >= 0]
    xp = system.C.__array_namespace__()
    maps = [
        xp.asarray(flat[:, i] + 1j * flat[:, i + 1], dtype=system.C.dtype)
        for i in range(0, flat.shape[1], 2)
    ]
    return dataclasses.replace(
        system,
        C=maps[0],
        C_reverse=None if system.C_reverse is None else maps[1],
        D=xp.asarray(D, dtype=system.D.dtype),
    )


def feedthrough_weights(system: RegressionSystem) -> Float[np.ndarray, "n T T"]:
    """`D` of each regression in float64, from inputs (rows) to targets (columns)."""
    D = np.asarray(system.D, float)
    if D.ndim == 2:
        return D.T[None]
    rows = D.reshape(len(state_slots(system)), -1)
    return rows[:, :, None] * np.eye(rows.shape[1])


def feedthrough_from_weights(
    weights: Float[np.ndarray, "n T T"], *, dense: bool
) -> Float[np.ndarray, " H"] | Float[np.ndarray, "H H"]:
    """`D` from its `feedthrough_weights`: as a matrix if `dense`, else as a diagonal."""
    return weights[0].T if dense else np.einsum("ntt->nt", weights).reshape(-1)


def feedthrough_states(system: RegressionSystem) -> int:
    """Number of states that have as many weights as a dense `D`; 0 if `D` is dense already.

    A state has `2 H (1 + directions)` weights, a dense `D` has `H^2`. The result is rounded up.
    """
    if np.ndim(system.D) == 2:
        return 0
    # Columns per state, two per direction.
    width = output_weights(system).shape[1] // state_slots(system).shape[1]
    return -(-len(system.D) // (2 + width))


def moments_of_rows(
    slots: Int[np.ndarray, "n N"],
    features: Float[np.ndarray, "R S g"],
    u: Float[np.ndarray, "R H"],
    y: Float[np.ndarray, "R H"],
) -> Moments:
    """Moments of a layer's regressions over `R` steps.

    Args:
        slots: states of each regression, from `state_slots`.
        features: features of all states, from `state_features`.
        u: inputs of the layer.
        y: targets.
    """
    rows, _, width = features.shape
    regressions, states = slots.shape
    targets = u.shape[1] // regressions

    columns = states * width

    def rows_of(regression: int) -> Float[np.ndarray, "R Z"]:
        mine, own = slots[regression], slice(regression * targets, (regression + 1) * targets)
        z = np.empty((rows, columns + 2 * targets))
        if (np.diff(mine) == 1).all() and mine[0] >= 0:
            # A slice is not copied.
            z[:, :columns] = features[:, mine[0] : mine[0] + states].reshape(rows, columns)
        else:
            found = np.where(mine[:, None] >= 0, features[:, np.maximum(mine, 0)], 0)
            z[:, :columns] = found.reshape(rows, columns)
        z[:, columns : columns + targets], z[:, columns + targets :] = u[:, own], y[:, own]
        return z

    return Moments.of_rows(map(rows_of, range(regressions)), width, targets, rows)


def _no_rule(name: str, system: object) -> str:
    return (
        f"{name}: not defined for {type(system).__name__}; register state_features, state_slots, "
        "output_weights and with_output_weights for this class"
    )
