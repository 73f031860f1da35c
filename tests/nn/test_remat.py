"""`remat` and `scan_method` change memory and speed, but not results."""

import dataclasses
from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from ..systems import compiled

METHODS = get_args(lastax.ssm.ScanMethod)


def network(key, **settings):
    config = lastax.ModelConfig(channels=6, states=4, dropout=0.3, **settings)
    return lastax.build_network(config, input_size=3, classes=5, key=key)


def cut(model, *counts):
    """`model` with the given number of states in each layer, so that shapes of blocks differ."""
    return lastax.keep_states(model, [np.arange(4) < count for count in counts])


@compiled
def train_step(state, batch, optimizer, remat):
    key = jax.random.key(3)
    return lastax.training.train_step(state, batch, optimizer=optimizer, key=key, remat=remat)


def trained(model, batch, *, remat):
    """The model and the metrics after two steps of training with dropout."""
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)
    state = lastax.training.TrainState.initialize(model, optimizer)
    for _ in range(2):
        state, metrics = train_step(state, batch, optimizer, remat)
    return state.model, metrics


def widened(model):
    return jax.tree.map(
        lambda leaf: leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf, model
    )


@pytest.mark.parametrize(
    "counts", [(4, 4, 4), (4, 4, 2), (1, 3, 3), (4, 2, 4)], ids=["equal", "end", "start", "none"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_remat_gives_the_same_model(getkey, x64, counts, masked):
    """`remat` gives the same parameters and statistics, for equal and unequal adjacent blocks."""
    # Masks matter most to backward recurrences; other cases run in one direction to compile less.
    model = widened(cut(network(getkey(), layers=3, bidirectional=masked), *counts))
    batch = {"x": jax.random.normal(getkey(), (4, 20, 3)), "label": jnp.arange(4)}
    if masked:
        batch["length"] = jnp.array([20, 7, 13, 1])
    plain, metrics = trained(model, batch, remat=False)
    other, other_metrics = trained(model, batch, remat=True)
    np.testing.assert_allclose(other_metrics.loss, metrics.loss, rtol=1e-12)
    assert lastax.state_counts(other) == list(counts)
    assert eqx.tree_equal(other, plain, rtol=1e-7, atol=1e-9)
    means = [block.norm.running.mean for block in other.encoder.blocks]
    assert all(float(jnp.abs(mean).max()) > 0 for mean in means)


def test_remat_of_retrieval_gives_the_same_model(getkey, x64):
    model = widened(network(getkey(), layers=2, head="retrieval"))
    batch = {
        "x": jax.random.normal(getkey(), (3, 2, 11, 3)),
        "label": jnp.arange(3),
        "length": jnp.array([[11, 4], [1, 11], [6, 6]]),
    }
    plain, other = (trained(model, batch, remat=remat)[0] for remat in (False, True))
    assert eqx.tree_equal(other, plain, rtol=1e-7, atol=1e-9)


def test_remat_needs_less_memory(getkey):
    config = lastax.ModelConfig(layers=6, channels=16, states=8, bidirectional=False)
    model = lastax.build_network(config, input_size=3, classes=5, key=getkey())
    batch = {"x": jax.random.normal(getkey(), (4, 512, 3)), "label": jnp.arange(4)}
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)
    state, needed = lastax.training.TrainState.initialize(model, optimizer), {}
    for remat in (False, True):
        program = train_step.lower(state, batch, optimizer, remat).compile()
        needed[remat] = program.compiled.memory_analysis().temp_size_in_bytes
    assert needed[True] < 0.6 * needed[False]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_scan_methods_give_the_same_output_and_gradient(getkey, x64, bidirectional):
    layer = lastax.S5.initialize(5, 6, bidirectional=bidirectional, key=getkey())
    u = jax.random.normal(getkey(), (2, 300, 5))

    @compiled
    def output_and_gradient(layer):
        def energy(layer):
            y = jax.vmap(layer)(u)
            return jnp.sum(y**3), y

        return eqx.filter_value_and_grad(energy, has_aux=True)(layer)

    results = {}
    for method in METHODS:
        chosen = widened(dataclasses.replace(layer, scan_method=method))
        assert chosen.keep(np.arange(6) < 3).scan_method == method
        assert chosen.system().scan_method == method
        (_, y), gradient = output_and_gradient(chosen)
        results[method] = y, jax.tree.leaves(gradient)
    wanted, gradients = results["sequential"]
    for method in METHODS:
        y, others = results[method]
        np.testing.assert_allclose(y, wanted, rtol=1e-9, atol=1e-9, err_msg=method)
        for one, other in zip(gradients, others, strict=True):
            atol = 1e-9 * float(jnp.abs(one).max())
            np.testing.assert_allclose(other, one, rtol=1e-8, atol=atol, err_msg=method)


def test_scan_method_of_the_configuration(getkey):
    for method in METHODS:
        model = network(getkey(), layers=1, scan_method=method)
        assert model.encoder.blocks[0].layer.scan_method == method
    assert network(getkey(), layers=1).encoder.blocks[0].layer.scan_method is None
