"""All scan methods against a loop, and their gradients against automatic differentiation."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import lastax
from lastax.ssm import _scan_methods
from lastax.ssm._powers import power
from lastax.ssm._recurrence import scan_split

from ..systems import compiled, lowered_for

# `test_pallas_scan.py` tests the GPU kernels of `pallas`.
METHODS = ("associative", "chunked", "sequential")
methods = pytest.mark.parametrize("method", METHODS)
# Chunks have up to 128 steps. These lengths give one chunk, several full chunks, and several chunks
# with a partial one at the end.
LENGTHS = (1, 2, 31, 127, 128, 129, 131, 257, 1000)
DIRECTIONS = (False, True)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of up to 8 steps, so that a short sequence has several and compiles fast."""
    monkeypatch.setattr(_scan_methods, "SHORTEST_CHUNK", 4)
    monkeypatch.setattr(_scan_methods, "LONGEST_CHUNK", 8)


# With `short_chunks`: two chunks of 8 steps and one of 3.
SHORT = 19


def normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def draw(seed, length, states=8):
    """`lam`, `b` and an initial state. `1 - |lam|` ranges from 1e-6 to 1; one eigenvalue is 0."""
    rng = np.random.default_rng(seed)
    distance = np.append(10 ** rng.uniform(-6, 0, states - 1), 1)
    lam = (1 - distance) * np.exp(1j * rng.uniform(-np.pi, np.pi, states))
    return lam, normal(rng, length, states), normal(rng, states)


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


@compiled
def plain_associative_scan(lam, b, reverse):
    def combine(one, other):
        return one[0] * other[0], other[0] * one[1] + other[1]

    factors = jnp.broadcast_to(lam, b.shape)
    return jax.lax.associative_scan(combine, (factors, b), reverse=reverse)[1]


@compiled
def run(method, lam, b, initial=None):
    """States and last state, for both directions."""
    return [
        lastax.diagonal_scan(lam, b, initial=initial, reverse=reverse, method=method)
        for reverse in DIRECTIONS
    ]


