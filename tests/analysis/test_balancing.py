"""Balanced truncation against what it promises."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from .systems import few, random_system, seeds
from .test_layers import RAGGED, random_channels


def first(system, count):
    return np.arange(system.states) < count


@few
@given(seed=seeds, conj_sym=st.booleans())
def test_everything_kept_is_the_same_operator(seed, conj_sym):
    system = random_system(seed, conj_sym=conj_sym)
    same = lastax.balanced_truncation(system, first(system, system.states))
    error = lastax.analysis.hinf_norm(lastax.analysis.difference(system, same))
    assert error <= 1e-7 * lastax.analysis.hinf_norm(system)


@few
@given(seed=seeds, count=st.integers(1, 4), conj_sym=st.booleans())
def test_error_is_within_its_bounds(seed, count, conj_sym):
    system = random_system(seed, conj_sym=conj_sym)
    small = lastax.balanced_truncation(system, first(system, count))
    assert 1 <= small.states <= count
    assert np.all(np.abs(small.lam) < 1)
    dimensions = 2 * small.states - int(np.sum(small.lam.imag == 0))
    values = lastax.hankel_singular_values(system)
    error = lastax.analysis.hinf_norm(lastax.analysis.difference(system, small))
    assert error <= 2 * values[dimensions:].sum() * (1 + 1e-8)
    assert error >= values[dimensions] * (1 - 1e-8)


def test_a_state_that_does_nothing_goes_first():
    system = random_system(0)
    silent = dataclasses.replace(system, B=system.B * (np.arange(5) != 2)[:, None])
    small = lastax.balanced_truncation(silent, first(silent, 4))
    assert lastax.analysis.hinf_norm(lastax.analysis.difference(silent, small)) <= 1e-7 * lastax.analysis.hinf_norm(silent)
    np.testing.assert_allclose(lastax.pruning.hankel_scores(silent)[-1], 0, atol=1e-12)


def test_both_directions_are_reduced_together():
    system = random_system(1, bidirectional=True)
    same = lastax.balanced_truncation(system, first(system, system.states))
    assert same.C_reverse.shape == same.C.shape
    assert lastax.analysis.hinf_norm(lastax.analysis.difference(system, same)) <= 1e-7 * lastax.analysis.hinf_norm(system)
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


def test_scores_are_ranks():
    system = random_system(2, states=8)
    scores = lastax.pruning.hankel_scores(system)
    assert scores[0] == pytest.approx(1)
    assert np.all(np.diff(scores) <= 0)
    squares = (lastax.hankel_singular_values(system) ** 2).reshape(-1, 2).mean(axis=1)
    np.testing.assert_allclose(scores, squares / np.cumsum(squares))


def test_channels_are_reduced_each_by_itself():
    system = random_channels(0)
    keep = np.zeros(system.states, bool)
    keep[[0, 1, 3, 4, 5, 8]] = True  # two, none, three, one
    small = lastax.balanced_truncation(system, keep)
    assert small.counts[1] == 0
    assert all(n <= budget for n, budget in zip(small.counts, (2, 0, 3, 1), strict=True))
    parts = zip(lastax.ssm.channel_systems(system), lastax.ssm.channel_systems(small), strict=True)
    for channel, (whole, part) in enumerate(parts):
        alone = lastax.balanced_truncation(whole, first(whole, (2, 0, 3, 1)[channel]))
        np.testing.assert_allclose(alone.lam, part.lam)
    scores = lastax.pruning.hankel_scores(system)
    for part in np.split(scores, np.cumsum(RAGGED)[:-1]):
        assert np.all(np.diff(part) <= 0)


def test_unstable_systems_are_refused():
    system = random_system(0)
    system = dataclasses.replace(system, lam=system.lam * np.where(np.arange(5) == 3, 0, 1) + 1.0)
    with pytest.raises(ValueError, match=r"\|lam\| >= 1"):
        lastax.hankel_singular_values(system)
    with pytest.raises(ValueError, match=r"\|lam\| >= 1"):
        lastax.balanced_truncation(system, first(system, 2))


@few
@given(seed=seeds, conj_sym=st.booleans(), bidirectional=st.booleans())
def test_moments_of_white_noise_balance_as_none(seed, conj_sym, bidirectional):
    """The measured Gramian is the closed form's where the data are white noise."""
    system = random_system(seed, conj_sym=conj_sym, bidirectional=bidirectional)
    moments = lastax.calibration.white_moments(system)
    np.testing.assert_allclose(
        lastax.pruning.hankel_scores(system, moments=moments), lastax.pruning.hankel_scores(system), rtol=1e-6
    )
    one = lastax.balanced_truncation(system, first(system, 3))
    two = lastax.balanced_truncation(system, first(system, 3), moments=moments)
    error = lastax.analysis.hinf_norm(lastax.analysis.difference(one, two))
    assert error <= 1e-6 * lastax.analysis.hinf_norm(system)


def test_directions_that_data_never_reach_cost_nothing():
    """Inputs that stay in a plane of the state space: balancing keeps that, whatever the norms."""
    system = random_system(3)
    rng = np.random.default_rng(0)
    # Two real directions of ten are reached.
    reached = rng.normal(size=(10, 2))
    columns = np.stack([np.eye(10)[:5], -np.eye(10)[5:]], axis=1).reshape(10, 10)
    features = columns @ reached @ reached.T @ columns.T
    gram = np.zeros((16, 16))
    gram[:10, :10] = features * 2
    moments = lastax.calibration.Moments(gram[None], width=2, targets=3, rows=2)
    scores = lastax.pruning.hankel_scores(system, moments=moments)
    assert np.sum(scores > 1e-9) == 1
