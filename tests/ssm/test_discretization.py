"""Discretization rules: inverses, stability, limits and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from ..systems import few, seeds

RULES = {
    "zoh": (lastax.discretize_zoh, lastax.ssm.invert_zoh),
    "bilinear": (lastax.discretize_bilinear, lastax.ssm.invert_bilinear),
}
rules = pytest.mark.parametrize("rule", RULES)


def draw(seed, states=4, channels=2):
    """A continuous system with `|Im Lambda| Delta < pi`, for which both rules are invertible."""
    rng = np.random.default_rng(seed)
    step = np.exp(rng.uniform(np.log(1e-3), 0, states))
    real = -np.exp(rng.uniform(-3, 1, states))
    Lambda = real + 1j * rng.uniform(-3, 3, states)
    B = rng.normal(size=(states, channels)) + 1j * rng.normal(size=(states, channels))
    return Lambda, B, step


@rules
@few
@given(seed=seeds)
def test_inverse_recovers_the_continuous_system(rule, seed):
    discretize, invert = RULES[rule]
    with jax.enable_x64(True):
        Lambda, B, step = map(jnp.asarray, draw(seed))
        back = invert(*discretize(Lambda, B, step), step)
        again = discretize(*back, step)
        for got, expected in zip(
            (*back, *again), (Lambda, B, *discretize(Lambda, B, step)), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@rules
@few
@given(seed=seeds)
def test_discrete_system_is_stable_and_linear_in_B(rule, seed):
    discretize, _ = RULES[rule]
    with jax.enable_x64(True):
        Lambda, B, step = map(jnp.asarray, draw(seed))
        lam, discrete = discretize(Lambda, B, step)
        assert np.all(np.abs(lam) < 1)
        np.testing.assert_allclose(discretize(Lambda, 3 * B, step)[1], 3 * discrete, rtol=1e-13)


@few
@given(seed=seeds)
def test_two_half_steps_of_zero_order_hold_are_one_step(seed):
    """Zero-order hold is exact for constant inputs, whatever the step size."""
    with jax.enable_x64(True):
        Lambda, B, step = map(jnp.asarray, draw(seed))
        lam, full = lastax.discretize_zoh(Lambda, B, step)
        half_lam, half = lastax.discretize_zoh(Lambda, B, step / 2)
        np.testing.assert_allclose(half_lam**2, lam, rtol=1e-12)
        np.testing.assert_allclose((half_lam[:, None] + 1) * half, full, rtol=1e-12)


@few
@given(exponent=st.floats(-12, -2), angle=st.floats(0, 2 * np.pi))
def test_small_steps_follow_the_series_in_float32(exponent, angle):
    """A direct evaluation of `exp(z) - 1` would lose most digits."""
    step = np.array([10.0**exponent], np.float32)
    Lambda = np.array([np.exp(1j * angle)], np.complex64)
    B = np.ones((1, 1), np.complex64)
    lam, got = lastax.discretize_zoh(jnp.asarray(Lambda), jnp.asarray(B), jnp.asarray(step))
    z = Lambda.astype(complex) * step.astype(float)
    series = step * (1 + z / 2 + z**2 / 6 + z**3 / 24)
    np.testing.assert_allclose(got[:, 0], series, rtol=1e-6)
    np.testing.assert_allclose(lam, 1 + z + z**2 / 2 + z**3 / 6, rtol=1e-6)


def test_zero_eigenvalue_gives_an_integrator_with_finite_gradient(x64):
    Lambda, B, step = jnp.zeros(2, complex), jnp.ones((2, 3), complex), jnp.asarray([0.1, 0.2])
    lam, got = lastax.discretize_zoh(Lambda, B, step)
    np.testing.assert_array_equal(lam, 1)
    np.testing.assert_allclose(got, np.broadcast_to(step[:, None], (2, 3)), rtol=1e-15)

    def sum_of_B(real, step):
        return jnp.sum(lastax.discretize_zoh(jax.lax.complex(real, 0 * real), B, step)[1].real)

    by_Lambda, by_step = jax.grad(sum_of_B, argnums=(0, 1))(jnp.zeros(2), step)
    # d/dz of step (exp(z) - 1)/z is step/2 at 0, and z = Lambda step.
    np.testing.assert_allclose(by_Lambda, 3 * step**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(by_step, 3.0, rtol=1e-12)


def test_gradient_is_continuous_at_zero_eigenvalue(x64):
    def value(real):
        Lambda = jax.lax.complex(real, jnp.zeros(()))[None]
        B = jnp.ones((1, 1), complex)
        return lastax.discretize_zoh(Lambda, B, jnp.ones(1))[1][0, 0].real

    at_zero = jax.grad(value)(jnp.asarray(0.0))
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(-1e-6)), at_zero, rtol=1e-5)
