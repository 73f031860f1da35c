"""Layers that take the parameters of a given system."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from ..systems import random_layer


@pytest.mark.parametrize("discretize", [lastax.discretize_zoh, lastax.discretize_bilinear])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_with_system_sets_the_given_system(discretize, bidirectional):
    layer = dataclasses.replace(random_layer(0, bidirectional=bidirectional), discretize=discretize)
    wanted = dataclasses.replace(
        random_layer(1, bidirectional=bidirectional), discretize=discretize
    ).system()
    # Two states are as they were.
    own = layer.system()
    lam, B = wanted.lam.at[:2].set(own.lam[:2]), wanted.B.at[:2].set(own.B[:2])
    wanted = dataclasses.replace(wanted, lam=lam, B=B)
    moved = layer.with_system(wanted)
    assert eqx.tree_equal(moved.system(), wanted, rtol=1e-4, atol=1e-5)
    assert (moved.log_step == layer.log_step).all()
    for name in ("Lambda_re", "Lambda_im", "B"):
        assert (getattr(moved, name)[:2] == getattr(layer, name)[:2]).all()
    assert eqx.tree_equal(layer.with_system(own), layer)


def test_with_system_rejects_a_system_of_another_shape():
    layer = random_layer(0)
    with pytest.raises(ValueError, match="the layer has 6 states"):
        layer.with_system(random_layer(0, states=5).system())
    with pytest.raises(ValueError, match="directions"):
        layer.with_system(random_layer(0, bidirectional=True).system())
    other = dataclasses.replace(layer, discretize=lambda *a: lastax.discretize_zoh(*a))
    with pytest.raises(ValueError, match="the inverse is known only for"):
        other.with_system(random_layer(1).system())


@pytest.mark.parametrize("kind", ["s5", "s4d", "s4d with B"])
def test_a_new_input_matrix_fits_states_that_turn_by_more_than_half_a_circle(getkey, kind):
    """A slower state with the same `lam` would need another `B`."""
    if kind == "s5":
        layer = lastax.S5.initialize(3, 6, key=getkey())
    else:
        layer = lastax.S4D.initialize(3, 4, train_B=kind == "s4d with B", key=getkey())
    Lambda_im = layer.Lambda_im * 0 + 5.0
    layer = dataclasses.replace(layer, Lambda_im=Lambda_im, log_step=layer.log_step * 0)
    own = layer.system()
    wanted = dataclasses.replace(own, B=own.B * 2)
    moved = layer.with_system(wanted)
    assert (moved.Lambda_im == Lambda_im).all()
    u = jax.random.normal(getkey(), (12, 3))
    feedthrough = layer.D[None] * u
    expected = 2 * (layer(u) - feedthrough) + feedthrough
    np.testing.assert_allclose(moved(u), expected, rtol=1e-4, atol=1e-4)


KINDS = {
    "s5": lambda key: lastax.S5.initialize(3, 8, step_range=(0.3, 0.5), key=key),
    "s4d": lambda key: lastax.S4D.initialize(3, 4, step_range=(0.3, 0.5), key=key),
    "s4d with B": lambda key: lastax.S4D.initialize(
        3, 4, step_range=(0.3, 0.5), train_B=True, key=key
    ),
    "lru": lambda key: lastax.LRU.initialize(3, 8, key=key),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_systems_of_a_model_can_be_written_back(getkey, kind):
    """`lastax.systems` computes in float64, so its systems are not bitwise those of the layer."""
    layer = KINDS[kind](getkey())
    (again,) = lastax.surgery.write_systems([layer], lastax.systems([layer]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(layer):
        name = jax.tree_util.keystr(path)
        other = dict(jax.tree_util.tree_leaves_with_path(again))[path]
        np.testing.assert_allclose(other, leaf, rtol=1e-6, atol=1e-7, err_msg=name)
    for name in ("Lambda_im", "log_step", "log_decay", "theta_log"):
        if hasattr(layer, name):
            np.testing.assert_array_equal(getattr(again, name), getattr(layer, name))


@pytest.mark.parametrize("kind", ["s5", "s4d", "s4d with B"])
def test_a_state_that_moves_little_keeps_its_turns_per_step(getkey, kind):
    """Otherwise the layer would compute something else at another step size."""
    layer = KINDS[kind](getkey())
    (system,) = lastax.systems([layer])
    moved = layer.with_system(dataclasses.replace(system, lam=0.999 * system.lam))
    assert (np.abs(layer.Lambda_im) * np.exp(np.max(layer.log_step)) > np.pi).any()
    np.testing.assert_allclose(moved.Lambda_im, layer.Lambda_im, rtol=1e-5, atol=1e-5)
    u = jax.random.normal(getkey(), (12, 3))
    np.testing.assert_allclose(
        moved(u, step_rescale=0.5), layer(u, step_rescale=0.5), rtol=0.05, atol=0.02
    )
    written = moved.system()
    np.testing.assert_allclose(written.lam, 0.999 * system.lam, rtol=1e-4)
    np.testing.assert_allclose(written.B, system.B, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["s5", "s4d"])
def test_an_eigenvalue_of_zero_can_be_written(getkey, kind):
    layer = KINDS[kind](getkey())
    (system,) = lastax.systems([layer])
    lam = np.array(system.lam)
    lam[1] = 0
    wanted = dataclasses.replace(system, lam=lam)
    written = layer.with_system(wanted).system()
    np.testing.assert_allclose(written.lam, lam, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(written.B, wanted.B, rtol=1e-4, atol=1e-5)


def test_a_clipped_layer_with_shorter_steps_keeps_its_turns(getkey):
    """A state that is slower than clipping allows gets a shorter step."""
    layer = lastax.S5.initialize(2, 8, step_range=(0.3, 0.5), clip_eigenvalues=True, key=getkey())
    layer = dataclasses.replace(layer, Lambda_re=layer.Lambda_re * 0 - 0.05)
    (system,) = lastax.systems([layer])
    lam = np.asarray(system.lam)
    moved = layer.with_system(dataclasses.replace(system, lam=lam / abs(lam) * (1 - 1e-5)))
    assert (moved.log_step < layer.log_step).all()

    def turns(one):
        return np.asarray(one.Lambda_im * np.exp(one.log_step) / (2 * np.pi))

    assert (np.abs(turns(layer)) > 0.5).any()
    np.testing.assert_allclose(turns(moved), turns(layer), rtol=1e-4, atol=1e-4)


def test_a_small_input_beside_a_large_one_is_written(getkey):
    layer = lastax.S4D.initialize(2, 2, train_B=True, key=getkey())
    (system,) = lastax.systems([layer])
    B = np.array(system.B)
    layer = layer.with_system(dataclasses.replace(system, B=B * [1e6, 1e-8, 1, 1]))
    (system,) = lastax.systems([layer])
    doubled = np.asarray(system.B) * [1, 2, 1, 1]
    written = layer.with_system(dataclasses.replace(system, B=doubled)).system()
    np.testing.assert_allclose(written.B, doubled, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_without_states_takes_its_own_system(getkey, kind):
    layer = KINDS[kind](getkey())
    empty = layer.keep(np.zeros(layer.system().states, bool))
    written = empty.with_system(dataclasses.replace(empty.system(), D=2 * empty.D))
    np.testing.assert_allclose(written.D, 2 * layer.D)


@pytest.mark.parametrize("kind", ["lru", "s4d"])
def test_an_unchanged_eigenvalue_may_round_to_the_unit_circle(kind):
    """In float32, `exp(-exp(-19))` is 1."""
    if kind == "lru":
        layer = lastax.LRU.initialize(3, 4, key=jax.random.key(0))
        layer = dataclasses.replace(layer, nu_log=layer.nu_log.at[0].set(-19))
    else:
        layer = lastax.S4D.initialize(3, 4, key=jax.random.key(0))
        layer = dataclasses.replace(layer, log_decay=layer.log_decay.at[0].set(-17))
    system = layer.system()
    assert abs(np.asarray(system.lam)).max() >= 1
    written = layer.with_system(dataclasses.replace(system, D=2 * system.D, C=0.5 * system.C))
    for name in ("nu_log", "theta_log") if kind == "lru" else ("log_decay", "Lambda_im"):
        np.testing.assert_array_equal(getattr(written, name), getattr(layer, name))
    np.testing.assert_allclose(written.system().C, 0.5 * system.C, rtol=1e-6)


def test_an_lru_holds_an_eigenvalue_of_zero():
    layer = lastax.LRU.initialize(3, 4, key=jax.random.key(0))
    system = layer.system()
    written = layer.with_system(dataclasses.replace(system, lam=system.lam.at[0].set(0)))
    assert abs(written.system().lam[0]) < 1e-20
    assert np.isfinite(written(jnp.ones((5, 3)))).all()
