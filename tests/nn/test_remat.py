"""`remat` and `scan_method` change how a network is computed, not what."""

import dataclasses
from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

METHODS = get_args(lastax.ssm.ScanMethod)


def network(key, **settings):
    config = lastax.ModelConfig(channels=6, states=4, dropout=0.3, **settings)
    return lastax.build_network(config, input_size=3, classes=5, key=key)


def cut(model, *counts):
    """`model` with so many states left in each layer: blocks of unequal shapes."""
    return lastax.keep_states(model, [np.arange(4) < count for count in counts])


def trained(model, batch, *, remat):
    """The gradient of every parameter, the loss, and the moved statistics, in float64."""
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)
    state = lastax.training.TrainState.initialize(model, optimizer)
    step = eqx.filter_jit(lastax.training.train_step)
    for _ in range(2):
        state, metrics = step(state, batch, optimizer=optimizer, key=jax.random.key(3), remat=remat)
    return state.model, metrics


def widened(model):
    return jax.tree.map(
        lambda leaf: leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf, model
    )


@pytest.mark.parametrize(
    "counts", [(4, 4, 4), (4, 4, 2), (1, 3, 3), (4, 2, 4)], ids=["equal", "end", "start", "none"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_two_steps_of_training_are_the_same(getkey, x64, counts, masked):
    """Blocks in loops or one by one, with dropout: the same parameters and statistics after."""
    model = widened(cut(network(getkey(), layers=3), *counts))
    batch = {"x": jax.random.normal(getkey(), (4, 20, 3)), "label": jnp.arange(4)}
    if masked:
        batch["length"] = jnp.array([20, 7, 13, 1])
    plain, metrics = trained(model, batch, remat=False)
    again, other_metrics = trained(model, batch, remat=True)
    np.testing.assert_allclose(other_metrics.loss, metrics.loss, rtol=1e-12)
    assert lastax.state_counts(again) == list(counts)
    assert eqx.tree_equal(again, plain, rtol=1e-7, atol=1e-9)
    moved = [block.norm.running.mean for block in again.encoder.blocks]
    assert all(float(jnp.abs(mean).max()) > 0 for mean in moved)


def test_two_documents_are_the_same(getkey, x64):
    model = widened(network(getkey(), layers=2, head="retrieval"))
    batch = {
        "x": jax.random.normal(getkey(), (3, 2, 11, 3)),
        "label": jnp.arange(3),
        "length": jnp.array([[11, 4], [1, 11], [6, 6]]),
    }
    plain, again = (trained(model, batch, remat=remat)[0] for remat in (False, True))
    assert eqx.tree_equal(again, plain, rtol=1e-7, atol=1e-9)


def test_less_memory_is_taken(getkey):
    config = lastax.ModelConfig(layers=6, channels=16, states=8)
    model = lastax.build_network(config, input_size=3, classes=5, key=getkey())
    batch = {"x": jax.random.normal(getkey(), (4, 512, 3)), "label": jnp.arange(4)}
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)
    state, taken = lastax.training.TrainState.initialize(model, optimizer), {}
    for remat in (False, True):
        step = eqx.filter_jit(lastax.training.train_step)
        program = step.lower(state, batch, optimizer=optimizer, key=getkey(), remat=remat).compile()
        taken[remat] = program.compiled.memory_analysis().temp_size_in_bytes
    assert taken[True] < 0.6 * taken[False]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_scan_method_computes_the_same(getkey, x64, bidirectional):
    layer = lastax.S5.initialize(5, 6, bidirectional=bidirectional, key=getkey())
    u = jax.random.normal(getkey(), (2, 300, 5))

    @eqx.filter_jit
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


def test_the_scan_method_is_a_setting(getkey):
    for method in METHODS:
        model = network(getkey(), layers=1, scan_method=method)
        assert model.encoder.blocks[0].layer.scan_method == method
    assert network(getkey(), layers=1).encoder.blocks[0].layer.scan_method is None
