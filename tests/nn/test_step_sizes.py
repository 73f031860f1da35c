"""Layers with one step size per step, against a loop over the systems of these steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from ..systems import compiled

LENGTH, CHANNELS = 5, 3
LAYERS = {
    "s5": lambda key: lastax.S5.initialize(CHANNELS, 4, bidirectional=True, key=key),
    "bilinear": lambda key: lastax.S5.initialize(
        CHANNELS, 4, discretize=lastax.discretize_bilinear, conj_sym=False, key=key
    ),
    "s4d": lambda key: lastax.S4D.initialize(CHANNELS, 2, bidirectional=True, key=key).keep(
        np.array([1, 1, 0, 0, 1, 0], bool)
    ),
    "lru": lambda key: lastax.LRU.initialize(CHANNELS, 4, key=key),
}


discretized = compiled(lambda layer, factor=1.0: layer.system(factor))


def loop(layer, u, factors, C, order):
    """`s Re(C x)` of the recurrence with the system of each step, in the order of the steps."""
    s = 2 if getattr(layer, "conj_sym", False) else 1
    y, x = np.zeros_like(u), 0
    for k in order:
        system = discretized(layer, factors[k])
        if isinstance(system, lastax.System):
            x = system.lam * x + system.B @ u[k]
            y[k] = s * np.real(C @ x)
        else:
            x = system.lam * x + system.B * u[k][system.channel]
            np.add.at(y[k], system.channel, s * np.real(C * x))
    return y


@pytest.mark.parametrize("name", LAYERS)
def test_each_step_has_its_own_step_size(name, x64):
    layer = jax.tree.map(lambda leaf: leaf.astype(float), LAYERS[name](jax.random.key(0)))
    if name == "s5":
        # Zero-order hold has a limit at Lambda = 0.
        layer = dataclasses.replace(
            layer,
            Lambda_re=layer.Lambda_re.at[0].set(0),
            Lambda_im=layer.Lambda_im.at[0].set(0),
        )
    rng = np.random.default_rng(0)
    u, factors = rng.normal(size=(LENGTH, CHANNELS)), rng.uniform(0.2, 3, LENGTH)
    system = jax.tree.map(np.asarray, discretized(layer))
    wanted = u * system.D + loop(layer, u, factors, system.C, range(LENGTH))
    if system.C_reverse is not None:
        wanted += loop(layer, u, factors, system.C_reverse, reversed(range(LENGTH)))
    got = compiled(lambda layer: layer(u, step_rescale=jnp.asarray(factors)))(layer)
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-12)


def test_records_of_a_batch_have_their_own_step_sizes():
    config = lastax.ModelConfig(layers=1, channels=2, states=2, bidirectional=False, norm="layer")
    model = lastax.build_network(config, input_size=1, classes=2, key=jax.random.key(0))
    batch = {"x": jnp.ones((2, LENGTH, 1))}
    factors = np.random.default_rng(0).uniform(0.2, 3, (2, LENGTH)).astype(np.float32)
    predict = compiled(lastax.predict)
    own = predict(model, batch, step_rescale=factors)
    for record in range(2):
        shared = predict(model, batch, step_rescale=factors[record])
        np.testing.assert_allclose(own[record], shared[record], rtol=1e-5, atol=1e-6)
    assert abs(own[0] - own[1]).max() > 1e-3


def test_errors_name_the_layer():
    layer = LAYERS["lru"](jax.random.key(0))
    u, factors = jnp.ones((LENGTH, CHANNELS)), jnp.ones(LENGTH)
    with pytest.raises(ValueError, match=r"^LRU: step_rescale .* shape \(5,\).* got shape \(4,\)"):
        layer(u, step_rescale=factors[1:])
    with pytest.raises(ValueError, match=r"^LRU: initial and one step_rescale per step.*streaming"):
        layer(u, initial=jnp.zeros(4, complex), step_rescale=factors)
    other = lastax.S5.initialize(
        CHANNELS, 2, discretize=lambda *a: lastax.discretize_zoh(*a), key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match=r"^S5: the step size can change .* discretize_zoh"):
        other(u, step_rescale=factors)
