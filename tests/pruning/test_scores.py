"""Properties of the layer-adaptive scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from ..systems import few, random_system, seeds

SCORES = {
    "last": lastax.last_scores,
    "finite_horizon": lambda system: lastax.pruning.finite_horizon_last_scores(system, 30),
    "lamp": lastax.pruning.lamp_scores,
}
every_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
SQUARES = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def by_definition(squares):
    """Each square divided by the sum of itself and all later squares in ascending order."""
    order = sorted(range(len(squares)), key=lambda i: (squares[i], i))
    shares = np.empty(len(squares))
    for rank, i in enumerate(order):
        rest = sum(squares[j] for j in order[rank:])
        shares[i] = squares[i] / rest if rest else 0.0
    return shares


@few
@given(squares=SQUARES)
def test_layer_adaptive_by_its_definition(squares):
    """Ties and zeros included."""
    got = lastax.pruning.layer_adaptive(np.array(squares, float))
    np.testing.assert_allclose(got, by_definition(squares), rtol=1e-13)


@few
@given(squares=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_largest_score_is_one(squares):
    got = lastax.pruning.layer_adaptive(np.array(squares, float))
    assert got[np.argmax(squares)] <= 1
    assert got.max() == 1
    assert np.all((got > 0) & (got <= 1))


@few
@given(seed=seeds)
def test_scores_preserve_the_order_of_squares(seed):
    squares = np.random.default_rng(seed).exponential(size=9)
    got = lastax.pruning.layer_adaptive(squares)
    np.testing.assert_array_equal(np.argsort(got), np.argsort(squares))


def test_ties_are_ordered_by_position():
    got = lastax.pruning.layer_adaptive(np.array([1.0, 2.0, 1.0, 2.0]))
    np.testing.assert_allclose(got, [1 / 6, 1 / 2, 1 / 5, 1.0], rtol=1e-15)


def test_infinite_squares_score_infinity_and_are_left_out_of_sums():
    got = lastax.pruning.layer_adaptive(np.array([1.0, np.inf, 3.0, np.inf]))
    np.testing.assert_array_equal(got, [0.25, np.inf, 1.0, np.inf])
    np.testing.assert_array_equal(lastax.pruning.layer_adaptive(np.array([np.inf])), [np.inf])


def test_zero_squares_score_zero():
    np.testing.assert_array_equal(lastax.pruning.layer_adaptive(np.zeros(3)), 0)
    np.testing.assert_array_equal(lastax.pruning.layer_adaptive(np.array([0.0, 5.0])), [0, 1])


def test_wide_range_of_squares():
    """Small squares keep their relative precision next to large ones."""
    squares = 10.0 ** -np.arange(0, 300, 20)
    np.testing.assert_allclose(lastax.pruning.layer_adaptive(squares)[1:], squares[1:], rtol=1e-12)


@every_score
@few
@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_scores_are_invariant_to_the_scale_of_a_layer(score, seed, factor):
    system = random_system(seed, bidirectional=True)
    scaled = dataclasses.replace(
        system, C=factor * system.C, C_reverse=factor * system.C_reverse, B=factor * system.B
    )
    np.testing.assert_allclose(score(scaled), score(system), rtol=1e-10)


@every_score
def test_scores_are_equivariant_to_the_order_of_states(score):
    system = random_system(1)
    order = np.array([3, 0, 4, 1, 2])
    shuffled = dataclasses.replace(
        system, lam=system.lam[order], B=system.B[order], C=system.C[:, order]
    )
    np.testing.assert_allclose(score(shuffled), score(system)[order], rtol=1e-12)


def test_scores_of_a_layer_by_hand():
    """Gains 1, 2, 3 at distances 1, 1/2, 1/4 from the circle: norms 1, 4, 12."""
    system = lastax.System(
        lam=np.array([0, 0.5, 0.75]) + 0j,
        B=np.eye(3) + 0j,
        C=np.diag([1.0, 2.0, 3.0]) + 0j,
        C_reverse=None,
        D=np.zeros(3),
    )
    np.testing.assert_allclose(lastax.last_scores(system), [1 / 161, 16 / 160, 1], rtol=1e-14)
    # After two steps: 1, 2 (1 + 1/2), 3 (1 + 3/4).
    np.testing.assert_allclose(
        lastax.pruning.finite_horizon_last_scores(system, 2),
        [1 / (1 + 9 + 5.25**2), 9 / (9 + 5.25**2), 1],
        rtol=1e-14,
    )
    # |lam| |B| |C|: 0, 1, 9/4.
    np.testing.assert_allclose(
        lastax.pruning.lamp_scores(system), [0, 1 / (1 + 81 / 16), 1], rtol=1e-14
    )


@every_score
def test_jax_under_jit_is_numpy(score, x64):
    system = random_system(2)
    got = jax.jit(score)(jax.tree.map(jnp.asarray, system))
    np.testing.assert_allclose(got, score(system), rtol=1e-12)


def test_random_scores_depend_only_on_the_key(getkey):
    first, second = getkey(), getkey()
    system = random_system(0, states=100)
    scores = lastax.pruning.random_scores(system, key=first)
    assert scores.shape == (100,)
    np.testing.assert_array_equal(scores, lastax.pruning.random_scores(system, key=first))
    assert np.any(scores != lastax.pruning.random_scores(system, key=second))
    assert 0 <= scores.min() <= 0.2 <= 0.8 <= scores.max() < 1


def test_nan_stays_nan():
    """Selection then rejects it."""
    assert np.isnan(lastax.pruning.layer_adaptive(np.array([1.0, np.nan, 2.0]))).any()
