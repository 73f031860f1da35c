"""Optimizer states that lose the same states as their model."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lastax
from lastax.surgery import keep_states_with_optimizer
from lastax.training import make_optimizer

from ..systems import random_layer

OPTIMIZERS = {
    "own": make_optimizer(1e-3, 1e-4, weight_decay=0.1),
    "steps": optax.MultiSteps(optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9), 2),
    "masked": optax.masked(
        optax.rmsprop(1e-3), lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    ),
}


def model():
    tied = random_layer(0, states=4, bidirectional=True)
    s4d = lastax.S4D.initialize(2, 3, key=jax.random.key(0))
    return {"a": [tied, s4d, tied], "b": {"w": jnp.arange(8.0).reshape(4, 2)}}


def shapes(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


KEEP = [np.array([True, False, True, True]), np.array([1, 0, 1, 1, 0, 0], bool)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruning_commutes_with_updates_of_single_values(optimizer):
    """Updates of the remaining parameters do not depend on the removed ones."""
    parameters = model()
    gradients = jax.tree.map(lambda leaf: 1e-3 * jnp.sign(leaf), parameters)
    _, state = optimizer.update(gradients, optimizer.init(parameters), parameters)
    small, small_state = keep_states_with_optimizer(parameters, state, KEEP)
    assert eqx.tree_equal(small, lastax.keep_states(parameters, KEEP))
    assert shapes(small_state) == shapes(jax.eval_shape(optimizer.init, small))
    masks = [KEEP[0], KEEP[1], KEEP[0]]
    smaller = {
        "a": [layer.keep(mask) for layer, mask in zip(gradients["a"], masks, strict=True)],
        "b": gradients["b"],
    }
    updates, _ = optimizer.update(gradients, state, parameters)
    found, _ = optimizer.update(smaller, small_state, small)
    expected = [layer.keep(mask) for layer, mask in zip(updates["a"], masks, strict=True)]
    for one, other in zip(jax.tree.leaves(found["a"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_factors_and_memories_follow_the_states():
    layer = random_layer(0, states=6)
    keep = [np.array([False, True, True, False, True, True])]
    for optimizer in (optax.lbfgs(), optax.adafactor(1e-3, min_dim_size_to_factor=3)):
        state = optimizer.init(layer)
        marked = jax.tree.map(
            lambda leaf: jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape), state
        )
        small, found = keep_states_with_optimizer(layer, marked, keep)
        assert shapes(found) == shapes(jax.eval_shape(optimizer.init, small))
    # B has shape (6, 3, 2): its factors are means over one of the first two axes.
    factors = {leaf.shape: leaf for leaf in (found[0].v_row.B, found[0].v_col.B)}
    assert factors.keys() == {(4, 2), (3, 2)}
    np.testing.assert_array_equal(factors[4, 2], np.arange(12).reshape(6, 2)[keep[0]])


def test_a_state_that_does_not_tell_its_axes_is_refused():
    square = random_layer(0, states=3, channels=3)
    keep = [np.array([True, True, False])]
    for optimizer in (optax.adafactor(1e-3, min_dim_size_to_factor=3), optax.sm3(1e-3)):
        with pytest.raises(ValueError, match=r"mu\.Lambda_re|v_row\.B .* does not tell"):
            keep_states_with_optimizer(square, optimizer.init(square), keep)


@pytest.mark.parametrize(
    "initialize",
    [
        lambda parameters: optax.adam(1e-3).init({"w": jnp.ones(3)}),
        lambda parameters: optax.adam(1e-3).init(jax.tree.leaves(parameters)),
        lambda parameters: optax.flatten(optax.adam(1e-3)).init(parameters),
    ],
    ids=["of another model", "of a list of the arrays", "flat"],
)
def test_a_state_whose_arrays_belong_to_no_parameter_is_refused(initialize):
    """Such a state would stay as it is, and the next update would mix up the states."""
    parameters = model()
    with pytest.raises(ValueError, match="no array of the optimizer state has the path"):
        keep_states_with_optimizer(parameters, initialize(parameters), KEEP)


def test_an_optimizer_in_the_place_of_its_state_is_refused():
    with pytest.raises(ValueError, match=r"got an optimizer; pass its state"):
        keep_states_with_optimizer(model(), optax.adam(1e-3), KEEP)


def test_states_without_arrays_of_the_layers_remain():
    """Plain gradient descent, and an optimizer of other parameters only."""
    parameters = model()
    others = optax.masked(optax.adam(1e-3), {"a": False, "b": True})
    for optimizer in (optax.sgd(0.1), others):
        state = optimizer.init(parameters)
        _, found = keep_states_with_optimizer(parameters, state, KEEP)
        assert eqx.tree_equal(found, state)
