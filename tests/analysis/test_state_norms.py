"""Norms of one-state subsystems: scaling laws, and closed forms against sweeps and sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from ..systems import few, random_system, seeds

CLOSED = {
    "hinf": lastax.hinf_norms,
    "finite_horizon": lambda system: lastax.analysis.finite_horizon_hinf_norms(system, 20),
    "magnitude": lastax.analysis.magnitudes,
}
SWEPT = {
    "swept": lambda system: lastax.analysis.swept_hinf_norms(system, pairs=False),
    "swept_pairs": lambda system: lastax.analysis.swept_hinf_norms(system, pairs=True),
}
every_norm = pytest.mark.parametrize(
    "norm", [*CLOSED.values(), *SWEPT.values()], ids=CLOSED | SWEPT
)
closed_norm = pytest.mark.parametrize("norm", CLOSED.values(), ids=CLOSED)
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])


def scaled(system, by, *names):
    values = {
        name: by * getattr(system, name) for name in names if getattr(system, name) is not None
    }
    return dataclasses.replace(system, **values)


@every_norm
@directions
@few
@given(seed=seeds, factor=st.floats(0.1, 10))
def test_norm_is_homogeneous_in_B_and_in_C(norm, bidirectional, seed, factor):
    system = random_system(seed, bidirectional=bidirectional)
    expected = factor * norm(system)
    np.testing.assert_allclose(norm(scaled(system, factor, "B")), expected, rtol=1e-9)
    np.testing.assert_allclose(norm(scaled(system, factor, "C", "C_reverse")), expected, rtol=1e-9)


@every_norm
@directions
def test_norm_of_a_state_does_not_depend_on_other_states(norm, bidirectional):
    system = random_system(1, bidirectional=bidirectional)
    order = np.array([3, 0, 4, 1, 2])
    shuffled = dataclasses.replace(
        system,
        lam=system.lam[order],
        B=system.B[order],
        C=system.C[:, order],
        C_reverse=system.C_reverse[:, order] if bidirectional else None,
    )
    np.testing.assert_allclose(norm(shuffled), norm(system)[order], rtol=1e-12)
    mask = np.array([True, False, True, False, True])
    np.testing.assert_allclose(norm(system.keep(mask)), norm(system)[mask], rtol=1e-12)


@few
@given(seed=seeds)
def test_closed_form_equals_sweep(seed):
    system = random_system(seed, slowest=1e-5)
    swept = lastax.analysis.swept_hinf_norms(system, pairs=False)
    np.testing.assert_allclose(lastax.hinf_norms(system), swept, rtol=1e-9)


@few
@given(seed=seeds)
def test_closed_form_of_bidirectional_systems_is_a_tight_bound(seed):
    """It is not below the exact gain, and equal to it if both directions are the same."""
    system = random_system(seed, bidirectional=True, slowest=1e-4)
    bound = lastax.hinf_norms(system)
    assert np.all(lastax.analysis.swept_hinf_norms(system, pairs=False) <= bound * (1 + 1e-12))
    same = dataclasses.replace(system, lam=np.abs(system.lam) + 0j, C_reverse=system.C)
    np.testing.assert_allclose(
        lastax.analysis.swept_hinf_norms(same, pairs=False), lastax.hinf_norms(same), rtol=1e-9
    )


@directions
@few
@given(seed=seeds)
def test_pair_has_at_most_twice_the_norm(bidirectional, seed):
    system = random_system(seed, bidirectional=bidirectional)
    single = lastax.analysis.swept_hinf_norms(system, pairs=False)
    pair = lastax.analysis.swept_hinf_norms(system, pairs=True)
    assert np.all(pair <= 2 * single * (1 + 1e-12))
    unpaired = dataclasses.replace(system, conj_sym=False)
    np.testing.assert_allclose(
        lastax.analysis.swept_hinf_norms(unpaired, pairs=True), pair / 2, rtol=1e-12
    )


@directions
def test_pair_norm_by_dense_sweep(bidirectional):
    """The largest singular value of the real one-state system on a fine grid."""
    system = random_system(2, bidirectional=bidirectional, slowest=0.1)
    omega = np.linspace(-np.pi, np.pi, 4001)
    got = lastax.analysis.swept_hinf_norms(system, pairs=True)
    for index in range(system.states):
        one = lastax.ssm.real_system(system.keep(np.arange(system.states) == index))
        z = np.exp(1j * omega)[:, None, None, None]
        response = np.sum(
            one.C.T[:, :, None] * one.B[:, None] / (1 - one.lam[:, None, None] / z), 1
        )
        if bidirectional:
            reverse = one.C_reverse.T[:, :, None] * one.B[:, None]
            response = response + np.sum(reverse / (1 - one.lam[:, None, None] * z), axis=1)
        peak = np.linalg.norm(response, ord=2, axis=(1, 2)).max()
        assert peak <= got[index] * (1 + 1e-12)
        np.testing.assert_allclose(got[index], peak, rtol=1e-3)


@few
@given(seed=seeds, length=st.integers(1, 50))
def test_finite_horizon_norm_equals_finite_sum(seed, length):
    system = random_system(seed, slowest=1e-4)
    got = lastax.analysis.finite_horizon_hinf_norms(system, length)
    gain = np.linalg.norm(system.C, axis=0) * np.linalg.norm(system.B, axis=1)
    powers = np.abs(system.lam)[:, None] ** np.arange(length)
    np.testing.assert_allclose(got, gain * powers.sum(axis=1), rtol=1e-9)
    assert np.all(got <= lastax.hinf_norms(system))


def test_long_horizon_norm_equals_hinf_norm():
    system = random_system(0, slowest=1e-2)
    np.testing.assert_allclose(
        lastax.analysis.finite_horizon_hinf_norms(system, 10**5),
        lastax.hinf_norms(system),
        rtol=1e-12,
    )


@closed_norm
@directions
def test_jax_under_jit_equals_numpy(norm, bidirectional, x64):
    system = random_system(4, bidirectional=bidirectional)
    assert isinstance(norm(system), np.ndarray)
    got = jax.jit(norm)(jax.tree.map(jnp.asarray, system))
    assert isinstance(got, jax.Array)
    np.testing.assert_allclose(got, norm(system), rtol=1e-12)


@pytest.mark.parametrize("radius", [1.0, 1.01], ids=["on", "outside"])
@pytest.mark.parametrize("norm", [CLOSED["hinf"], *SWEPT.values()], ids=["hinf", *SWEPT])
@directions
def test_only_unstable_states_have_infinite_norms(norm, bidirectional, radius):
    system = random_system(5, bidirectional=bidirectional)
    lam = system.lam.copy()
    lam[2] = radius
    np.testing.assert_array_equal(
        np.isinf(norm(dataclasses.replace(system, lam=lam))), np.arange(system.states) == 2
    )


@closed_norm
@directions
def test_gradient_equals_finite_difference(norm, bidirectional, x64):
    system = random_system(6, bidirectional=bidirectional)

    def total(shift):
        moved = dataclasses.replace(
            system,
            lam=jnp.asarray(system.lam) * (1 + 0.1 * shift),
            B=jnp.asarray(system.B) * (1 + shift),
            C=jnp.asarray(system.C),
            C_reverse=None if system.C_reverse is None else jnp.asarray(system.C_reverse),
        )
        return jnp.sum(norm(moved))

    h = 1e-6
    expected = (total(jnp.asarray(h)) - total(jnp.asarray(-h))) / (2 * h)
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(0.0)), expected, rtol=1e-6)


def test_gradients_of_stable_states_are_finite_beside_unstable_ones(x64):
    system = random_system(7)

    def total(radius):
        moved = dataclasses.replace(
            system,
            lam=radius.astype(complex),
            B=jnp.asarray(system.B),
            C=jnp.asarray(system.C),
        )
        norms = lastax.hinf_norms(moved)
        return jnp.sum(jnp.where(jnp.isinf(norms), 0.0, norms))

    gradient = jax.grad(total)(jnp.asarray([0.5, 1.2, 0.9, 0.1, 1.0]))
    assert np.isfinite(gradient).all()
    assert np.all(gradient[jnp.asarray([0, 2, 3])] > 0)


def test_finite_horizon_norms_of_stable_states_ignore_unstable_ones():
    lam = np.array([0.5, 1.0, 1.1, 0.9 + 0.1j])
    system = lastax.System(lam, np.ones((4, 1)) + 0j, np.ones((1, 4)) + 0j, None, np.zeros(1))
    norms = lastax.analysis.finite_horizon_hinf_norms(system, 10)
    assert np.isinf(norms[1:3]).all()
    expected = [sum(abs(value) ** k for k in range(10)) for value in lam[[0, 3]]]
    np.testing.assert_allclose(norms[[0, 3]], expected, rtol=1e-12)
    scores = lastax.pruning.finite_horizon_last_scores(system, 10)
    assert np.isinf(scores[1:3]).all()
    assert scores.max(where=np.isfinite(scores), initial=0) == 1


@pytest.mark.parametrize("part", ["B", "C"])
@pytest.mark.parametrize(
    "norms", [lastax.hinf_norms, lastax.analysis.impulse_energies, lastax.analysis.magnitudes]
)
def test_a_state_without_input_or_output_has_a_gradient(norms, part):
    lam = jnp.array([0.5 + 0j, 0.9])
    maps = {"B": jnp.ones((2, 1)), "C": jnp.ones((1, 2))}
    maps[part] = jnp.array([0.0, 2.0]).reshape(maps[part].shape)

    def total(values):
        arrays = {name: array + 0j for name, array in (maps | {part: values}).items()}
        return norms(lastax.ssm.System(lam, arrays["B"], arrays["C"], None, jnp.zeros(1))).sum()

    gradient = jax.grad(total)(maps[part])
    assert gradient.ravel()[0] == 0
    # The other state has the slope of a finite difference.
    step = jnp.array([0.0, 0.01]).reshape(gradient.shape)
    slope = (total(maps[part] + step) - total(maps[part] - step)) / 0.02
    np.testing.assert_allclose(gradient.ravel()[1], slope, rtol=1e-3)


def test_a_system_without_states_has_no_norms():
    B = np.zeros((0, 2), complex)
    empty = lastax.ssm.System(np.zeros(0, complex), B, B.T, None, np.zeros(2))
    assert lastax.analysis.swept_hinf_norms(empty, pairs=True).shape == (0,)
