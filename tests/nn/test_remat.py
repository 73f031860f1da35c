"""`remat`, `scan_layers` and `scan_method` change memory and speed, but not results."""

import dataclasses
import functools
from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax.ssm import _scan_methods

from ..systems import compiled, filled

METHODS = get_args(lastax.ssm.ScanMethod)


def network(**settings):
    config = lastax.ModelConfig(**{"channels": 3, "states": 3, "dropout": 0.3, **settings})
    return lastax.build_network(config, input_size=2, classes=2, key=jax.random.key(0))


def shapes_of(**settings):
    return eqx.filter_eval_shape(lambda: network(**settings))


@compiled
def gradient_and_model(model, x, length, remat, scan_layers=False):
    """The gradient of a training step with dropout, and the model with new statistics."""
    parameters, rest = lastax.nn.split_trainable(model)
    keys = jax.random.split(jax.random.key(3), len(x))

    def loss(parameters):
        model = eqx.combine(parameters, rest)
        logits, updated = eqx.filter_vmap(
            lambda x, length, key: model.forward(
                x, length, key=key, axis="n", remat=remat, scan_layers=scan_layers
            ),
            in_axes=(0, eqx.if_array(0), 0),
            out_axes=(0, None),
            axis_name="n",
        )(x, length, keys)
        return jnp.sum(logits**3), updated

    return jax.grad(loss, has_aux=True)(parameters)


@pytest.mark.parametrize(
    ("settings", "counts", "lengths", "steps"),
    [
        ({"layers": 3, "bidirectional": False, "channels": 8}, (8, 8, 8), None, 256),
        # Masks matter most to backward recurrences.
        ({"layers": 2, "head": "retrieval"}, (6, 8), [[6, 4], [1, 6], [3, 3]], 6),
    ],
    ids=["equal", "different"],
)
def test_remat_gives_the_same_model_in_less_memory(x64, settings, counts, lengths, steps):
    """For equal and different adjacent blocks, without and with masks, with dropout."""
    model = filled(shapes_of(layer="lru", states=8, **settings))
    model = lastax.keep_states(model, [np.arange(8) < count for count in counts])
    assert model.head.weight.dtype == float
    length = None if lengths is None else jnp.asarray(lengths)
    x = np.random.default_rng(1).normal(size=(3, *(() if lengths is None else (2,)), steps, 2))
    arguments = [(model, x, length, remat) for remat in (False, True)]
    programs = [gradient_and_model.lower(*both).compile() for both in arguments]
    (gradient, plain), (other_gradient, other) = (
        program(*both) for program, both in zip(programs, arguments, strict=True)
    )
    results = [(other_gradient, other)]
    if lengths is not None:
        # A loop that stores everything, as the plain program does.
        results.append(gradient_and_model(model, x, length, False, True))
    for found, updated in results:
        for one, same in zip(jax.tree.leaves(gradient), jax.tree.leaves(found), strict=True):
            atol = 1e-12 * float(jnp.abs(one).max())
            np.testing.assert_allclose(same, one, rtol=1e-9, atol=atol)
        assert eqx.tree_equal(updated, plain, rtol=1e-9, atol=1e-12)
    assert lastax.state_counts(other) == list(counts)
    for before, after in zip(model.encoder.blocks, other.encoder.blocks, strict=True):
        assert float(jnp.abs(after.norm.running.mean - before.norm.running.mean).max()) > 1e-3
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient.encoder))
    if steps > 100:
        # Here the sequences take most of the memory.
        stored, needed = (
            program.compiled.memory_analysis().temp_size_in_bytes for program in programs
        )
        assert needed < 0.6 * stored


@pytest.mark.parametrize("how", ["remat", "scan_layers"])
def test_loops_go_over_equal_adjacent_blocks(how):
    """One loop per run of blocks of the same class and shapes, so that its body compiles once."""

    def loops(*blocks):
        model = eqx.tree_at(lambda model: model.encoder.blocks, shapes_of(layer="s4d"), blocks)
        program = eqx.filter_make_jaxpr(lambda model, x: model.encoder(x, **{how: True})[0])(
            model, jax.ShapeDtypeStruct((4, 2), jnp.float32)
        )[0]
        return [eqn.params["length"] for eqn in program.eqns if eqn.primitive.name == "scan"]

    s4d, small, s5 = (
        shapes_of(layer=layer, states=states, layers=1).encoder.blocks[0]
        for layer, states in (("s4d", 3), ("s4d", 2), ("s5", 3))
    )
    assert loops(s4d, s4d, s4d) == [3]
    lengths = [1, 2, 1, 2] if how == "remat" else [2, 2]
    assert loops(s4d, s5, s5, s4d, small, small) == lengths


@pytest.mark.parametrize("how", [{}, {"remat": True}, {"scan_layers": True}])
def test_training_steps_pass_remat_and_scan_layers_on(how):
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)
    model = filled(shapes_of(layer="lru", layers=2))
    state = lastax.training.TrainState.initialize(model, optimizer)
    batch = {"x": np.zeros((4, 6, 2), np.float32), "label": np.zeros(4, int)}
    step = functools.partial(lastax.training.train_step, optimizer=optimizer, **how)
    program, *_ = eqx.filter_make_jaxpr(step)(state, batch, key=jax.random.key(0))
    # With either of them, both blocks are one loop.
    assert ("length=2" in str(program)) == bool(how)
    assert ("remat" in str(program) or "checkpoint" in str(program)) == ("remat" in how)


def test_scan_methods_give_the_same_output_and_gradient(x64, monkeypatch):
    # A short sequence of several chunks compiles fast.
    monkeypatch.setattr(_scan_methods, "SHORTEST_CHUNK", 4)
    monkeypatch.setattr(_scan_methods, "LONGEST_CHUNK", 8)
    layer = filled(shapes_of(layer="lru", channels=2)).encoder.blocks[0].layer
    u = np.random.default_rng(1).normal(size=(2, 19, 2))

    @compiled
    def output_and_gradient(layer):
        def energy(layer):
            y = jax.vmap(layer)(u)
            return jnp.sum(y**3), y

        return eqx.filter_value_and_grad(energy, has_aux=True)(layer)

    results = {}
    for method in METHODS:
        chosen = dataclasses.replace(layer, scan_method=method)
        assert chosen.keep(np.arange(3) < 2).scan_method == method
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


def test_scan_method_of_the_configuration():
    for method in METHODS:
        model = shapes_of(layers=1, scan_method=method)
        assert model.encoder.blocks[0].layer.scan_method == method
    model = shapes_of(layers=1)
    assert model.encoder.blocks[0].layer.scan_method is None
