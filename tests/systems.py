"""Random systems and layers for tests, and the definition of a system as a loop."""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st

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
