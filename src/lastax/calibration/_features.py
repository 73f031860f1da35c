"""A layer's output as a linear regression on what its states give: columns, weights, and back.

Four questions to a system, each by `functools.singledispatch`: a new kind of system joins by
registering its answers. The slots say which state stands where in which regression: a system for
all channels is one regression on all states, a system a channel one regression a channel.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lastax._typing import Array
from lastax.calibration._moments import Moments
from lastax.ssm._multi_siso import MultiSISO
from lastax.ssm._products import product
from lastax.ssm._recurrence import scan_split
from lastax.ssm._system import System


@functools.singledispatch
def state_features(system: Any, u: Float[Array, "L H"]) -> Float[Array, "L S g"]:
    """What each of `S` states gives at each step, from rest: `g` real columns a state.

    Linear in them, by `output_weights`, is what the states add to the output. A conjugate pair
    has the columns `2 Re x` and `-2 Im x`, one without its conjugate half of that, and twice as
    many columns if the system runs both ways.
    """
    raise NotImplementedError(_no_rule("state_features", system))


@functools.singledispatch
def state_slots(system: Any) -> Int[np.ndarray, "n N"]:
    """The states that each of `n` regressions is on, -1 where one has fewer than another.

    Regression `i` has the targets `i T` to `(i + 1) T - 1`, of `n T = H` channels.
    """
    raise NotImplementedError(_no_rule("state_slots", system))


@functools.singledispatch
def output_weights(system: Any) -> Float[np.ndarray, "n M T"]:
    """Weights of the features, in float64; zero where there is no state."""
    raise NotImplementedError(_no_rule("output_weights", system))


@functools.singledispatch
def with_output_weights(
    system: Any,
    weights: Float[np.ndarray, "n M T"],
    D: Float[np.ndarray, " H"] | Float[np.ndarray, "H H"],
) -> Any:
    """The system with other output weights and another `D`, in its own precision."""
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
    heard = jnp.asarray(u)[:, system.channel]
    B = jnp.asarray(system.B)
    driven = jnp.concatenate([heard * B.real[None], heard * B.imag[None]], axis=1)
    states = scan_split(jnp.asarray(system.lam), driven, directions, method=system.scan_method)
    s = 2 if system.conj_sym else 1
    return jnp.stack([s * half for x in states for half in _signed_halves(x)], axis=-1)


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


def feedthrough_weights(system: Any) -> Float[np.ndarray, "n T T"]:
    """Weights of the inputs, from input (rows) to target (columns), in float64: `D`."""
    D = np.asarray(system.D, float)
    if D.ndim == 2:
        return D.T[None]
    rows = D.reshape(len(state_slots(system)), -1)
    return rows[:, :, None] * np.eye(rows.shape[1])


def feedthrough_from_weights(
    direct: Float[np.ndarray, "n T T"], *, whole: bool
) -> Float[np.ndarray, " H"] | Float[np.ndarray, "H H"]:
    """The `D` of which `feedthrough_weights` are `direct`: a `whole` matrix, or its diagonal alone."""
    return direct[0].T if whole else np.einsum("ntt->nt", direct).reshape(-1)


def feedthrough_states(system: Any) -> int:
    """How many states have as many weights as a whole matrix `D`; 0 where `D` is one already.

    A state has `2 H (1 + directions)`, the matrix `H^2`.
    """
    if np.ndim(system.D) == 2:
        return 0
    directions = 1 if system.C_reverse is None else 2
    return -(-len(system.D) // (2 * (1 + directions)))


def moments_of_rows(
    slots: Int[np.ndarray, "n N"],
    features: Float[np.ndarray, "R S g"],
    u: Float[np.ndarray, "R H"],
    y: Float[np.ndarray, "R H"],
) -> Moments:
    """The moments of a layer's regressions over `R` steps."""
    rows, _, width = features.shape
    regressions, states = slots.shape
    targets = u.shape[1] // regressions
    sorted_features = features[:, np.maximum(slots, 0)] * (slots >= 0)[None, :, :, None]
    return Moments.of_rows(
        np.moveaxis(sorted_features.reshape(rows, regressions, states * width), 1, 0),
        np.moveaxis(u.reshape(rows, regressions, targets), 1, 0),
        np.moveaxis(y.reshape(rows, regressions, targets), 1, 0),
        width,
    )


def _no_rule(name: str, system: Any) -> str:
    return (
        f"{name}: no rule for {type(system).__name__}; register one for state_features, "
        "state_slots, output_weights and with_output_weights"
    )
