"""Norms of systems, and errors of reduced systems, against impulse responses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given

import lastax

from ..systems import few, random_channels, random_system, seeds

# After 1024 steps, the impulse responses of the systems in this module are below rounding.
LENGTH = 1024
variants = pytest.mark.parametrize(
    ("bidirectional", "conj_sym"),
    [(False, True), (False, False), (True, True), (True, False)],
    ids=["uni-pairs", "uni-single", "bi-pairs", "bi-single"],
)


def draw(seed, bidirectional=False, conj_sym=True):
    return random_system(seed, bidirectional=bidirectional, conj_sym=conj_sym, slowest=0.1)


def impulse(system, pairs=True):
    """Impulse response from step -LENGTH to LENGTH, from the definition, without `D`."""

    def one_direction(C):
        powers = system.lam[None, :] ** np.arange(LENGTH)[:, None]
        return np.einsum("hp,kp,pj->khj", C, powers, system.B)

    response = np.zeros((2 * LENGTH, *system.C.shape[:1], system.B.shape[1]), complex)
    response[LENGTH:] += one_direction(system.C)
    if system.C_reverse is not None:
        response[1 : LENGTH + 1] += one_direction(system.C_reverse)[::-1]
    if pairs:
        return (2 if system.conj_sym else 1) * response.real
    return response


@variants
@pytest.mark.parametrize("pairs", [True, False])
@few
@given(seed=seeds)
def test_h2_norm_is_root_of_impulse_response_energy(bidirectional, conj_sym, pairs, seed):
    system = draw(seed, bidirectional, conj_sym)
    expected = np.linalg.norm(impulse(system, pairs))
    np.testing.assert_allclose(lastax.analysis.h2_norm(system, pairs=pairs), expected, rtol=1e-9)


@variants
@pytest.mark.parametrize("pairs", [True, False])
@few
@given(seed=seeds)
def test_hinf_norm_equals_peak_of_fourier_transform(bidirectional, conj_sym, pairs, seed):
    """It is never below the peak on a grid, and above it only by the resolution of the grid."""
    system = draw(seed, bidirectional, conj_sym)
    spectrum = np.fft.fft(impulse(system, pairs), axis=0)
    peak = np.linalg.norm(spectrum, ord=2, axis=(1, 2)).max()
    got = lastax.analysis.hinf_norm(system, pairs=pairs)
    assert peak <= got * (1 + 1e-9)
    np.testing.assert_allclose(got, peak, rtol=1e-3)


def test_hinf_norm_finds_a_narrow_peak():
    """A peak of width 1e-8 on the slope of a broad peak, which a uniform grid would miss."""
    one = np.ones((1, 1), complex)
    system = lastax.System(
        lam=np.array([0.9, (1 - 1e-8) * np.exp(1j)]),
        B=np.concatenate([one, 1e-6 * one]),
        C=np.concatenate([one, one], axis=1),
        C_reverse=None,
        D=np.zeros(1),
    )
    narrow, broad = 1e-6 / 1e-8, 1 / (1 - 0.9 * np.exp(-1j))
    got = lastax.analysis.hinf_norm(system, pairs=False)
    np.testing.assert_allclose(got, abs(narrow + broad), rtol=1e-4)


@variants
@few
@given(seed=seeds)
def test_error_is_within_its_bound(bidirectional, conj_sym, seed):
    system = draw(seed, bidirectional, conj_sym)
    keep = np.random.default_rng(seed).random(system.states) < 0.5
    for pairs in (True, False):
        bound = lastax.error_bound(system, keep, pairs=pairs)
        assert lastax.analysis.error_hinf(system, keep, pairs=pairs) <= bound * (1 + 1e-12)
        factor = 2 if pairs and conj_sym else 1
        np.testing.assert_allclose(bound, factor * lastax.hinf_norms(system)[~keep].sum())


@variants
@few
@given(seed=seeds)
def test_error_equals_norm_of_the_response_difference(bidirectional, conj_sym, seed):
    system = draw(seed, bidirectional, conj_sym)
    keep = np.array([True, False, True, False, False])
    difference = impulse(system) - impulse(system.keep(keep))
    np.testing.assert_allclose(
        lastax.analysis.error_h2(system, keep), np.linalg.norm(difference), rtol=1e-9
    )
    peak = np.linalg.norm(np.fft.fft(difference, axis=0), ord=2, axis=(1, 2)).max()
    np.testing.assert_allclose(lastax.analysis.error_hinf(system, keep), peak, rtol=1e-3)


@variants
def test_no_removed_states_give_zero_error(bidirectional, conj_sym):
    system = draw(0, bidirectional, conj_sym)
    keep = np.ones(system.states, bool)
    assert lastax.error_bound(system, keep) == 0
    assert lastax.analysis.error_hinf(system, keep) == 0
    assert lastax.analysis.error_h2(system, keep) == 0


@variants
def test_removing_all_states_gives_the_norm_of_the_system(bidirectional, conj_sym):
    system = draw(0, bidirectional, conj_sym)
    keep = np.zeros(system.states, bool)
    assert lastax.analysis.error_hinf(system, keep) == lastax.analysis.hinf_norm(system)
    assert lastax.analysis.error_h2(system, keep) == lastax.analysis.h2_norm(system)


@variants
def test_errors_do_not_depend_on_the_order_of_states(bidirectional, conj_sym):
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


@pytest.mark.parametrize(
    "radius", [np.nextafter(1.0, 0.0), 1.0, 1.01], ids=["on, but for rounding", "on", "outside"]
)
def test_unstable_systems_have_infinite_norms(radius):
    system = draw(2)
    system = dataclasses.replace(system, lam=np.array([0.1, radius, 0.2, 0.3, 0.4]) + 0j)
    assert lastax.analysis.hinf_norm(system) == np.inf
    assert lastax.analysis.h2_norm(system) == np.inf
    keep = np.array([True, False, True, True, True])
    assert lastax.error_bound(system, keep) == np.inf
    assert lastax.certify(system, system.keep(keep)).bound == np.inf
    assert np.isfinite(lastax.analysis.error_hinf(system.keep(keep), np.zeros(4, bool)))


def refitted(system, keep, seed):
    """The kept states with a different `C` and `D`, as after a refit."""
    rng = np.random.default_rng(seed)
    small = system.keep(keep)

    def changed(C):
        return None if C is None else C * rng.normal(1, 0.3, C.shape)

    return dataclasses.replace(
        small,
        C=changed(small.C),
        C_reverse=changed(small.C_reverse),
        D=small.D + rng.normal(0, 0.1, small.D.shape),
    )


@variants
@few
@given(seed=seeds)
def test_certificate_of_refitted_system_equals_definition(bidirectional, conj_sym, seed):
    system = draw(seed, bidirectional, conj_sym)
    keep = np.array([True, False, True, True, False])
    small = refitted(system, keep, seed)
    certificate = lastax.certify(system, small)
    error = impulse(system) - impulse(small)
    error[LENGTH] += np.diag(system.D - small.D)
    np.testing.assert_allclose(certificate.h2, np.linalg.norm(error), rtol=1e-9)
    peak = np.linalg.norm(np.fft.fft(error, axis=0), ord=2, axis=(1, 2)).max()
    assert peak <= certificate.hinf * (1 + 1e-9)
    np.testing.assert_allclose(certificate.hinf, peak, rtol=1e-3)
    assert certificate.hinf <= certificate.bound * (1 + 1e-9)
    # The bound is not above the sum of the norms of the difference's states.
    states = (2 if conj_sym else 1) * lastax.hinf_norms(
        lastax.analysis.difference(system, small)
    ).sum()
    assert certificate.bound <= states + np.abs(system.D - small.D).max() + 1e-9
    assert certificate.hinf_original == lastax.analysis.hinf_norm(system)
    assert certificate.h2_original == lastax.analysis.h2_norm(system)
    shares = (
        certificate.hinf / certificate.hinf_original,
        certificate.bound / certificate.hinf_original,
    )
    assert certificate.relative()[:2] == shares


@variants
def test_certificate_with_dense_feedthrough_equals_definition(bidirectional, conj_sym):
    system = draw(4, bidirectional, conj_sym)
    keep = np.array([True, False, True, True, False])
    small = refitted(system, keep, 4)
    small = dataclasses.replace(small, D=np.random.default_rng(4).normal(size=(3, 3)))
    for one, other in ((system, small), (small, system), (small, small.keep(keep[:3]))):
        certificate = lastax.certify(one, other)
        error = impulse(one) - impulse(other)
        error[LENGTH] += one.feedthrough_matrix - other.feedthrough_matrix
        np.testing.assert_allclose(certificate.h2, np.linalg.norm(error), rtol=1e-9)
        peak = np.linalg.norm(np.fft.fft(error, axis=0), ord=2, axis=(1, 2)).max()
        assert peak <= certificate.hinf * (1 + 1e-9)
        np.testing.assert_allclose(certificate.hinf, peak, rtol=1e-3)
        assert certificate.hinf <= certificate.bound * (1 + 1e-9)


@variants
def test_certificate_of_truncation_equals_error_of_removed_states(bidirectional, conj_sym):
    system = draw(4, bidirectional, conj_sym)
    keep = np.array([True, False, True, True, False])
    certificate = lastax.certify(system, system.keep(keep))
    np.testing.assert_allclose(
        certificate.hinf, lastax.analysis.error_hinf(system, keep), rtol=1e-12
    )
    np.testing.assert_allclose(certificate.h2, lastax.analysis.error_h2(system, keep), rtol=1e-12)
    assert certificate.hinf <= certificate.bound <= lastax.error_bound(system, keep) * (1 + 1e-12)
    assert lastax.analysis.difference(system, system.keep(keep)).states == 2
    same = lastax.certify(system, system)
    assert (same.hinf, same.bound, same.h2) == (0, 0, 0)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
def test_certificate_of_channels_is_maximum_over_channels(bidirectional):
    system = random_channels(0, bidirectional=bidirectional)
    keep = np.arange(system.states) % 3 != 1
    small = refitted(system, keep, 0)
    certificate = lastax.certify(system, small)
    parts = [
        lastax.certify(*pair)
        for pair in zip(
            lastax.ssm.channel_systems(system), lastax.ssm.channel_systems(small), strict=True
        )
    ]
    np.testing.assert_allclose(certificate.hinf, max(part.hinf for part in parts), rtol=1e-9)
    np.testing.assert_allclose(
        certificate.h2, np.linalg.norm([part.h2 for part in parts]), rtol=1e-12
    )
    assert certificate.hinf <= certificate.bound * (1 + 1e-9)


def test_certificate_of_balanced_truncation_is_within_its_bound():
    """The systems have no state in common, and the error is within the bound of Glover, 1984."""
    system = draw(6)
    small = lastax.balanced_truncation(system, np.arange(5) < 3)
    certificate = lastax.certify(system, small)
    assert lastax.analysis.difference(system, small).states == 5 + small.states
    dimensions = 2 * small.states - int(np.sum(small.lam.imag == 0))
    assert certificate.hinf <= 2 * lastax.hankel_singular_values(system)[dimensions:].sum() * (
        1 + 1e-9
    )
    assert certificate.hinf <= certificate.bound


def test_incompatible_systems_raise():
    with pytest.raises(ValueError, match="certify: the systems must have the same class, channels"):
        lastax.certify(draw(0), draw(0, bidirectional=True))


def test_equal_states_of_one_system_all_count():
    one = np.ones((1, 1), complex)
    single = lastax.ssm.System(np.array([0.1 + 0j]), one, one, None, np.zeros(1))
    C = np.array([[10, 1 + 0j]])
    twice = lastax.ssm.System(np.full(2, 0.5 + 0j), np.ones((2, 1), complex), C, None, np.zeros(1))
    # 2 (11 / (1 - 0.5) - 1 / (1 - 0.1)) at frequency zero: the states stand for pairs.
    expected = 2 * (11 / 0.5 - 1 / 0.9)
    for pair in ((single, twice), (twice, single)):
        certificate = lastax.certify(*pair)
        np.testing.assert_allclose(certificate.hinf, expected, rtol=1e-9)
        assert certificate.bound >= certificate.hinf
    assert lastax.certify(twice, twice).hinf == 0


@pytest.mark.parametrize("place", [0, 1])
def test_channels_without_a_norm_are_not_hidden(place):
    lam = np.full(2, 0.5 + 0j)
    lam[place] = np.nan
    ones = np.ones(2, complex)
    system = lastax.ssm.MultiSISO(lam, ones, ones, None, np.zeros(2), (1, 1))
    nothing = np.zeros(2, bool)
    assert np.isnan(lastax.analysis.hinf_norm(system))
    assert np.isnan(lastax.analysis.error_bound(system, nothing))
    swept = lastax.analysis.swept_hinf_norms(system, pairs=True)
    np.testing.assert_array_equal(np.isnan(swept), np.isnan(lam))
