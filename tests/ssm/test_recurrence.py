"""Every method of the recurrence against a loop, its gradient against plain autodiff."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import lastax
from lastax import _recurrence
from lastax.ssm._recurrence import scan_split

from .systems import compiled

METHODS = ("associative", "chunked", "sequential")
methods = pytest.mark.parametrize("method", METHODS)
# Chunks have up to 128 steps: one of them, one less, one more, a prime, several with and without
# a rest.
LENGTHS = (1, 2, 31, 101, 127, 128, 129, 130, 131, 257, 1000)
BOTH = (False, True)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of up to 8 steps: a short sequence has several, and compiles faster."""
    monkeypatch.setattr(_recurrence, "_SHORTEST_CHUNK", 4)
    monkeypatch.setattr(_recurrence, "_LONGEST_CHUNK", 8)


# With those, two chunks of 8 and one of 3.
ODD = 19


def normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def draw(seed, length, states=8):
    """Start at all distances from the unit circle, one of them 0."""
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
    """States and last state, forward and in reverse."""
    return [
        lastax.diagonal_scan(lam, b, initial=initial, reverse=reverse, method=method)
        for reverse in BOTH
    ]


def close(got, wanted, share):
    """No number of a state's course is further off than `share` of the largest one of it."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape
    assert np.all(np.abs(got - wanted) <= share * np.abs(wanted).max(axis=0))


@methods
@pytest.mark.parametrize("length", LENGTHS)
def test_scan_is_the_loop(method, length, x64):
    lam, b, initial = draw(length, length)
    for reverse, (states, last) in zip(BOTH, run(method, lam, b, initial), strict=True):
        wanted, wanted_last = loop(lam, b, initial, reverse)
        close(states, wanted, 1e-12)
        np.testing.assert_allclose(last, wanted_last, rtol=1e-10, atol=1e-11)


@methods
@pytest.mark.parametrize("length", [31, 1000])
def test_scan_is_that_of_jax(method, length, x64):
    lam, b, initial = draw(length, length)
    for reverse, (states, last) in zip(BOTH, run(method, lam, b, 0 * initial), strict=True):
        close(states, plain_associative_scan(lam, b, reverse), 1e-11)
        np.testing.assert_array_equal(last, states[0 if reverse else -1])


@methods
def test_without_initial_state_is_from_rest(method):
    lam, b, initial = draw(0, 5)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, run(method, lam, b), run(method, lam, b, 0 * initial))
    )


@methods
def test_long_sequence_in_single_precision(method):
    """States next to the unit circle forget nothing and still follow the float64 loop."""
    length = 16_384
    distance, angle = np.repeat(10.0 ** -np.arange(1, 7), 4), np.tile([0, 0.3, 2, np.pi], 6)
    lam = ((1 - distance) * np.exp(1j * angle)).astype(np.complex64)
    assert np.abs(lam.astype(complex)).max() < 1
    # What moves a state at random, and what moves it as far as it goes.
    noise = normal(np.random.default_rng(0), length, len(lam))
    resonant = np.exp(1j * angle * np.arange(length)[:, None])
    lam, b = np.tile(lam, 2), np.concatenate([noise, resonant], axis=1).astype(np.complex64)
    for reverse, (states, _) in zip(BOTH, run(method, lam, b), strict=True):
        assert states.dtype == np.complex64
        wanted, _ = loop(lam.astype(complex), b.astype(complex), np.zeros(len(lam)), reverse)
        close(states, wanted, 1e-4)


def test_powers_over_a_chunk_are_precise():
    """Squaring again and again would lose a digit or two, and every state of later chunks them."""
    lam, _, _ = draw(0, 1, states=50)
    lam = lam.astype(np.complex64)
    for exponent in (77, 125, 128):
        wanted = lam.astype(complex) ** exponent
        got = compiled(_recurrence._power)(lam, exponent)
        assert np.all(np.abs(got - wanted) <= 2e-7 * np.abs(wanted))


@methods
def test_steps_of_a_stream_are_the_scan(method, x64):
    lam, b, state = draw(0, 31)
    (states, _), _ = run(method, lam, b, state)
    for entering, wanted in zip(b, states, strict=True):
        state = lastax.ssm.diagonal_step(jnp.asarray(lam), jnp.asarray(state), jnp.asarray(entering))
        np.testing.assert_allclose(state, wanted, rtol=1e-11, atol=1e-11)


@methods
@pytest.mark.parametrize(("length", "cut"), [(257, 127), (257, 130), (131, 1), (131, 129)])
def test_pieces_with_the_state_carried_over_are_the_whole(method, length, cut, x64):
    lam, b, initial = draw(cut, length)
    pieces = [b[:cut], b[cut:]]
    for reverse, (whole, last) in zip(BOTH, run(method, lam, b, initial), strict=True):
        done, state = [], initial
        for piece in reversed(pieces) if reverse else pieces:
            states, state = run(method, lam, piece, state)[reverse]
            done.append(states)
        close(np.concatenate(done[::-1] if reverse else done), whole, 1e-12)
        np.testing.assert_allclose(state, last, rtol=1e-10, atol=1e-11)


@compiled
def gradients(scan, lam, b, initial, weight):
    """Of a function that is neither holomorphic nor linear: a conjugate out of place shows."""

    def loss(lam, b, initial):
        total = 0
        for reverse in BOTH:
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
@pytest.mark.parametrize("length", [1, ODD])
def test_gradient_is_that_of_a_plain_scan(method, length, short_chunks, x64):
    arguments, wanted = plain_gradients(length)
    scan = functools.partial(lastax.diagonal_scan, method=method)
    for ours_bar, theirs_bar in zip(gradients(scan, *arguments), wanted, strict=True):
        close(ours_bar, theirs_bar, 1e-10)


def answer(method, directions, lam, b, *weights):
    """All states, and the derivatives of a function of them."""

    def loss(lam, b):
        states = scan_split(lam, b, directions, method=method)
        return sum(jnp.sum(jnp.sin(x * w)) for x, w in zip(states, weights, strict=True)), states

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(lam, b)


def draw_planes(seed, states, *leads):
    """`lam`, `b` and two weights, each with its own axes before the others."""
    rng = np.random.default_rng(seed)
    lam, _, _ = draw(seed, 1, states)
    lam = lam * rng.uniform(0.9, 1, (*leads[0], states))
    return lam, *(rng.normal(size=(*lead, ODD, 2 * states)) for lead in leads[1:])


@methods
def test_both_directions_in_one_sweep_are_two_scans(method, short_chunks, x64):
    lam, b, *weights = draw_planes(0, 3, (), (), (), ())
    (lam_bar, b_bar), states = compiled(answer)(method, BOTH, lam, b, *weights)
    for x, reverse in zip(states, BOTH, strict=True):
        wanted, _ = loop(lam, b[:, :3] + 1j * b[:, 3:], 0 * lam, reverse)
        close(x, np.concatenate([wanted.real, wanted.imag], axis=1), 1e-12)
    singles = [compiled(answer)(method, (way,), lam, b, weights[way]) for way in BOTH]
    for x, (_, (alone,)) in zip(states, singles, strict=True):
        close(x, alone, 1e-13)
    close(lam_bar, sum(single[0][0] for single in singles), 1e-12)
    close(b_bar, sum(single[0][1] for single in singles), 1e-12)


# Which of `lam`, `b` and the weights of both directions have a batch axis, the outer one first.
BATCHES = {
    "batch": [(None, 0, 0, 0)],
    "batch of lam": [(0, 0, 0, 0)],
    "batch of lam alone": [(0, None, None, None)],
    "batch in one direction alone": [(None, None, 0, None)],
    "nested": [(None, 0, 0, 0), (None, 0, 0, 0)],
    "nested, lam outside": [(0, None, None, None), (None, 0, 0, None)],
    "nested, lam inside": [(None, 0, 0, 0), (0, None, None, None)],
}


def mapped(function, batches):
    for axes in reversed(batches):
        function = jax.vmap(function, in_axes=axes)
    return function


def one_by_one(function, batches, arguments):
    """What `mapped` computes, one example after another."""
    if not batches:
        return function(*arguments)
    axes, *inner = batches
    size = next(len(a) for a, axis in zip(arguments, axes, strict=True) if axis == 0)
    examples = [
        [a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True)]
        for i in range(size)
    ]
    answers = [one_by_one(function, inner, example) for example in examples]
    return jax.tree.map(lambda *parts: np.stack(parts), *answers)


@methods
@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
def test_vmap_is_one_example_after_another(method, batches, short_chunks, x64):
    """Of states and gradients."""
    leads = [[3 - n for n, axes in enumerate(batches) if axes[k] == 0] for k in range(4)]
    arguments = draw_planes(1, 3, *leads)
    got = compiled(mapped(functools.partial(answer, method, BOTH), batches))(*arguments)
    single = functools.partial(compiled(answer), method, BOTH)
    wanted = one_by_one(single, batches, arguments)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@methods
def test_gradient_of_a_batch_is_the_sum_of_its_examples(method, short_chunks, x64):
    arguments = draw_planes(2, 3, (), (3,), (3,), (3,))
    lam, _, *weights = arguments

    @compiled
    def gradient(lam, b):
        def loss(lam, b):
            scan = functools.partial(scan_split, directions=BOTH, method=method)
            states = jax.vmap(scan, in_axes=(None, 0))(lam, b)
            return sum(jnp.sum(jnp.sin(x * w)) for x, w in zip(states, weights, strict=True))

        return jax.grad(loss, argnums=(0, 1))(lam, b)

    single = functools.partial(compiled(answer), method, BOTH)
    (lam_bars, b_bar), _ = one_by_one(single, BATCHES["batch"], arguments)
    got = gradient(lam, arguments[1])
    close(got[0], lam_bars.sum(axis=0), 1e-12)
    np.testing.assert_allclose(got[1], b_bar, rtol=1e-10, atol=1e-10)


@methods
def test_compiled_or_mapped_with_its_start_is_plain(method, x64):
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
@pytest.mark.parametrize("directions", [(False,), (True,), BOTH], ids=str)
def test_the_backward_pass_keeps_states_alone(method, directions):
    """Neither what entered nor what a method has come by on its way; and `lam`."""
    lam, b = jnp.ones(3, complex), jnp.ones((131, 6))
    scan = functools.partial(scan_split, directions=directions, method=method)
    kept = jax.eval_shape(lambda: jax.vjp(scan, lam, b)[1])
    shapes = [leaf.shape for leaf in jax.tree.leaves(kept)]
    assert sorted(shapes) == [lam.shape] + [b.shape] * len(directions)


@methods
def test_batches_are_read_and_written_in_place(method):
    """No step of a batch gathers and scatters, as those of `vmap` would."""
    lam, b, *weights = draw_planes(0, 3, (), (2,), (2,), (2,))
    batch = mapped(functools.partial(answer, method, BOTH), BATCHES["batch"])
    text = jax.jit(batch).lower(lam, b, *weights).as_text()
    assert ("dynamic_update_slice" in text) == (method != "associative")
    assert "gather" not in text
    assert "scatter" not in text


def program(length, method):
    lam, b, _ = draw(0, length)
    return str(jax.make_jaxpr(lambda *a: lastax.diagonal_scan(*a, method=method))(lam, b))


def test_the_method_is_chosen_by_device_and_length(monkeypatch):
    """On a CPU step after step: in chunks, if there is more than one of them."""
    rules = {
        "cpu": {1: "sequential", 128: "sequential", 129: "chunked", 1000: "chunked"},
        "gpu": dict.fromkeys((1, 129), "associative"),
        "tpu": dict.fromkeys((1, 129), "associative"),
    }
    for backend, rule in rules.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        for length, chosen in rule.items():
            programs = {method: program(length, method) for method in METHODS}
            assert len(set(programs.values())) == len(METHODS)
            assert program(length, None) == programs[chosen], f"{backend}, {length} steps"


def test_no_other_method():
    lam, b, _ = draw(0, 4)
    # Without the type checker, which objects first where it is on.
    unchecked = inspect.unwrap(scan_split)
    with pytest.raises(ValueError, match="one of associative, chunked, sequential; got 'parallel'"):
        unchecked(lam, b.real, BOTH, method="parallel")
    with pytest.raises(TypeCheckError):
        lastax.diagonal_scan(lam, b, method="parallel")
