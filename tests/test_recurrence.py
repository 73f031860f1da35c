"""Every method of the recurrence against a loop, its gradient against a plain scan's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from .systems import few, seeds

methods = pytest.mark.parametrize("method", ["associative", "chunked", "sequential"])
directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
LENGTHS = st.sampled_from([1, 2, 7, 16])


def draw(seed, length, states=3):
    rng = np.random.default_rng(seed)
    distance = 10 ** rng.uniform(-6, 0, states)
    lam = (1 - distance) * np.exp(1j * rng.uniform(-np.pi, np.pi, states))
    b = rng.normal(size=(length, states)) + 1j * rng.normal(size=(length, states))
    return lam, b, rng.normal(size=states) + 1j * rng.normal(size=states)


def loop(lam, b, initial, reverse):
    state, states = initial, np.empty_like(b)
    for k in reversed(range(len(b))) if reverse else range(len(b)):
        state = lam * state + b[k]
        states[k] = state
    return states, state


def plain_scan(lam, b, initial, reverse):
    def step(state, entering):
        state = lam * state + entering
        return state, state

    last, states = jax.lax.scan(step, initial, b, reverse=reverse)
    return states, last


@methods
@directions
@few
@given(seed=seeds, length=LENGTHS, started=st.booleans())
def test_scan_is_the_loop(method, reverse, seed, length, started):
    lam, b, initial = draw(seed, length)
    with jax.enable_x64(True):
        start = jnp.asarray(initial) if started else None
        states, last = lastax.diagonal_scan(
            jnp.asarray(lam), jnp.asarray(b), initial=start, reverse=reverse, method=method
        )
    wanted, wanted_last = loop(lam, b, initial if started else 0 * initial, reverse)
    np.testing.assert_allclose(states, wanted, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(last, wanted_last, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("method", "length", "tolerance"),
    # Squaring lam again and again costs the associative scan digits where lam is near the circle.
    [("associative", 700, 2e-5), ("sequential", 700, 2e-5), ("sequential", 16384, 1e-4)],
)
@directions
def test_long_sequence_in_single_precision(method, length, tolerance, reverse):
    """States next to the unit circle forget nothing and still follow the float64 loop."""
    lam, b, initial = draw(0, length, states=8)
    lam[0] = (1 - 1e-6) * np.exp(0.3j)
    lam, b = lam.astype(np.complex64), b.astype(np.complex64)

    @jax.jit
    def run(lam, b):
        return lastax.diagonal_scan(lam, b, reverse=reverse, method=method)[0]

    wanted, _ = loop(lam.astype(complex), b.astype(complex), 0 * initial, reverse)
    np.testing.assert_allclose(run(lam, b), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@methods
@few
@given(seed=seeds)
def test_steps_of_a_stream_are_the_scan(method, seed):
    lam, b, state = draw(seed, 7)
    with jax.enable_x64(True):
        states, _ = lastax.diagonal_scan(
            jnp.asarray(lam), jnp.asarray(b), initial=jnp.asarray(state), method=method
        )
        for k, wanted in enumerate(np.asarray(states)):
            state = lastax.diagonal_step(jnp.asarray(lam), jnp.asarray(state), jnp.asarray(b[k]))
            np.testing.assert_allclose(state, wanted, rtol=1e-11, atol=1e-11)


@methods
@directions
@few
@given(seed=seeds, cut=st.sampled_from([1, 5, 15]))
def test_pieces_with_the_state_carried_over_are_the_whole(method, reverse, seed, cut):
    lam, b, _ = draw(seed, 16)
    with jax.enable_x64(True):
        lam, b = jnp.asarray(lam), jnp.asarray(b)
        whole, last = lastax.diagonal_scan(lam, b, reverse=reverse, method=method)
        pieces = [b[:cut], b[cut:]]
        order = [1, 0] if reverse else [0, 1]
        done, state = {}, None
        for index in order:
            done[index], state = lastax.diagonal_scan(
                lam, pieces[index], initial=state, reverse=reverse, method=method
            )
        joined = np.concatenate([done[0], done[1]])
    np.testing.assert_allclose(joined, whole, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(state, last, rtol=1e-11, atol=1e-11)


@methods
@directions
@few
@given(seed=seeds, length=st.sampled_from([1, 7]))
def test_gradient_is_that_of_a_plain_scan(method, reverse, seed, length):
    lam, b, initial = draw(seed, length)
    rng = np.random.default_rng(seed + 1)
    weight = rng.normal(size=b.shape) + 1j * rng.normal(size=b.shape)

    def loss(run, lam, b, initial):
        states, last = run(lam, b, initial)
        # Neither holomorphic nor linear, so that a conjugate out of place shows.
        return jnp.sum((states * jnp.asarray(weight)).real ** 2) + jnp.sum(last.imag**2)

    with jax.enable_x64(True):
        arguments = tuple(map(jnp.asarray, (lam, b, initial)))

        def ours(lam, b, initial):
            return lastax.diagonal_scan(lam, b, initial=initial, reverse=reverse, method=method)

        def theirs(lam, b, initial):
            return plain_scan(lam, b, initial, reverse)

        got = jax.grad(loss, argnums=(1, 2, 3))(ours, *arguments)
        wanted = jax.grad(loss, argnums=(1, 2, 3))(theirs, *arguments)
    for ours_bar, theirs_bar in zip(got, wanted, strict=True):
        scale = np.abs(theirs_bar).max()
        np.testing.assert_allclose(ours_bar, theirs_bar, rtol=1e-9, atol=1e-10 * scale)


@methods
@directions
def test_transformed_is_plain(method, reverse, x64):
    lam, b, initial = draw(3, 9)
    lam, b, initial = map(jnp.asarray, (lam, b, initial))

    def run(b, initial):
        return lastax.diagonal_scan(lam, b, initial=initial, reverse=reverse, method=method)

    plain = run(b, initial)
    compiled = jax.jit(run)(b, initial)
    batched = jax.vmap(run)(jnp.stack([b, 2 * b]), jnp.stack([initial, 2 * initial]))
    for one, two, three in zip(plain, compiled, batched, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-13)
        np.testing.assert_allclose(three[0], one, rtol=1e-13)
        np.testing.assert_allclose(three[1], 2 * one, rtol=1e-12)


def test_the_method_is_chosen_by_the_device():
    """A CPU takes step after step: no level of an associative scan is left in the program."""
    lam, b, _ = draw(0, 16)
    arguments = jnp.asarray(lam, jnp.complex64), jnp.asarray(b, jnp.complex64)
    programs = {
        method: str(
            jax.make_jaxpr(lambda *a, m=method: lastax.diagonal_scan(*a, method=m))(*arguments)
        )
        for method in (None, "sequential", "associative")
    }
    assert programs["sequential"] != programs["associative"]
    on_cpu = jax.default_backend() == "cpu"
    assert programs[None] == programs["sequential" if on_cpu else "associative"]
