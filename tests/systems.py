"""Random systems and layers for tests, and the definition of a system as a loop."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from jaxtyping import PyTree

import lastax

# Every run uses the same examples. Shrinking is off, since a smaller seed is not a simpler system.
few = settings(
    max_examples=10, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)
seeds = st.integers(0, 2**32 - 1)
# Most test programs run once, so a fast compilation matters more than a fast program.
compiled = functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})

# Numbers of states per channel, including a channel without states.
RAGGED = (3, 0, 5, 1)


def random_system(
    seed: int,
    *,
    states: int = 5,
    channels: int = 3,
    bidirectional: bool = False,
    conj_sym: bool = True,
    slowest: float = 1e-2,
    dense_feedthrough: bool = False,
) -> lastax.System:
    """A float64 system on the host. `1 - |lam|` is log-uniform between `slowest` and 1/2."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    radius = 1 - np.exp(rng.uniform(np.log(slowest), np.log(0.5), states))
    return lastax.System(
        lam=radius * np.exp(1j * rng.uniform(-np.pi, np.pi, states)),
        B=normal(states, channels),
        C=normal(channels, states),
        C_reverse=normal(channels, states) if bidirectional else None,
        D=rng.normal(size=(channels, channels) if dense_feedthrough else channels),
        conj_sym=conj_sym,
    )


def random_channels(
    seed: int,
    counts: tuple[int, ...] = RAGGED,
    *,
    bidirectional: bool = False,
    conj_sym: bool = True,
) -> lastax.MultiSISO:
    """A float64 system of channels on the host. `1 - |lam|` is log-uniform from 1/100 to 1/2."""
    rng = np.random.default_rng(seed)
    size = sum(counts)

    def normal() -> np.ndarray:
        return rng.normal(size=size) + 1j * rng.normal(size=size)

    radius = 1 - np.exp(rng.uniform(np.log(1e-2), np.log(0.5), size))
    return lastax.MultiSISO(
        lam=radius * np.exp(1j * rng.uniform(-np.pi, np.pi, size)),
        B=normal(),
        C=normal(),
        C_reverse=normal() if bidirectional else None,
        D=rng.normal(size=len(counts)),
        counts=counts,
        conj_sym=conj_sym,
    )


def random_layer(
    seed: int,
    *,
    states: int = 6,
    channels: int = 3,
    bidirectional: bool = False,
    conj_sym: bool = True,
) -> lastax.S5:
    """A float32 layer whose states have different time scales."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jnp.ndarray:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return lastax.S5(
        Lambda_re=-jnp.exp(normal(states)),
        Lambda_im=3 * normal(states),
        B=normal(states, channels, 2),
        C=normal(channels, states, 2),
        C_reverse=normal(channels, states, 2) if bidirectional else None,
        D=normal(channels),
        log_step=normal(states) - 2,
        conj_sym=conj_sym,
    )


def filled(shapes: PyTree, seed: int = 0) -> PyTree:
    """A model of these shapes, from `equinox.filter_eval_shape`, with parameters in (0.1, 1).

    Drawing a model by its initializers takes long to compile.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: object) -> object:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes)


def filled_layer(
    kind: type, channels: int, states: int, *, seed: int = 0, **options: object
) -> PyTree:
    """A stable layer of a class of `lastax`, with random parameters."""
    shapes = eqx.filter_eval_shape(
        lambda: kind.initialize(channels, states, key=jax.random.key(0), **options)
    )
    layer = filled(shapes, seed)
    return dataclasses.replace(layer, Lambda_re=-layer.Lambda_re) if kind is lastax.S5 else layer


def mimo(system: lastax.System | lastax.MultiSISO) -> lastax.System:
    """The same operator as a `System`, with zero weights to and from other channels."""
    if isinstance(system, lastax.System):
        return system
    member = np.arange(len(system.counts))[None, :] == system.channel[:, None]
    reverse = system.C_reverse
    return lastax.System(
        lam=system.lam,
        B=system.B[:, None] * member,
        C=(system.C[:, None] * member).T,
        C_reverse=None if reverse is None else (reverse[:, None] * member).T,
        D=system.D,
        conj_sym=system.conj_sym,
    )


def loop(system: lastax.System, u: np.ndarray) -> np.ndarray:
    """The output of a system, computed step by step from its definition."""
    s = 2 if system.conj_sym else 1
    y = u @ system.D.T if system.D.ndim == 2 else u * system.D
    state = np.zeros(system.states, complex)
    for k in range(len(u)):
        state = system.lam * state + system.B @ u[k]
        y[k] += s * (system.C @ state).real
    if system.C_reverse is not None:
        state = np.zeros(system.states, complex)
        for k in reversed(range(len(u))):
            state = system.lam * state + system.B @ u[k]
            y[k] += s * (system.C_reverse @ state).real
    return y


def lowered_for(platform, function, *arguments):
    """The program of `function` for a platform, as text.

    Lowering a GPU kernel needs no GPU in some versions of JAX, 0.10.2 among them. Other versions
    raise an error, and the test is skipped.
    """
    try:
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    except RuntimeError as error:
        if "GPU" in str(error) or "Triton" in str(error):
            pytest.skip(f"this version of JAX lowers GPU kernels only with a GPU: {error}")
        raise
