"""Laws of the one-state norms, and the closed forms against sweeps and sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from .systems import few, random_system, seeds

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
ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])


def scaled(system, by, *names):
    values = {
        name: by * getattr(system, name) for name in names if getattr(system, name) is not None
    }
    return dataclasses.replace(system, **values)


@every_norm
@ways
@few
@given(seed=seeds, factor=st.floats(0.1, 10))
def test_homogeneous_in_inputs_and_in_outputs(norm, bidirectional, seed, factor):
    system = random_system(seed, bidirectional=bidirectional)
    wanted = factor * norm(system)
    np.testing.assert_allclose(norm(scaled(system, factor, "B")), wanted, rtol=1e-9)
    np.testing.assert_allclose(norm(scaled(system, factor, "C", "C_reverse")), wanted, rtol=1e-9)


@every_norm
@ways
def test_every_state_by_itself(norm, bidirectional):
    """Order and company of the states do not matter."""
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
def test_closed_form_is_the_sweep(seed):
    system = random_system(seed, slowest=1e-5)
    swept = lastax.analysis.swept_hinf_norms(system, pairs=False)
    np.testing.assert_allclose(lastax.hinf_norms(system), swept, rtol=1e-9)


@few
@given(seed=seeds)
def test_bound_of_both_directions(seed):
    """Not below the exact gain, and equal to it where the directions act alike."""
    system = random_system(seed, bidirectional=True, slowest=1e-4)
    bound = lastax.hinf_norms(system)
    assert np.all(lastax.analysis.swept_hinf_norms(system, pairs=False) <= bound * (1 + 1e-12))
    alike = dataclasses.replace(system, lam=np.abs(system.lam) + 0j, C_reverse=system.C)
    np.testing.assert_allclose(
        lastax.analysis.swept_hinf_norms(alike, pairs=False), lastax.hinf_norms(alike), rtol=1e-9
    )


@ways
@few
@given(seed=seeds)
def test_pair_has_at_most_twice_the_norm(bidirectional, seed):
    system = random_system(seed, bidirectional=bidirectional)
    single = lastax.analysis.swept_hinf_norms(system, pairs=False)
    pair = lastax.analysis.swept_hinf_norms(system, pairs=True)
    assert np.all(pair <= 2 * single * (1 + 1e-12))
    alone = dataclasses.replace(system, conj_sym=False)
    np.testing.assert_allclose(lastax.analysis.swept_hinf_norms(alone, pairs=True), pair / 2, rtol=1e-12)


@ways
def test_pair_norm_by_dense_sweep(bidirectional):
    """Largest singular value of the written-out real one-state system on a fine grid."""
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
def test_finite_horizon_is_a_finite_sum(seed, length):
    system = random_system(seed, slowest=1e-4)
    got = lastax.analysis.finite_horizon_hinf_norms(system, length)
    gain = np.linalg.norm(system.C, axis=0) * np.linalg.norm(system.B, axis=1)
    powers = np.abs(system.lam)[:, None] ** np.arange(length)
    np.testing.assert_allclose(got, gain * powers.sum(axis=1), rtol=1e-9)
    assert np.all(got <= lastax.hinf_norms(system))


def test_long_horizon_is_the_infinite_one():
    system = random_system(0, slowest=1e-2)
    np.testing.assert_allclose(
        lastax.analysis.finite_horizon_hinf_norms(system, 10**5), lastax.hinf_norms(system), rtol=1e-12
    )


@closed_norm
@ways
def test_jax_under_jit_is_numpy(norm, bidirectional, x64):
    system = random_system(4, bidirectional=bidirectional)
    assert isinstance(norm(system), np.ndarray)
    got = jax.jit(norm)(jax.tree.map(jnp.asarray, system))
    assert isinstance(got, jax.Array)
    np.testing.assert_allclose(got, norm(system), rtol=1e-12)


@pytest.mark.parametrize("radius", [1.0, 1.01], ids=["on", "outside"])
@pytest.mark.parametrize("norm", [CLOSED["hinf"], *SWEPT.values()], ids=["hinf", *SWEPT])
@ways
def test_unstable_state_alone_has_no_finite_norm(norm, bidirectional, radius):
    system = random_system(5, bidirectional=bidirectional)
    lam = system.lam.copy()
    lam[2] = radius
    np.testing.assert_array_equal(
        np.isinf(norm(dataclasses.replace(system, lam=lam))), np.arange(system.states) == 2
    )


@closed_norm
@ways
def test_derivative_is_that_of_finite_differences(norm, bidirectional, x64):
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
    wanted = (total(jnp.asarray(h)) - total(jnp.asarray(-h))) / (2 * h)
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(0.0)), wanted, rtol=1e-6)


def test_gradient_is_finite_next_to_an_unstable_state(x64):
    """An infinity in one place must not turn the others' gradients into nothing."""
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


def test_finite_horizon_does_not_care_about_unstable_neighbors():
    lam = np.array([0.5, 1.0, 1.1, 0.9 + 0.1j])
    system = lastax.System(lam, np.ones((4, 1)) + 0j, np.ones((1, 4)) + 0j, None, np.zeros(1))
    norms = lastax.analysis.finite_horizon_hinf_norms(system, 10)
    assert np.isinf(norms[1:3]).all()
    wanted = [sum(abs(value) ** k for k in range(10)) for value in lam[[0, 3]]]
    np.testing.assert_allclose(norms[[0, 3]], wanted, rtol=1e-12)
    scores = lastax.pruning.finite_horizon_last_scores(system, 10)
    assert np.isinf(scores[1:3]).all()
    assert scores.max(where=np.isfinite(scores), initial=0) == 1
