"""Pruning with every method: counts, scores, masks, unstable states and errors."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import lastax

from ..systems import compiled, random_layer

LENGTH, CHANNELS = 11, 3
# Methods that refit choose the states themselves and make no plan.
PLANNED = sorted(name for name, method in lastax.METHODS.items() if not method.refit)

apply = compiled(lambda model, x: model(x))


def network(getkey, layers):
    blocks = tuple(
        lastax.nn.Block(
            lastax.nn.LayerNorm.initialize(CHANNELS),
            layer,
            lastax.nn.Gate.initialize(CHANNELS, "half_glu1", key=getkey()),
        )
        for layer in layers
    )
    encoder = lastax.nn.Encoder(lastax.nn.Linear.initialize(2, CHANNELS, key=getkey()), blocks)
    return lastax.Classifier(encoder, lastax.nn.Linear.initialize(CHANNELS, 4, key=getkey()))


@pytest.mark.parametrize("method", [name for name in PLANNED if name != "random"])
def test_ratio_zero_leaves_the_model_bitwise_equal(method, getkey):
    layers = [random_layer(i, states=4, bidirectional=bool(i)) for i in range(2)]
    model = network(getkey, layers)
    moments = [lastax.calibration.white_moments(system) for system in lastax.systems(model)]
    options = {"method": method, "length": LENGTH, "moments": moments}
    same = lastax.plan_pruning(model, ratio=0.0, **options).apply(model)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(LENGTH, 2)), jnp.float32)
    np.testing.assert_array_equal(apply(same, x), apply(model, x))
    assert eqx.tree_equal(same, model)


@pytest.mark.parametrize("method", PLANNED)
def test_every_method_keeps_the_highest_scores(method, getkey):
    """The number of states is exact. Per layer, no removed state scores above a kept one."""
    layers = [random_layer(i, states=6) for i in range(3)]
    options = {"ratio": 0.5, "method": method, "length": 20, "key": getkey()}
    moments = [lastax.calibration.white_moments(system) for system in lastax.systems(layers)]
    plan = lastax.plan_pruning(layers, **options, moments=moments)
    assert sum(plan.states_after) == 9
    assert plan.states_before == [6, 6, 6]
    assert min(plan.states_after) >= 1
    for scores, keep in zip(plan.scores, plan.keep, strict=True):
        assert scores[keep].min() >= scores[~keep].max(initial=-np.inf)
    if method.startswith("uniform"):
        assert plan.states_after == [3, 3, 3]
    small = plan.apply(layers)
    if lastax.METHODS[method].uses_moments:
        with pytest.raises(
            ValueError, match="prune: this needs calibration data: pass calibration="
        ):
            lastax.prune(layers, **options)
    else:
        assert eqx.tree_equal(lastax.prune(layers, **options), small)
    assert lastax.state_counts(small) == plan.states_after
    kept = lastax.keep_states(layers, plan.keep)
    # New states differ from the kept ones in their values only, not in their number.
    assert eqx.tree_equal(small, kept) == (lastax.METHODS[method].reduce is None)
    assert jax.tree.structure(small) == jax.tree.structure(kept)


def test_custom_method():
    first_states = lastax.Method(
        score=lambda system, context: -np.arange(system.states) * 1.0,
        select=lastax.select_global,
        summary="the first states of each layer",
    )
    layers = [random_layer(0, states=4), random_layer(1, states=2)]
    plan = lastax.plan_pruning(layers, states=4, method=first_states)
    assert [keep.tolist() for keep in plan.keep] == [[True, True, False, False], [True, True]]


def test_pruned_network_equals_masked_network(getkey):
    layers = [random_layer(i, states=5, bidirectional=True) for i in range(2)]
    model = network(getkey, layers)
    plan = lastax.plan_pruning(model, ratio=0.4)
    masked_model = eqx.tree_at(
        lambda m: [block.layer for block in m.encoder.blocks],
        model,
        [
            dataclasses.replace(layer, B=layer.B * keep[:, None, None])
            for layer, keep in zip(layers, plan.keep, strict=True)
        ],
    )
    x = jnp.asarray(np.random.default_rng(1).normal(size=(LENGTH, 2)), jnp.float32)
    small = lastax.prune(model, ratio=0.4)
    assert sum(lastax.state_counts(small)) == 6
    y = apply(small, x)
    np.testing.assert_allclose(y, apply(masked_model, x), rtol=0, atol=1e-5)
    assert np.abs(y - apply(model, x)).max() > 1e-4


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0])
def test_ratio_outside_its_range_raises(ratio):
    with pytest.raises(ValueError, match=r"ratio must be in \[0, 1\)"):
        lastax.prune(random_layer(0), ratio=ratio)


def test_random_pruning_depends_on_its_key(getkey):
    layers = [random_layer(0, states=20), random_layer(1, states=20)]
    key, other = getkey(), getkey()
    plan = lastax.plan_pruning(layers, ratio=0.5, method="random", key=key)
    again = lastax.plan_pruning(layers, ratio=0.5, method="random", key=key)
    assert [keep.tolist() for keep in plan.keep] == [keep.tolist() for keep in again.keep]
    moved = lastax.plan_pruning(layers, ratio=0.5, method="random", key=other)
    assert any(np.any(a != b) for a, b in zip(plan.keep, moved.keep, strict=True))
    assert np.any(plan.scores[0] != plan.scores[1])


def unstable_layer(states=4):
    layer = random_layer(0, states=states)
    return dataclasses.replace(layer, Lambda_re=layer.Lambda_re.at[1].set(0.5))


@pytest.mark.parametrize("method", ["last", "lamp", "uniform-magnitude", "last-published"])
def test_unstable_states_are_kept_with_a_warning(method):
    layers = [random_layer(1, states=4), unstable_layer()]
    with pytest.warns(lastax.surgery.UnstableStatesWarning, match=r"per layer: \[\[\], \[1\]\]"):
        small = lastax.prune(layers, states=2, method=method)
    assert lastax.state_counts(small) == [1, 1]
    np.testing.assert_array_equal(small[1].Lambda_re, [0.5])


def test_too_few_states_for_the_unstable_ones_raises():
    layer = unstable_layer()
    layer = dataclasses.replace(layer, Lambda_re=layer.Lambda_re.at[2].set(0.1))
    with pytest.raises(ValueError, match="too few to keep every unstable one"):
        lastax.prune(layer, states=1)


def test_methods_that_only_choose_states_need_no_fourth_method(getkey):
    """A score on calibration data reads the layer; only refits and new states write it."""

    class ReadOnly(eqx.Module):
        inner: lastax.S5

        def system(self, step_rescale=1.0):
            return self.inner.system(step_rescale)

        def __call__(self, u, *, step_rescale=1.0):
            return self.inner(u)

        def keep(self, mask):
            return ReadOnly(self.inner.keep(mask))

    model = network(getkey, [ReadOnly(random_layer(i, states=4)) for i in range(2)])
    batch = {"x": np.random.default_rng(0).normal(size=(2, LENGTH, 2)).astype(np.float32)}
    options = {"states": 5, "calibration": batch}
    for method in ("last", "empirical-energy"):
        assert sum(lastax.state_counts(lastax.prune(model, method=method, **options))) == 5
    for method in ("balanced", "empirical-balanced", "last-refitted", "calibrated"):
        with pytest.raises(ValueError, match=r"^prune: ReadOnly has no method with_system"):
            lastax.prune(model, method=method, **options)


def test_calibration_data_do_not_matter_to_a_score_of_parameters():
    """LAST needs no forward pass, also of a model that lastax does not know."""
    layers = [random_layer(i, states=4) for i in range(2)]
    small = lastax.prune(layers, ratio=0.5, method="last", calibration={"x": np.zeros((1, 5, 3))})
    assert eqx.tree_equal(small, lastax.prune(layers, ratio=0.5))
    with pytest.raises((ValueError, TypeCheckError), match=r"lastax\.Method\(|method"):
        lastax.prune(layers, ratio=0.5, method=lastax.last_scores)


def test_tied_layers_are_scored_by_all_their_uses_and_not_refitted(getkey):
    shared, other = random_layer(0, states=4), random_layer(1, states=4)
    model = network(getkey, [shared, other, shared])
    batch = {"x": np.random.default_rng(0).normal(size=(2, LENGTH, 2)).astype(np.float32)}
    calibration = lastax.calibrate(model, batch)
    first, second, third = calibration.moments
    plan = lastax.plan_pruning(
        model, states=5, method="empirical-energy", moments=[first + third, second]
    )
    small = lastax.prune(model, states=5, method="empirical-energy", calibration=calibration)
    assert eqx.tree_equal(small, plan.apply(model))
    blocks = small.encoder.blocks
    assert blocks[0].layer is blocks[2].layer
    with pytest.raises(ValueError, match=r"prune: blocks \(0, 2\) share one layer"):
        lastax.prune(model, states=5, calibration=calibration)
    with pytest.raises(ValueError, match=r"refit: blocks \(0, 2\) share one layer"):
        lastax.refit(model, calibration, states=5)


def test_scores_use_nothing_newer_than_numpy_2_0(monkeypatch, getkey):
    for name in ("cumulative_sum", "cumulative_prod", "unstack", "matvec", "vecmat"):
        monkeypatch.delattr(np, name, raising=False)
    layers = [random_layer(i, states=4) for i in range(2)]
    for method in PLANNED:
        if not lastax.METHODS[method].uses_moments:
            options = {"method": method, "length": 20, "key": getkey()}
            assert sum(lastax.state_counts(lastax.prune(layers, ratio=0.5, **options))) == 4


def test_the_calibration_of_another_model_is_refused(getkey):
    models = [network(getkey, [random_layer(i, states=4)]) for i in range(2)]
    batch = {"x": np.random.default_rng(0).normal(size=(2, LENGTH, 2)).astype(np.float32)}
    calibration = lastax.calibrate(models[0], batch)
    for method in ("empirical-energy", "empirical-balanced", "calibrated"):
        with pytest.raises(ValueError, match="prune: the Calibration is of another model"):
            lastax.prune(models[1], states=2, method=method, calibration=calibration)


def test_a_dense_feedthrough_of_the_calibration_counts_as_states(getkey):
    layer = lastax.S5.initialize(CHANNELS, 8, key=getkey())
    model = network(getkey, [layer])
    batch = {"x": np.random.default_rng(0).normal(size=(4, LENGTH, 2)).astype(np.float32)}
    calibration = lastax.calibrate(model, batch, dense_feedthrough=True)
    (count,) = calibration.feedthrough_states
    assert count > 0
    for method in ("last-refitted", "calibrated"):
        small = lastax.prune(model, states=6, method=method, calibration=calibration)
        assert lastax.state_counts(small) == [6 - count]


def test_calibration_data_that_can_be_read_once_suffice_for_reconstruction(getkey):
    model = network(getkey, [random_layer(0, states=4)])
    x = np.random.default_rng(0).normal(size=(4, LENGTH, 2)).astype(np.float32)
    small = [
        lastax.pruning.Reducer(model, given, reconstruction_steps=1)
        .reduce("calibrated", states=2)
        .model
        for given in ([x], iter([x]))
    ]
    assert eqx.tree_equal(*small)
