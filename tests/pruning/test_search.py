"""The search for a number of states: bisection on accuracies that are known by construction."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lastax
from lastax.pruning import Reducer, search_method
from lastax.pruning._search import _fewest

MODEL = [
    lastax.S5.initialize(channels=3, states=8, key=key)
    for key in jax.random.split(jax.random.key(0))
]


def accuracy_of_counts(model):
    """Falls by one point per state that contributes nothing to the output."""
    heard = sum(int(np.any(np.asarray(layer.C) != 0, axis=(0, 2)).sum()) for layer in model)
    return heard / 100 + 0.5


@given(st.integers(1, 50), st.integers(0, 60))
@settings(deadline=None)
def test_bisection_finds_the_boundary(high, boundary):
    found = _fewest(1, high, lambda count: count >= boundary)
    assert found == min(max(1, boundary), high)


@pytest.mark.parametrize(("max_loss", "states"), [(0, 16), (3, 13), (7.5, 9), (100, 2)])
def test_the_fewest_states_within_the_loss(max_loss, states):
    trials = []
    found = search_method(
        Reducer(MODEL),
        accuracy_of_counts,
        methods=("last",),
        max_loss=max_loss,
        on_trial=trials.append,
    )
    assert found.states == states
    assert found.loss == pytest.approx(16 - states)
    # Bisection: no number of states is tried twice.
    assert len({trial.states for trial in trials}) == len(trials) <= 6


def test_the_most_accurate_of_equally_small_models():
    def accuracy(model):
        kept = [abs(system.lam).sum() for system in lastax.systems(model)]
        return float(np.sum(kept)) / 100

    found = search_method(Reducer(MODEL), accuracy, methods=("lamp", "last", "aire"), states=6)
    for method in ("lamp", "last", "aire"):
        alone = search_method(Reducer(MODEL), accuracy, methods=(method,), states=6)
        assert alone.accuracy <= found.accuracy


def test_methods_that_do_not_suit_are_left_out():
    failed = []
    found = search_method(
        Reducer(MODEL),
        accuracy_of_counts,
        methods=("last-finite-horizon", "last"),
        states=4,
        on_failure=lambda method, error: failed.append(method),
    )
    assert (found.method, failed) == ("last", ["last-finite-horizon"])
    with pytest.raises(ValueError, match="no method suits the model"):
        search_method(Reducer(MODEL), accuracy_of_counts, methods=("random",), states=4)
    with pytest.raises(ValueError, match="exactly one of max_loss= and states="):
        search_method(Reducer(MODEL), accuracy_of_counts)
