"""Balanced truncation: error bounds, channels, directions, and empirical Gramians."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

import lastax

from ..systems import RAGGED, few, random_channels, random_system, seeds


def first(system, count):
    return np.arange(system.states) < count


def error(system, reduced):
    return lastax.analysis.hinf_norm(lastax.analysis.difference(system, reduced))


@few
@given(seed=seeds, conj_sym=st.booleans())
def test_keeping_all_states_keeps_the_operator(seed, conj_sym):
    system = random_system(seed, conj_sym=conj_sym)
    same = lastax.balanced_truncation(system, first(system, system.states))
    assert error(system, same) <= 1e-7 * lastax.analysis.hinf_norm(system)


@few
@given(seed=seeds, count=st.integers(1, 4), conj_sym=st.booleans())
def test_error_is_within_its_bounds(seed, count, conj_sym):
    system = random_system(seed, conj_sym=conj_sym)
    small = lastax.balanced_truncation(system, first(system, count))
    assert 1 <= small.states <= count
    assert np.all(np.abs(small.lam) < 1)
    dimensions = 2 * small.states - int(np.sum(small.lam.imag == 0))
    values = lastax.hankel_singular_values(system)
    assert error(system, small) <= 2 * values[dimensions:].sum() * (1 + 1e-8)
    assert error(system, small) >= values[dimensions] * (1 - 1e-8)


def test_a_state_without_input_is_removed_first():
    system = random_system(0)
    without_input = dataclasses.replace(system, B=system.B * (np.arange(5) != 2)[:, None])
    small = lastax.balanced_truncation(without_input, first(without_input, 4))
    assert error(without_input, small) <= 1e-7 * lastax.analysis.hinf_norm(without_input)
    np.testing.assert_allclose(lastax.pruning.hankel_scores(without_input)[-1], 0, atol=1e-12)


def test_bidirectional_system_is_one_system_with_stacked_outputs():
    system = random_system(1, bidirectional=True)
    same = lastax.balanced_truncation(system, first(system, system.states))
    assert same.C_reverse.shape == same.C.shape
    assert error(system, same) <= 1e-7 * lastax.analysis.hinf_norm(system)
    stacked = lastax.System(
        lam=system.lam,
        B=np.concatenate([system.B, 0 * system.B], axis=1),
        C=np.concatenate([system.C, system.C_reverse]),
        C_reverse=None,
        D=np.zeros(6),
    )
    np.testing.assert_allclose(
        lastax.hankel_singular_values(system), lastax.hankel_singular_values(stacked), rtol=1e-8
    )


def test_hankel_scores_belong_to_ranks():
    system = random_system(2, states=8)
    scores = lastax.pruning.hankel_scores(system)
    assert scores[0] == pytest.approx(1)
    assert np.all(np.diff(scores) <= 0)
    squares = (lastax.hankel_singular_values(system) ** 2).reshape(-1, 2).mean(axis=1)
    np.testing.assert_allclose(scores, squares / np.cumsum(squares))


def test_channels_are_reduced_independently():
    system = random_channels(0)
    keep = np.zeros(system.states, bool)
    keep[[0, 1, 3, 4, 5, 8]] = True  # two, none, three, one
    small = lastax.balanced_truncation(system, keep)
    assert small.counts[1] == 0
    assert all(n <= budget for n, budget in zip(small.counts, (2, 0, 3, 1), strict=True))
    parts = zip(lastax.ssm.channel_systems(system), lastax.ssm.channel_systems(small), strict=True)
    for channel, (original, part) in enumerate(parts):
        alone = lastax.balanced_truncation(original, first(original, (2, 0, 3, 1)[channel]))
        np.testing.assert_allclose(alone.lam, part.lam)
    scores = lastax.pruning.hankel_scores(system)
    for part in np.split(scores, np.cumsum(RAGGED)[:-1]):
        assert np.all(np.diff(part) <= 0)


def test_unstable_systems_raise():
    system = random_system(0)
    system = dataclasses.replace(system, lam=system.lam * np.where(np.arange(5) == 3, 0, 1) + 1.0)
    with pytest.raises(ValueError, match=r"hankel_singular_values: a state has \|lam\| >= 1"):
        lastax.hankel_singular_values(system)
    with pytest.raises(ValueError, match=r"balanced_truncation: a state has \|lam\| >= 1"):
        lastax.balanced_truncation(system, first(system, 2))


@few
@given(seed=seeds, conj_sym=st.booleans(), bidirectional=st.booleans())
def test_gramian_of_white_noise_equals_default(seed, conj_sym, bidirectional):
    """The empirical Gramian of white noise is the closed form."""
    system = random_system(seed, conj_sym=conj_sym, bidirectional=bidirectional)
    moments = lastax.calibration.white_moments(system)
    gramians = lastax.calibration.empirical_gramians(system, moments)
    np.testing.assert_allclose(
        lastax.pruning.hankel_scores(system, gramians=gramians),
        lastax.pruning.hankel_scores(system),
        rtol=1e-6,
    )
    one = lastax.balanced_truncation(system, first(system, 3))
    two = lastax.balanced_truncation(system, first(system, 3), gramians=gramians)
    assert error(one, two) <= 1e-6 * lastax.analysis.hinf_norm(system)


def test_directions_that_data_do_not_reach_have_zero_score():
    """The inputs reach a plane of the state space, so one state has a nonzero score."""
    system = random_system(3)
    rng = np.random.default_rng(0)
    # The inputs reach two of ten real directions.
    reached = rng.normal(size=(10, 2))
    columns = np.stack([np.eye(10)[:5], -np.eye(10)[5:]], axis=1).reshape(10, 10)
    features = columns @ reached @ reached.T @ columns.T
    gram = np.zeros((16, 16))
    gram[:10, :10] = features * 2
    moments = lastax.calibration.Moments(gram[None], width=2, targets=3, rows=2)
    gramians = lastax.calibration.empirical_gramians(system, moments)
    scores = lastax.pruning.hankel_scores(system, gramians=gramians)
    assert np.sum(scores > 1e-9) == 1


def test_a_mask_of_integers_is_refused():
    ones = np.ones(4, complex)
    system = lastax.ssm.MultiSISO(ones / 2, ones, ones, None, np.zeros(2), (2, 2))
    with pytest.raises((ValueError, TypeCheckError), match=r"boolean array|Bool"):
        lastax.analysis.balanced_truncation(system, np.array([1, 0, 1, 0]))
