"""The registry of methods: every name works in `prune`, and users add their own."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest

import lastax
from lastax.pruning import Reducer

from ..runs import untrained_run

KEYS = jax.random.split(jax.random.key(0), 3)
LENGTH = 12


@pytest.fixture(scope="module")
def model():
    config = lastax.ModelConfig(layers=2, channels=4, states=4, bidirectional=False)
    return lastax.build_network(config, input_size=2, classes=3, key=KEYS[0])


@pytest.fixture(scope="module")
def batch():
    return {"x": np.asarray(jax.random.normal(KEYS[1], (6, LENGTH, 2)))}


@pytest.fixture(scope="module")
def calibration(model, batch):
    return lastax.calibrate(model, batch)


@pytest.fixture
def own_method():
    """A registered method, removed from the registry after the test."""
    from lastax.pruning import _methods

    method = lastax.Method(lambda system, _: abs(system.lam), "slowest states first")
    yield lastax.register_method("slowest", method)
    del _methods._METHODS["slowest"]


@pytest.mark.parametrize("method", sorted(lastax.METHODS))
def test_methods_say_whether_they_use_the_key(model, calibration, method):
    entry = lastax.METHODS[method]
    data = calibration if entry.needs_calibration else None
    one, other = (
        lastax.prune(model, states=5, method=method, length=LENGTH, key=key, calibration=data)
        for key in KEYS[1:3]
    )
    assert eqx.tree_equal(one, other) is not entry.uses_key


@pytest.mark.parametrize("uses_key", [False, True])
def test_sweeps_tell_seeds_of_methods_that_use_the_key_apart(own_method, tmp_path, uses_key):
    from lastax.pruning import _methods

    untrained_run(tmp_path, lastax.ModelConfig(layers=1, channels=4, states=4))
    _methods._METHODS["slowest"] = dataclasses.replace(own_method, uses_key=uses_key)
    grids = [lastax.experiments.Grid(methods=("slowest",), seed=seed) for seed in range(2)]
    (_, cell, *_) = grids[0].cells()
    one, other = (grid.identity(tmp_path, cell) for grid in grids)
    assert (one != other) is uses_key


@pytest.mark.parametrize("method", sorted(lastax.METHODS))
def test_every_method_prunes_by_name(model, calibration, method):
    small = lastax.prune(
        model,
        states=5,
        method=method,
        length=LENGTH,
        key=KEYS[2],
        calibration=calibration if lastax.METHODS[method].needs_calibration else None,
    )
    counts = lastax.state_counts(small)
    # Balanced truncation may need fewer states than allowed.
    assert min(counts) >= 1
    assert sum(counts) <= 5
    if lastax.METHODS[method].reduce is None:
        assert sum(counts) == 5
    x = jax.numpy.ones((LENGTH, 2))
    assert np.isfinite(small(x)).all()


@pytest.mark.parametrize(
    "method", sorted(name for name, it in lastax.METHODS.items() if it.needs_calibration)
)
def test_methods_that_need_calibration_ask_for_it(model, method):
    with pytest.raises(ValueError, match="pass calibration="):
        lastax.prune(model, ratio=0.5, method=method)


def test_refitting_is_a_property_that_any_method_can_have(model, batch, calibration):
    """`last-refitted` keeps the states of LAST and fits them as `refit(keep=...)` does."""
    plan = lastax.plan_pruning(model, ratio=0.5)
    wanted, _ = lastax.refit(model, batch, keep=plan.keep)
    found = lastax.prune(model, ratio=0.5, method="last-refitted", calibration=calibration)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_registered_method_works_everywhere(model, own_method):
    small = lastax.prune(model, ratio=0.5, method="slowest")
    for layer, smaller in zip(lastax.systems(model), lastax.systems(small), strict=True):
        removed = np.setdiff1d(abs(layer.lam), abs(smaller.lam))
        # The network has one threshold for all layers, so each layer keeps its slowest states.
        assert removed.size == 0 or removed.max() <= abs(smaller.lam).min()
    assert "slowest" in lastax.METHODS
    assert Reducer(model).reduce("slowest", ratio=0.5).keep[0].dtype == bool


def test_a_name_is_registered_once(own_method):
    lastax.register_method("slowest", own_method)
    with pytest.raises(ValueError, match="already a method 'last'"):
        lastax.register_method("last", own_method)
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        lastax.register_method("my score", own_method)


def test_the_registry_cannot_be_written(own_method):
    with pytest.raises(TypeError):
        lastax.METHODS["other"] = own_method


def test_methods_without_meaning_are_rejected():
    with pytest.raises(ValueError, match="must refit"):
        lastax.Method(None, "nothing")
    with pytest.raises(ValueError, match="cannot be refitted"):
        lastax.Method(None, "both", reduce=lambda system, keep, context: system, refit=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.5}, r"prune: ratio must be in \[0, 1\), got 1.5"),
        ({"states": 0}, r"prune: states must be between 2 \(one per layer\) and 8"),
        ({"states": 9}, "got 9"),
        ({}, "prune: pass exactly one of ratio= and states="),
        ({"ratio": 0.5, "states": 4}, "exactly one of"),
        ({"ratio": 0.5, "method": "lst"}, "prune: no pruning method 'lst'; choose one of"),
        ({"ratio": 0.5, "method": "last-finite-horizon"}, "pass length="),
        ({"ratio": 0.5, "method": "last-finite-horizon", "length": 0}, "length must be a positive"),
        ({"ratio": 0.5, "method": "random"}, "pass key="),
    ],
)
def test_errors_name_the_argument_of_the_caller(model, options, words):
    with pytest.raises(ValueError, match=words):
        lastax.prune(model, **options)


def test_plans_refuse_methods_that_refit(model):
    with pytest.raises(ValueError, match="plan_pruning: calibrated also refits"):
        lastax.plan_pruning(model, ratio=0.5, method="calibrated")
    with pytest.raises(ValueError, match="score_states: calibrated has no scores"):
        lastax.score_states(lastax.systems(model), "calibrated")
