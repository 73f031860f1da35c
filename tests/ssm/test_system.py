"""All forms of a system agree: call, run, step, impulse response, frequency response, real form."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import lastax

from ..systems import compiled, few, loop, random_channels, random_system, seeds

variants = pytest.mark.parametrize(
    ("bidirectional", "conj_sym"),
    [(False, True), (False, False), (True, True), (True, False)],
    ids=["uni-pairs", "uni-single", "bi-pairs", "bi-single"],
)


def inputs(seed, length=12, channels=3):
    return np.random.default_rng(seed + 1).normal(size=(length, channels))


def on_device(system):
    return jax.tree.map(jnp.asarray, system)


def test_arrays_of_numpy_are_called_like_those_of_jax():
    system = random_channels(0, counts=(2, 0, 3))
    u = inputs(0).astype(np.float32)
    host = jax.tree.map(np.asarray, system)
    np.testing.assert_allclose(host(u), on_device(system)(jnp.asarray(u)), rtol=1e-5, atol=1e-6)


@variants
@few
@given(seed=seeds)
def test_call_equals_loop(bidirectional, conj_sym, seed):
    system, u = random_system(seed, bidirectional=bidirectional, conj_sym=conj_sym), inputs(seed)
    with jax.enable_x64(True):
        got = on_device(system)(jnp.asarray(u))
    np.testing.assert_allclose(got, loop(system, u), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dense_feedthrough", [False, True])
@pytest.mark.parametrize("conj_sym", [True, False])
def test_run_and_step_equal_call(conj_sym, dense_feedthrough, x64):
    system = on_device(random_system(0, conj_sym=conj_sym, dense_feedthrough=dense_feedthrough))
    u = jnp.asarray(inputs(0))
    full = system(u)
    np.testing.assert_allclose(system.run(u)[0], full, rtol=1e-12)
    first, state = system.run(u[:5])
    second, last = system.run(u[5:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), full, rtol=1e-10, atol=1e-12)
    state = jnp.zeros(system.states, complex)
    for entering, expected in zip(u, full, strict=True):
        state, y = system.step(state, entering)
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(state, last, rtol=1e-10, atol=1e-12)


def test_step_raises_for_bidirectional_systems():
    system = on_device(random_system(0, bidirectional=True))
    with pytest.raises(ValueError, match="needs the full sequence"):
        system.step(jnp.zeros(system.states, complex), jnp.zeros(3))


def test_dense_feedthrough_connects_every_input_to_every_output(x64):
    system, u = random_system(0, bidirectional=True, dense_feedthrough=True, slowest=0.2), inputs(0)
    np.testing.assert_allclose(on_device(system)(jnp.asarray(u)), loop(system, u), rtol=1e-10)
    respond = eqx.filter_jit(lastax.ssm.impulse_response)
    impulse = respond(on_device(system), 256, position=128)
    spectrum = np.fft.fft(np.roll(impulse, -128, axis=0), axis=0)
    got = lastax.ssm.frequency_response(system, 2 * np.pi * np.arange(256) / 256)
    np.testing.assert_allclose(got, spectrum, rtol=0, atol=1e-11 * np.abs(spectrum).max())


@variants
@few
@given(seed=seeds)
def test_real_system_has_the_same_output(bidirectional, conj_sym, seed):
    system, u = random_system(seed, bidirectional=bidirectional, conj_sym=conj_sym), inputs(seed)
    real = lastax.ssm.real_system(system)
    assert real.states == 2 * system.states
    assert not real.conj_sym
    np.testing.assert_allclose(loop(real, u), loop(system, u), rtol=1e-10, atol=1e-12)
    # The output is real before any real part is taken.
    response = lastax.ssm.transfer_function(real, np.array([0.0]))
    np.testing.assert_allclose(response.imag, 0, atol=1e-12 * np.abs(response).max())


@variants
def test_frequency_response_is_transform_of_impulse_response(bidirectional, conj_sym, x64):
    system = random_system(3, bidirectional=bidirectional, conj_sym=conj_sym, slowest=0.2)
    length, position = 256, 128
    respond = eqx.filter_jit(lastax.ssm.impulse_response)
    impulse = respond(on_device(system), length, position=position)
    spectrum = np.fft.fft(np.roll(impulse, -position, axis=0), axis=0)
    omega = 2 * np.pi * np.arange(length) / length
    got = lastax.ssm.frequency_response(system, omega)
    np.testing.assert_allclose(got, spectrum, rtol=0, atol=1e-11 * np.abs(spectrum).max())


@variants
def test_superposed_impulse_responses_give_the_output(bidirectional, conj_sym, x64):
    system, u = random_system(4, bidirectional=bidirectional, conj_sym=conj_sym), inputs(4)
    length = len(u)
    expected = np.zeros_like(u)
    for k in range(length):
        response = lastax.ssm.impulse_response(on_device(system), length, position=k)
        expected += np.asarray(response) @ u[k]
    np.testing.assert_allclose(loop(system, u), expected, rtol=1e-10, atol=1e-11)
    if not bidirectional:
        assert np.all(np.asarray(response)[:-1] == 0)


def test_transfer_function_of_one_state():
    system = lastax.System(
        lam=np.array([0.5j]),
        B=np.array([[2.0 + 0j]]),
        C=np.array([[3.0 + 0j]]),
        C_reverse=np.array([[1.0j]]),
        D=np.array([7.0]),
    )
    z = np.exp(0.3j)
    expected = 6 / (1 - 0.5j / z) + 2j / (1 - 0.5j * z)
    got = lastax.ssm.transfer_function(system, np.array([0.3]))
    np.testing.assert_allclose(got, [[[expected]]], rtol=1e-14)


@variants
def test_keep_equals_zero_input_to_removed_states(bidirectional, conj_sym):
    system = random_system(5, bidirectional=bidirectional, conj_sym=conj_sym)
    u, mask = inputs(5), np.array([True, False, False, True, True])
    masked = dataclasses.replace(system, B=system.B * mask[:, None])
    small = system.keep(mask)
    assert small.states == 3
    np.testing.assert_allclose(loop(small, u), loop(masked, u), rtol=1e-12)
    with jax.enable_x64(True):
        got = on_device(small)(jnp.asarray(u))
    np.testing.assert_allclose(got, loop(masked, u), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["C", "C_reverse"])
def test_wrong_shape_raises(name):
    system = random_system(0, bidirectional=True)
    # Build the system without the type checker, which would raise first.
    wrong = object.__new__(lastax.System)
    for field in dataclasses.fields(system):
        object.__setattr__(wrong, field.name, getattr(system, field.name))
    object.__setattr__(wrong, name, getattr(system, name)[:, :4])
    message = rf"B has shape \(5, 3\), so {name} must have shape \(3, 5\), got \(3, 4\)"
    with pytest.raises(ValueError, match=message):
        wrong.__check_init__()


@pytest.mark.parametrize(
    ("draw_system", "dtype"), [(random_system, jnp.bfloat16), (random_channels, jnp.float16)]
)
def test_half_precision_inputs_have_float32_states_and_outputs_of_their_dtype(draw_system, dtype):
    system = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a, jnp.float32)), draw_system(0))
    u = jnp.asarray(inputs(0, channels=len(system.D)), dtype)

    @compiled
    def outputs(u):
        y, last = system.run(u)
        return last, y, system(u), system.step(last, u[0])[1]

    last, *got = outputs(u)
    expected_last, *expected = outputs(u.astype(jnp.float32))
    np.testing.assert_array_equal(last, expected_last)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_array_equal(one, other.astype(dtype))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("draw_system", [random_system, random_channels])
def test_empty_sequences_have_empty_outputs(draw_system, bidirectional):
    system = on_device(draw_system(0, bidirectional=bidirectional))
    u = jnp.zeros((0, len(system.D)))
    state = jnp.ones(system.states, complex)
    y, last = system.run(u, state)
    assert system(u).shape == y.shape == u.shape
    np.testing.assert_array_equal(last, state)
    np.testing.assert_array_equal(system.run(u)[1], 0 * state)
