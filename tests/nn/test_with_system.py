"""Layers that take the parameters of a given system."""

import dataclasses

import equinox as eqx
import jax
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