def assert_close(got, expected, tolerance):
    """The error of each state is at most `tolerance` times its largest value over time."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.all(np.abs(got - expected) <= tolerance * np.abs(expected).max(axis=0))


@methods
@pytest.mark.parametrize("length", LENGTHS)
def test_scan_equals_loop(method, length, x64):
    lam, b, initial = draw(length, length)
    for reverse, (states, last) in zip(DIRECTIONS, run(method, lam, b, initial), strict=True):
        expected, expected_last = loop(lam, b, initial, reverse)
        assert_close(states, expected, 1e-12)
        np.testing.assert_allclose(last, expected_last, rtol=1e-10, atol=1e-11)


@methods
@pytest.mark.parametrize("length", [31, 1000])
def test_scan_equals_plain_associative_scan(method, length, x64):
    lam, b, initial = draw(length, length)
    for reverse, (states, last) in zip(DIRECTIONS, run(method, lam, b, 0 * initial), strict=True):
        assert_close(states, plain_associative_scan(lam, b, reverse), 1e-11)
        np.testing.assert_array_equal(last, states[0 if reverse else -1])


@methods
def test_initial_state_is_zero_by_default(method):
    lam, b, initial = draw(0, 5)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, run(method, lam, b), run(method, lam, b, 0 * initial))
    )


@methods
def test_float32_is_precise_for_long_sequences(method):
    """States next to the unit circle accumulate all inputs, and still follow a float64 loop."""
    length = 16_384
    distance, angle = np.repeat(10.0 ** -np.arange(1, 7), 4), np.tile([0, 0.3, 2, np.pi], 6)
    lam = ((1 - distance) * np.exp(1j * angle)).astype(np.complex64)
    assert np.abs(lam.astype(complex)).max() < 1
    # Random inputs, and resonant inputs, which drive each state to its largest value.
    noise = normal(np.random.default_rng(0), length, len(lam))
    resonant = np.exp(1j * angle * np.arange(length)[:, None])
    lam, b = np.tile(lam, 2), np.concatenate([noise, resonant], axis=1).astype(np.complex64)
    for reverse, (states, _) in zip(DIRECTIONS, run(method, lam, b), strict=True):
        assert states.dtype == np.complex64
        expected, _ = loop(lam.astype(complex), b.astype(complex), np.zeros(len(lam)), reverse)
        assert_close(states, expected, 1e-4)


def test_powers_are_precise_in_float32():
    """Plain repeated squaring would lose one or two digits in all states of later chunks."""
    lam, _, _ = draw(0, 1, states=50)
    lam = lam.astype(np.complex64)
    for exponent in (77, 125, 128):
        expected = lam.astype(complex) ** exponent
        got = compiled(power)(lam, exponent)
        assert np.all(np.abs(got - expected) <= 2e-7 * np.abs(expected))


@methods
def test_single_steps_equal_scan(method, x64):
    lam, b, state = draw(0, 31)
    (states, _), _ = run(method, lam, b, state)
    for entering, expected in zip(b, states, strict=True):
        state = lastax.ssm.diagonal_step(
            jnp.asarray(lam), jnp.asarray(state), jnp.asarray(entering)
        )
        np.testing.assert_allclose(state, expected, rtol=1e-11, atol=1e-11)


@methods
@pytest.mark.parametrize(("length", "cut"), [(257, 127), (257, 130), (131, 1), (131, 129)])
def test_pieces_with_carried_state_equal_full_scan(method, length, cut, x64):
    lam, b, initial = draw(cut, length)
    pieces = [b[:cut], b[cut:]]
    for reverse, (whole, last) in zip(DIRECTIONS, run(method, lam, b, initial), strict=True):
        done, state = [], initial
        for piece in reversed(pieces) if reverse else pieces:
            states, state = run(method, lam, piece, state)[reverse]
            done.append(states)
        assert_close(np.concatenate(done[::-1] if reverse else done), whole, 1e-12)
        np.testing.assert_allclose(state, last, rtol=1e-10, atol=1e-11)


@compiled
def gradients(scan, lam, b, initial, weight):
    """Gradients of a nonlinear function that is not holomorphic, to detect wrong conjugates."""

    def loss(lam, b, initial):
        total = 0
        for reverse in DIRECTIONS:
            states, last = scan(lam, b, initial=initial, reverse=reverse)
            total += jnp.sum((states * weight[int(reverse)]).real ** 2) + jnp.sum(last.imag**2)
        return total

    return jax.grad(loss, argnums=(0, 1, 2))(lam, b, initial)


@functools.cache
def plain_gradients(length):
    lam, b, initial = draw(length, length)
    weight = normal(np.random.default_rng(1), 2, *b.shape)
    arguments = (lam, b, initial, weight)
    return arguments, gradients(plain_scan, *arguments)


@methods
@pytest.mark.parametrize("length", [1, SHORT])
def test_gradient_equals_gradient_of_plain_scan(method, length, short_chunks, x64):
    arguments, expected = plain_gradients(length)
    scan = functools.partial(lastax.diagonal_scan, method=method)
    for got_bar, expected_bar in zip(gradients(scan, *arguments), expected, strict=True):
        assert_close(got_bar, expected_bar, 1e-10)


def gradients_and_states(method, directions, lam, b, *weights):
    """Gradients of a function of the states, and the states."""

    def loss(lam, b):
        states = scan_split(lam, b, directions, method=method)
        return sum(jnp.sum(jnp.sin(x * w)) for x, w in zip(states, weights, strict=True)), states

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(lam, b)


def draw_split(seed, states, *leads):
    """`lam`, `b` and one weight per direction, with the leading axes `leads`."""
    rng = np.random.default_rng(seed)
    lam, _, _ = draw(seed, 1, states)
    lam = lam * rng.uniform(0.9, 1, (*leads[0], states))
    return lam, *(rng.normal(size=(*lead, SHORT, 2 * states)) for lead in leads[1:])


@methods
def test_both_directions_in_one_loop_equal_two_scans(method, short_chunks, x64):
    lam, b, *weights = draw_split(0, 3, (), (), (), ())
    (lam_bar, b_bar), states = compiled(gradients_and_states)(method, DIRECTIONS, lam, b, *weights)
    for x, reverse in zip(states, DIRECTIONS, strict=True):
        expected, _ = loop(lam, b[:, :3] + 1j * b[:, 3:], 0 * lam, reverse)
        assert_close(x, np.concatenate([expected.real, expected.imag], axis=1), 1e-12)
    singles = [
        compiled(gradients_and_states)(method, (reverse,), lam, b, weights[reverse])
        for reverse in DIRECTIONS
    ]
    for x, (_, (alone,)) in zip(states, singles, strict=True):
        assert_close(x, alone, 1e-13)
    assert_close(lam_bar, sum(single[0][0] for single in singles), 1e-12)
    assert_close(b_bar, sum(single[0][1] for single in singles), 1e-12)


# For each `vmap`, outer one first: the batch axes of `lam`, `b` and the weights of both directions.
BATCHES = {
    "batch": [(None, 0, 0, 0)],
    "batch of lam": [(0, 0, 0, 0)],
    "batch of lam only": [(0, None, None, None)],
    "batch of one weight only": [(None, None, 0, None)],
    "nested": [(None, 0, 0, 0), (None, 0, 0, 0)],
    "nested, lam outside": [(0, None, None, None), (None, 0, 0, None)],
    "nested, lam inside": [(None, 0, 0, 0), (0, None, None, None)],
}


def mapped(function, batches):
    for axes in reversed(batches):
        function = jax.vmap(function, in_axes=axes)
    return function


def one_by_one(function, batches, arguments):
    """The results of `mapped`, computed one example at a time."""
    if not batches:
        return function(*arguments)
    axes, *inner = batches
    size = next(len(a) for a, axis in zip(arguments, axes, strict=True) if axis == 0)
    examples = [
        [a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True)]
        for i in range(size)
    ]
    results = [one_by_one(function, inner, example) for example in examples]
    return jax.tree.map(lambda *parts: np.stack(parts), *results)


@methods
@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
def test_vmap_equals_loop_over_examples(method, batches, short_chunks, x64):
    """For the states and the gradients."""
    leads = [[3 - n for n, axes in enumerate(batches) if axes[k] == 0] for k in range(4)]
    arguments = draw_split(1, 3, *leads)
    got = compiled(mapped(functools.partial(gradients_and_states, method, DIRECTIONS), batches))(
        *arguments
    )
    single = functools.partial(compiled(gradients_and_states), method, DIRECTIONS)
    expected = one_by_one(single, batches, arguments)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


@methods
def test_batch_gradient_is_sum_of_example_gradients(method, short_chunks, x64):
    arguments = draw_split(2, 3, (), (3,), (3,), (3,))
    lam, _, *weights = arguments

    @compiled
    def gradient(lam, b):
        def loss(lam, b):
            scan = functools.partial(scan_split, directions=DIRECTIONS, method=method)
            states = jax.vmap(scan, in_axes=(None, 0))(lam, b)
            return sum(jnp.sum(jnp.sin(x * w)) for x, w in zip(states, weights, strict=True))

        return jax.grad(loss, argnums=(0, 1))(lam, b)

    single = functools.partial(compiled(gradients_and_states), method, DIRECTIONS)
    (lam_bars, b_bar), _ = one_by_one(single, BATCHES["batch"], arguments)
    got = gradient(lam, arguments[1])
    assert_close(got[0], lam_bars.sum(axis=0), 1e-12)
    np.testing.assert_allclose(got[1], b_bar, rtol=1e-10, atol=1e-10)


@methods
def test_jit_and_vmap_with_initial_state_equal_plain_call(method, x64):
    lam, b, initial = map(jnp.asarray, draw(3, 3))
    scan = functools.partial(lastax.diagonal_scan, reverse=True, method=method)
    plain = scan(lam, b, initial=initial)
    batched = compiled(jax.vmap(lambda b, initial: scan(lam, b, initial=initial)))(
        jnp.stack([b, 2 * b]), jnp.stack([initial, 2 * initial])
    )
    for one, two, three in zip(plain, run(method, lam, b, initial)[1], batched, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-12)
        np.testing.assert_allclose(three[0], one, rtol=1e-12)
        np.testing.assert_allclose(three[1], 2 * one, rtol=1e-12)


@methods
@pytest.mark.parametrize("directions", [(False,), (True,), DIRECTIONS], ids=str)
def test_backward_pass_stores_only_lam_and_states(method, directions):
    """It stores neither the inputs nor intermediate values."""
    lam, b = jnp.ones(3, complex), jnp.ones((131, 6))
    scan = functools.partial(scan_split, directions=directions, method=method)
    stored = jax.eval_shape(lambda: jax.vjp(scan, lam, b)[1])
    shapes = [leaf.shape for leaf in jax.tree.leaves(stored)]
    assert sorted(shapes) == [lam.shape] + [b.shape] * len(directions)


@methods
def test_batched_scan_has_no_gather_or_scatter(method):
    """Steps read and write in place. The default rule of `vmap` would gather and scatter."""
    lam, b, *weights = draw_split(0, 3, (), (2,), (2,), (2,))
    batch = mapped(functools.partial(gradients_and_states, method, DIRECTIONS), BATCHES["batch"])
    text = jax.jit(batch).lower(lam, b, *weights).as_text()
    assert ("dynamic_update_slice" in text) == (method != "associative")
    assert "gather" not in text
    assert "scatter" not in text


def test_eigenvalues_that_change_from_step_to_step(x64):
    """In several pieces, in both directions."""
    _, b, initial = draw(11, 300)
    lam = np.stack([draw(seed, 1)[0] for seed in range(300)])
    for reverse in DIRECTIONS:
        got, last = lastax.diagonal_scan(
            jnp.asarray(lam), jnp.asarray(b), initial=jnp.asarray(initial), reverse=reverse
        )
        state, wanted = initial, np.empty_like(b)
        for k in reversed(range(300)) if reverse else range(300):
            state = wanted[k] = lam[k] * state + b[k]
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(last, state, rtol=1e-12, atol=1e-12)


def test_a_system_without_states_runs_any_length():
    system = lastax.S5.initialize(2, 2, key=jax.random.key(0)).keep(np.zeros(2, bool)).system()
    u = jnp.ones((300, 2))
    np.testing.assert_array_equal(system(u), system.D[None] * u)


@methods
@pytest.mark.parametrize("reverse", DIRECTIONS)
def test_no_steps_return_initial_state(method, reverse):
    lam, b, initial = draw(0, 0)
    scan = functools.partial(lastax.diagonal_scan, lam, b, reverse=reverse, method=method)
    for given, expected in ((None, 0 * initial), (initial, initial)):
        states, last = scan(initial=given)
        assert states.shape == b.shape
        np.testing.assert_array_equal(last, expected.astype(np.complex64))


def program(platform, length, method):
    lam, b, _ = draw(0, length)
    return lowered_for(platform, functools.partial(lastax.diagonal_scan, method=method), lam, b)


def test_default_method_depends_on_platform_and_length():
    """On a CPU, `sequential` for one chunk and `chunked` for several. No GPU is needed."""
    rules = {
        ("cpu", 128): ("sequential", "chunked"),
        ("cpu", 129): ("chunked", "sequential"),
        ("tpu", 129): ("associative", "chunked"),
        ("cuda", 129): ("pallas", "associative"),
    }
    for (platform, length), (chosen, other) in rules.items():
        default = program(platform, length, None)
        assert default == program(platform, length, chosen), f"{platform}, {length} steps"
        assert default != program(platform, length, other)


def test_unknown_method_raises():
    lam, b, _ = draw(0, 4)
    # Call the function without the type checker, which would raise first.
    unchecked = inspect.unwrap(scan_split)
    with pytest.raises(ValueError, match="chunked, sequential, pallas, got 'parallel'"):
        unchecked(lam, b.real, DIRECTIONS, method="parallel")
    with pytest.raises(TypeCheckError):
        lastax.diagonal_scan(lam, b, method="parallel")


def test_the_method_is_checked_for_all_eigenvalues():
    lam, b = jnp.full((4, 2), 0.5 + 0j), jnp.ones((4, 2), jnp.complex64)
    for eigenvalues in (lam, lam[0]):
        with pytest.raises((ValueError, TypeCheckError), match=r"method.* 'parallel'"):
            lastax.diagonal_scan(eigenvalues, b, method="parallel")
