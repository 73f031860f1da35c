"""Norms of whole systems and of what removing states does, against impulse responses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given

import lastax

from .systems import few, random_system, seeds
from .test_layers import RAGGED, random_channels

LENGTH = 1024  # (1 - slowest) ** LENGTH is below rounding for the systems here.
variants = pytest.mark.parametrize(
    ("bidirectional", "conj_sym"),
    [(False, True), (False, False), (True, True), (True, False)],
    ids=["uni-pairs", "uni-real", "bi-pairs", "bi-real"],
)


def draw(seed, bidirectional=False, conj_sym=True):
    return random_system(seed, bidirectional=bidirectional, conj_sym=conj_sym, slowest=0.1)


def impulse(system, pairs=True):
    """Steps -LENGTH to LENGTH of the response, step by step from the definition; without `D`."""

    def answers(C):
        powers = system.lam[None, :] ** np.arange(LENGTH)[:, None]
        return np.einsum("hp,kp,pj->khj", C, powers, system.B)

    response = np.zeros((2 * LENGTH, *system.C.shape[:1], system.B.shape[1]), complex)
    response[LENGTH:] += answers(system.C)
    if system.C_reverse is not None:
        response[1 : LENGTH + 1] += answers(system.C_reverse)[::-1]
    if pairs:
        return (2 if system.conj_sym else 1) * response.real
    return response


@variants
@pytest.mark.parametrize("pairs", [True, False])
@few
@given(seed=seeds)
def test_h2_norm_is_the_energy_of_the_impulse_response(bidirectional, conj_sym, pairs, seed):
    system = draw(seed, bidirectional, conj_sym)
    wanted = np.linalg.norm(impulse(system, pairs))
    np.testing.assert_allclose(lastax.analysis.h2_norm(system, pairs=pairs), wanted, rtol=1e-9)


@variants
@pytest.mark.parametrize("pairs", [True, False])
@few
@given(seed=seeds)
def test_hinf_norm_by_fourier_transform(bidirectional, conj_sym, pairs, seed):
    """Never below the gain on a grid, and not above what the grid can miss."""
    system = draw(seed, bidirectional, conj_sym)
    spectrum = np.fft.fft(impulse(system, pairs), axis=0)
    peak = np.linalg.norm(spectrum, ord=2, axis=(1, 2)).max()
    got = lastax.analysis.hinf_norm(system, pairs=pairs)
    assert peak <= got * (1 + 1e-9)
    np.testing.assert_allclose(got, peak, rtol=1e-3)


def test_hinf_norm_of_a_needle():
    """A peak 1e-8 wide on the slope of a broad one, which no ordinary grid shows."""
    one = np.ones((1, 1), complex)
    system = lastax.System(
        lam=np.array([0.9, (1 - 1e-8) * np.exp(1j)]),
        B=np.concatenate([one, 1e-6 * one]),
        C=np.concatenate([one, one], axis=1),
        C_reverse=None,
        D=np.zeros(1),
    )
    needle, broad = 1e-6 / 1e-8, 1 / (1 - 0.9 * np.exp(-1j))
    got = lastax.analysis.hinf_norm(system, pairs=False)
    np.testing.assert_allclose(got, abs(needle + broad), rtol=1e-4)


@variants
@few
@given(seed=seeds)
def test_truth_is_within_the_bound(bidirectional, conj_sym, seed):
    system = draw(seed, bidirectional, conj_sym)
    keep = np.random.default_rng(seed).random(system.states) < 0.5
    for pairs in (True, False):
        bound = lastax.error_bound(system, keep, pairs=pairs)
        assert lastax.analysis.error_hinf(system, keep, pairs=pairs) <= bound * (1 + 1e-12)
        share = 2 if pairs and conj_sym else 1
        np.testing.assert_allclose(bound, share * lastax.hinf_norms(system)[~keep].sum())


@variants
@few
@given(seed=seeds)
def test_error_is_that_of_the_difference_of_responses(bidirectional, conj_sym, seed):
    system = draw(seed, bidirectional, conj_sym)
    keep = np.array([True, False, True, False, False])
    difference = impulse(system) - impulse(system.keep(keep))
    np.testing.assert_allclose(lastax.analysis.error_h2(system, keep), np.linalg.norm(difference), rtol=1e-9)
    peak = np.linalg.norm(np.fft.fft(difference, axis=0), ord=2, axis=(1, 2)).max()
    np.testing.assert_allclose(lastax.analysis.error_hinf(system, keep), peak, rtol=1e-3)


@variants
def test_nothing_removed_is_no_error(bidirectional, conj_sym):
    system = draw(0, bidirectional, conj_sym)
    keep = np.ones(system.states, bool)
    assert lastax.error_bound(system, keep) == 0
    assert lastax.analysis.error_hinf(system, keep) == 0
    assert lastax.analysis.error_h2(system, keep) == 0


@variants
def test_everything_removed_is_the_whole_norm(bidirectional, conj_sym):
    system = draw(0, bidirectional, conj_sym)
    keep = np.zeros(system.states, bool)
    assert lastax.analysis.error_hinf(system, keep) == lastax.analysis.hinf_norm(system)
    assert lastax.analysis.error_h2(system, keep) == lastax.analysis.h2_norm(system)


@variants
def test_order_of_states_does_not_matter(bidirectional, conj_sym):
    system = draw(1, bidirectional, conj_sym)
    order = np.array([3, 0, 4, 1, 2])
    keep = np.array([True, False, False, True, False])
    shuffled = dataclasses.replace(
        system,
        lam=system.lam[order],
        B=system.B[order],
        C=system.C[:, order],
        C_reverse=system.C_reverse[:, order] if bidirectional else None,
    )
    for error in (lastax.error_bound, lastax.analysis.error_hinf, lastax.analysis.error_h2):
        np.testing.assert_allclose(error(shuffled, keep[order]), error(system, keep), rtol=1e-11)


@pytest.mark.parametrize("radius", [1.0, 1.01], ids=["on", "outside"])
def test_unstable_system_has_no_finite_norm(radius):
    system = draw(2)
    system = dataclasses.replace(system, lam=np.array([0.1, radius, 0.2, 0.3, 0.4]) + 0j)
    assert lastax.analysis.hinf_norm(system) == np.inf
    assert lastax.analysis.h2_norm(system) == np.inf
    keep = np.array([True, False, True, True, True])
    assert lastax.error_bound(system, keep) == np.inf
    assert np.isfinite(lastax.analysis.error_hinf(system.keep(keep), np.zeros(4, bool)))


def refitted(system, keep, seed):
    """Kept states with other output maps and another `D`, as a refit leaves them."""
    rng = np.random.default_rng(seed)
    small = system.keep(keep)

    def moved(C):
        return None if C is None else C * rng.normal(1, 0.3, C.shape)

    return dataclasses.replace(
        small,
        C=moved(small.C),
        C_reverse=moved(small.C_reverse),
        D=small.D + rng.normal(0, 0.1, small.D.shape),
    )


@variants
@few
@given(seed=seeds)
def test_certificate_of_a_refit_by_the_definition(bidirectional, conj_sym, seed):
    system = draw(seed, bidirectional, conj_sym)
    keep = np.array([True, False, True, True, False])
    small = refitted(system, keep, seed)
    found = lastax.certify(system, small)
    moved = impulse(system) - impulse(small)
    moved[LENGTH] += np.diag(system.D - small.D)
    np.testing.assert_allclose(found.h2, np.linalg.norm(moved), rtol=1e-9)
    peak = np.linalg.norm(np.fft.fft(moved, axis=0), ord=2, axis=(1, 2)).max()
    assert peak <= found.hinf * (1 + 1e-9)
    np.testing.assert_allclose(found.hinf, peak, rtol=1e-3)
    assert found.hinf <= found.bound * (1 + 1e-9)
    # Neither bound alone would do: that of the states' norms is one of the two.
    states = (2 if conj_sym else 1) * lastax.hinf_norms(lastax.analysis.difference(system, small)).sum()
    assert found.bound <= states + np.abs(system.D - small.D).max() + 1e-9
    assert found.hinf_whole == lastax.analysis.hinf_norm(system)
    assert found.h2_whole == lastax.analysis.h2_norm(system)
    shares = (found.hinf / found.hinf_whole, found.bound / found.hinf_whole)
    assert found.relative()[:2] == shares


@variants
def test_certificate_of_a_whole_matrix_by_the_definition(bidirectional, conj_sym):
    system = draw(4, bidirectional, conj_sym)
    keep = np.array([True, False, True, True, False])
    small = refitted(system, keep, 4)
    small = dataclasses.replace(small, D=np.random.default_rng(4).normal(size=(3, 3)))
    for one, other in ((system, small), (small, system), (small, small.keep(keep[:3]))):
        found = lastax.certify(one, other)
        moved = impulse(one) - impulse(other)
        moved[LENGTH] += one.feedthrough_matrix - other.feedthrough_matrix
        np.testing.assert_allclose(found.h2, np.linalg.norm(moved), rtol=1e-9)
        peak = np.linalg.norm(np.fft.fft(moved, axis=0), ord=2, axis=(1, 2)).max()
        assert peak <= found.hinf * (1 + 1e-9)
        np.testing.assert_allclose(found.hinf, peak, rtol=1e-3)
        assert found.hinf <= found.bound * (1 + 1e-9)


@variants
def test_certificate_of_truncation_is_that_of_the_removed_states(bidirectional, conj_sym):
    system = draw(4, bidirectional, conj_sym)
    keep = np.array([True, False, True, True, False])
    found = lastax.certify(system, system.keep(keep))
    np.testing.assert_allclose(found.hinf, lastax.analysis.error_hinf(system, keep), rtol=1e-12)
    np.testing.assert_allclose(found.h2, lastax.analysis.error_h2(system, keep), rtol=1e-12)
    assert found.hinf <= found.bound <= lastax.error_bound(system, keep) * (1 + 1e-12)
    assert lastax.analysis.difference(system, system.keep(keep)).states == 2
    same = lastax.certify(system, system)
    assert (same.hinf, same.bound, same.h2) == (0, 0, 0)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
def test_certificate_of_channels_is_that_of_the_worst(bidirectional):
    system = random_channels(0, RAGGED, bidirectional=bidirectional)
    keep = np.arange(system.states) % 3 != 1
    small = refitted(system, keep, 0)
    found = lastax.certify(system, small)
    parts = [
        lastax.certify(*pair)
        for pair in zip(lastax.ssm.channel_systems(system), lastax.ssm.channel_systems(small), strict=True)
    ]
    np.testing.assert_allclose(found.hinf, max(part.hinf for part in parts), rtol=1e-9)
    np.testing.assert_allclose(found.h2, np.linalg.norm([part.h2 for part in parts]), rtol=1e-12)
    assert found.hinf <= found.bound * (1 + 1e-9)


def test_certificate_of_new_states():
    """Balanced truncation: nothing in common, and still within the bound of its own theory."""
    system = draw(6)
    small = lastax.balanced_truncation(system, np.arange(5) < 3)
    found = lastax.certify(system, small)
    assert lastax.analysis.difference(system, small).states == 5 + small.states
    dimensions = 2 * small.states - int(np.sum(small.lam.imag == 0))
    assert found.hinf <= 2 * lastax.hankel_singular_values(system)[dimensions:].sum() * (1 + 1e-9)
    assert found.hinf <= found.bound


def test_systems_that_cannot_be_compared_are_named():
    with pytest.raises(ValueError, match="must be of one kind, with equal channels, directions"):
        lastax.certify(draw(0), draw(0, bidirectional=True))
