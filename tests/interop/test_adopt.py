"""Layers of discretax in memory, by stand-ins with the same fields and the same call."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

KEY = jax.random.key(0)


class ForeignS5(eqx.Module):
    Lambda_re: jax.Array
    Lambda_im: jax.Array
    B: jax.Array
    C: jax.Array
    D: jax.Array
    log_step: jax.Array
    P: int
    conj_sym: bool = eqx.field(static=True)
    clip_eigs: bool = eqx.field(static=True)
    discretization: str = eqx.field(static=True)
    step_rescale: float = eqx.field(static=True)

    def __call__(self, x, key):
        lam = (np.minimum(self.Lambda_re, -1e-4) if self.clip_eigs else self.Lambda_re) + (
            1j * np.asarray(self.Lambda_im)
        )
        half = lam * self.step_rescale * np.exp(np.asarray(self.log_step, float))[:, 0] / 2
        if self.discretization == "bilinear":
            bar, scale = (1 + half) / (1 - half), 2 * half / lam / (1 - half)
        else:
            bar, scale = np.exp(2 * half), (np.exp(2 * half) - 1) / lam
        return run(bar, scale[:, None] * pair(self.B), pair(self.C), x, 1 + self.conj_sym) + (
            np.asarray(self.D) * np.asarray(x)
        )


class ForeignLRU(eqx.Module):
    nu_log: jax.Array
    theta_log: jax.Array
    B_re: jax.Array
    B_im: jax.Array
    C_re: jax.Array
    C_im: jax.Array
    D: jax.Array
    gamma_log: jax.Array

    def __call__(self, x, key):
        lam = np.exp(-np.exp(self.nu_log) + 1j * np.exp(self.theta_log))
        B = np.exp(self.gamma_log)[:, None] * (np.asarray(self.B_re) + 1j * self.B_im)
        C = np.asarray(self.C_re) + 1j * self.C_im
        return run(lam, B, C, x, 1) + np.asarray(self.D) * np.asarray(x)


class Kernel(eqx.Module):
    C: jax.Array
    log_dt: jax.Array
    log_a_real: jax.Array
    A_imag: jax.Array


class ForeignS4D(eqx.Module):
    in_features: int
    state_dim: int
    transposed: bool
    kernel: Kernel

    def __call__(self, x, key):
        k = self.kernel
        A = -np.exp(np.asarray(k.log_a_real, float)) + 1j * np.asarray(k.A_imag)
        bar = np.exp(A * np.exp(np.asarray(k.log_dt, float))[:, None])
        C = np.asarray(k.C) * (bar - 1) / A
        channels = [
            run(bar[h], np.ones((len(bar[h]), 1)), C[h : h + 1], x[:, h : h + 1], 2)
            for h in range(len(bar))
        ]
        return np.concatenate(channels, axis=1)


class ForeignModel(eqx.Module):
    """A block of somebody else: only the mixer is a state-space layer."""

    mixer: eqx.Module
    out: eqx.nn.Linear

    def __call__(self, x, key):
        return jax.vmap(self.out)(jnp.asarray(self.mixer(x, key), jnp.float32))


def pair(z):
    return np.asarray(z[..., 0], float) + 1j * np.asarray(z[..., 1])


def run(lam, B, C, u, factor):
    state, outputs = np.zeros(len(lam), complex), []
    for step in np.asarray(u, float):
        state = lam * state + B @ step
        outputs.append(factor * (C @ state).real)
    return np.stack(outputs)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def s5(**settings):
    options = {"conj_sym": True, "clip_eigs": True, "discretization": "zoh", "step_rescale": 1.0}
    # One eigenvalue is to the right of the bound of clipping.
    real = jnp.asarray([-0.5, -0.3, 0.2, -1.0, -0.1])
    return ForeignS5(
        real, normal(5), normal(5, 4, 2, seed=1), normal(4, 5, 2, seed=2), normal(4, seed=3),
        normal(5, 1, seed=4) / 4 - 2, 5, **{**options, **settings},
    )  # fmt: skip


def lru():
    parts = [normal(5, 4, seed=1), normal(5, 4, seed=2), normal(4, 5, seed=3), normal(4, 5, seed=4)]
    return ForeignLRU(normal(5) / 4 - 2, normal(5) / 4, *parts, normal(4), normal(5) / 4 - 1)


def s4d():
    C = jax.lax.complex(normal(4, 3), normal(4, 3, seed=1))
    kernel = Kernel(C, normal(4) / 4 - 2, normal(4, 3, seed=2) / 4, 3 * normal(4, 3, seed=3))
    return ForeignS4D(4, 6, False, kernel)


MIXERS = {
    "s5": s5,
    "s5-bilinear": lambda: s5(discretization="bilinear", conj_sym=False, clip_eigs=False),
    "s5-rescaled": lambda: s5(step_rescale=0.5),
    "lru": lru,
    "s4d": s4d,
}


def model_of(mixer):
    return ForeignModel(mixer, eqx.nn.Linear(4, 2, key=KEY))


@pytest.mark.parametrize("name", MIXERS)
def test_adopted_layers_compute_the_same_and_are_pruned(name):
    model = model_of(MIXERS[name]())
    if name == "s5-bilinear":
        stable = jnp.minimum(model.mixer.Lambda_re, -0.05)
        model = eqx.tree_at(lambda tree: tree.mixer.Lambda_re, model, stable)
    adopted = lastax.interop.adopt(model)
    x = normal(20, 4, seed=9)
    wanted = model(x, KEY)
    np.testing.assert_allclose(adopted(x, KEY), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert adopted.out.weight is model.out.weight
    lastax.check_layer(adopted.mixer)
    (count,) = lastax.state_counts(adopted)
    small = lastax.prune(adopted, ratio=0.5)
    assert 0 < lastax.state_counts(small)[0] < count
    assert small(x, KEY).shape == wanted.shape
    # Refits and balancing write new parameters.
    assert lastax.prune(adopted, method="balanced", ratio=0.5)(x, KEY).shape == wanted.shape
    lastax.certify(*lastax.systems(adopted), *lastax.systems(small))


class Foreign(lastax.BlockwiseForward):
    """The forward pass of a `ForeignModel`, which pools nothing."""

    def enter(self, model, x, length):
        return lastax.nn.HiddenStates(x, jnp.ones(x.shape[:2], bool), None)

    def blocks(self, model):
        return [model.mixer]

    def before(self, block, states):
        return states.hidden

    def after(self, block, states, y):
        return states._replace(hidden=y)

    def features(self, model, states):
        return jax.vmap(jax.vmap(model.out))(states.hidden)[:, -1]

    def model_outputs(self, model, x):
        return jax.vmap(lambda u: model(u, KEY))(x)[:, -1]


@pytest.mark.parametrize("name", ["s5", "lru", "s4d"])
def test_foreign_layers_are_found_without_a_call_of_adopt(name):
    mixer = MIXERS[name]()
    model, adopted = model_of(mixer), lastax.interop.adopt(model_of(mixer))
    assert lastax.state_counts(model) == lastax.state_counts(adopted)
    (system,), (wanted,) = lastax.systems(model), lastax.systems(adopted)
    assert eqx.tree_equal(system, wanted)
    lastax.check_layer(mixer)
    for method in ("last", "balanced"):
        small = lastax.prune(model, ratio=0.5, method=method)
        assert eqx.tree_equal(small, lastax.prune(adopted, ratio=0.5, method=method))
    lastax.certify(system, *lastax.systems(small))
    # A layer that is used twice is one layer.
    assert len(lastax.find_layers([mixer, model])) == 1
    x = np.asarray(normal(3, 12, 4, seed=9))
    calibration = lastax.calibrate(model, x, forward=Foreign())
    refitted, report = lastax.refit(model, calibration, ratio=0.5, budget="uniform")
    other, _ = lastax.refit(adopted, x, ratio=0.5, budget="uniform", forward=Foreign())
    assert eqx.tree_equal(refitted, other)
    assert report.layers[0].error <= report.layers[0].error_truncated


def test_optimizer_states_of_foreign_layers_are_refused():
    with pytest.raises(ValueError, match=r"train lastax\.interop\.adopt\(model\)"):
        lastax.surgery.keep_states_with_optimizer(model_of(lru()), (), [np.ones(5, bool)])


def test_unknown_and_stacked_layers_are_named():
    with pytest.raises(ValueError, match="adopt: no layer with the fields of an S5, S4D or LRU"):
        lastax.interop.adopt(eqx.nn.Linear(4, 2, key=KEY))
    stack = jax.tree.map(lambda a: jnp.stack([a, a]) if eqx.is_array(a) else a, lru())
    with pytest.raises(ValueError, match=r"adopt: a ForeignLRU holds 2 layers stacked .*split"):
        lastax.interop.adopt(model_of(stack))
    damaged = eqx.tree_at(lambda layer: layer.nu_log, lru(), jnp.ones(3))
    with pytest.raises(ValueError, match=r"adopt: a ForeignLRU: .*shape"):
        lastax.interop.adopt(model_of(damaged))
