"""Penalties on the number of states: against Gramians in float64, and their derivatives."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from tests.systems import compiled, few, random_channels, random_system, seeds

from lastax.analysis import hankel_penalty, hankel_singular_values, impulse_energies, modal_penalty
from lastax.ssm import MultiSISO, System

SYSTEMS = {
    "one direction": lambda seed: random_system(seed, slowest=1e-1),
    "two directions, without conjugates": lambda seed: random_system(
        seed, bidirectional=True, conj_sym=False, slowest=1e-1
    ),
    "channels": lambda seed: random_channels(seed, bidirectional=True),
}
PENALTIES = [modal_penalty, hankel_penalty]


def in_jax(system):
    return jax.tree.map(jnp.asarray, system)


def own_values(system):
    """The Hankel singular values of a system, of each channel if it has channels."""
    if isinstance(system, System):
        return hankel_singular_values(system)
    edges = np.cumsum((0, *system.counts))
    reverse = system.C_reverse
    return np.concatenate(
        [
            hankel_singular_values(
                System(
                    lam=system.lam[a:b],
                    B=system.B[a:b, None],
                    C=system.C[None, a:b],
                    C_reverse=None if reverse is None else reverse[None, a:b],
                    D=np.zeros(1),
                    conj_sym=system.conj_sym,
                )
            )
            for a, b in itertools.pairwise(edges)
        ]
    )


@pytest.mark.parametrize("kind", SYSTEMS)
def test_penalties_are_those_of_energies_and_singular_values(kind):
    @few
    @given(seeds)
    def check(seed):
        system = SYSTEMS[kind](seed)
        roots, values = np.sqrt(impulse_energies(system)), own_values(system)
        with jax.enable_x64(True):
            jaxed = in_jax(system)
            modal, hankel = (
                float(compiled(modal_penalty)(jaxed)),
                float(compiled(hankel_penalty)(jaxed)),
            )
        n = system.states
        assert modal == pytest.approx(roots.sum() / np.sqrt(n * (roots**2).sum()), rel=1e-12)
        # Roots of rounding errors: values below 1e-8 of the largest are not resolved.
        expected = values.sum() / np.sqrt(2 * n * (values**2).sum())
        assert hankel == pytest.approx(expected, rel=1e-6)

    check()


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", SYSTEMS)
def test_derivatives_are_those_of_finite_differences(kind, penalty):
    """Few states with different poles, so that no singular value is negligible."""
    small = {
        "one direction": lambda: random_system(1, states=2, slowest=1e-1),
        "two directions, without conjugates": lambda: random_system(
            1, states=2, bidirectional=True, conj_sym=False, slowest=1e-1
        ),
        "channels": lambda: random_channels(1, (2, 0, 1), bidirectional=True),
    }
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        system = in_jax(small[kind]())
        direction = jax.tree.map(
            lambda a: jnp.asarray(
                rng.normal(size=a.shape)
                + (1j * rng.normal(size=a.shape) if jnp.iscomplexobj(a) else 0)
            ),
            system,
        )
        h = 1e-6

        def along(t):
            return penalty(jax.tree.map(lambda a, d: a + t * d, system, direction))

        evaluate = compiled(along)
        expected = (evaluate(h) - evaluate(-h)) / (2 * h)
        forward = compiled(jax.jacfwd(along))(0.0)
        reverse = compiled(jax.grad(along))(0.0)
    # Gradients of values below 1e-3 of the largest fade out: a systematic error of about 1e-4.
    assert float(forward) == pytest.approx(float(expected), rel=2e-3, abs=1e-5)
    assert float(reverse) == pytest.approx(float(forward), rel=1e-9)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_derivatives_across_the_unit_circle_are_those_of_finite_differences(penalty):
    """They are zero outside, where the penalty does not depend on the modulus."""
    with jax.enable_x64(True):
        system = in_jax(random_system(4, slowest=1e-1))

        def at(radius):
            lam = system.lam.at[0].multiply(radius / abs(system.lam[0]))
            return penalty(dataclasses.replace(system, lam=lam))

        evaluate, derivative = compiled(at), compiled(jax.grad(at))
        h = 1e-7
        for radius in (0.999, 1.001, 1.1):
            expected = float(evaluate(radius + h) - evaluate(radius - h)) / (2 * h)
            assert float(derivative(radius)) == pytest.approx(expected, rel=2e-3, abs=1e-5)
        assert float(evaluate(1.001)) == pytest.approx(float(evaluate(1 - 1e-6)), rel=1e-2)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_rescaling_does_not_change_a_penalty(penalty):
    system = in_jax(random_system(2))
    smaller = dataclasses.replace(system, C=system.C / 64, B=system.B * 4)
    assert float(penalty(smaller)) == pytest.approx(float(penalty(system)), rel=1e-3)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_descent_step_lowers_the_share_of_weak_states(penalty):
    system = in_jax(random_system(3, states=6))

    def of_outputs(C):
        return penalty(dataclasses.replace(system, C=C))

    def weakest(C):
        energies = np.asarray(impulse_energies(dataclasses.replace(system, C=C)))
        return np.sort(energies)[0] / energies.sum()

    C = system.C
    step = compiled(jax.grad(of_outputs))
    for _ in range(20):
        C = C - 0.3 * step(C).conj()
    assert of_outputs(C) < of_outputs(system.C)
    assert weakest(C) < weakest(system.C)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    "change",
    [
        lambda system: dataclasses.replace(system, B=0 * system.B, lam=0 * system.lam),
        lambda system: dataclasses.replace(system, C=system.C.at[:, 0].set(0)),
        lambda system: dataclasses.replace(system, lam=system.lam / abs(system.lam)),
        lambda system: system.keep(np.zeros(5, bool)),
    ],
    ids=["no response", "a dead state", "unstable", "no states"],
)
def test_gradients_are_finite(penalty, change):
    value, gradient = jax.value_and_grad(penalty)(change(in_jax(random_system(4))))
    assert 0 <= value <= 1 + 1e-6
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_equal_states_have_the_largest_penalty():
    lam = jnp.asarray([0.5 + 0j, -0.5 + 0j])
    ones = jnp.ones(2, complex)
    system = MultiSISO(lam, ones, ones, None, jnp.zeros(2), (1, 1))
    assert float(modal_penalty(system)) == pytest.approx(1)
