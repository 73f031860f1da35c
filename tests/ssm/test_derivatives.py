"""Forward mode, second derivatives and their compositions, against a plain loop in float64."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax.ssm import _scan_methods
from lastax.ssm._products import add_row, multiply_row, product, total

from ..systems import compiled, loop, random_channels, random_system

STEPS, STATES = 7, 2


def plain_scan(lam, b, initial, reverse):
    def step(state, entering):
        state = lam * state + entering
        return state, state

    last, states = jax.lax.scan(step, initial, b, reverse=reverse)
    return states, last


def energy(scan, parts, weight, directions=(False,)):
    """A real function of `lam`, `b` and `initial`, given by their real and imaginary parts."""
    lam, b, initial = (jax.lax.complex(*part) for part in parts)
    value = 0
    for reverse in directions:
        states, last = scan(lam, b, initial=initial, reverse=reverse)
        value += jnp.sum(jnp.sin(states.real * weight) * states.imag) + jnp.sum(last.imag**3)
    return value


def inner(one, other):
    return sum(jnp.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def derivatives(f, x, v):
    """Derivatives of a real function `f` along `v`, each by several ways through JAX."""
    gradient = jax.grad(f)

    def slope(x):
        return jax.jvp(f, (x,), (v,))[1]

    first = [slope(x), jax.linearize(f, x)[1](v), inner(gradient(x), v)]
    second = [
        jax.jvp(gradient, (x,), (v,))[1],
        jax.grad(lambda x: inner(gradient(x), v))(x),
        jax.grad(slope)(x),
        jax.grad(lambda x: inner(jax.grad(jax.checkpoint(f))(x), v))(x),
    ]
    penalty = jax.grad(lambda x: inner(gradient(x), gradient(x)))(x)
    return first, second, penalty


def derivatives_of_batch(f, x, v, weights):
    """Second derivatives per example and of the sum over a batch, the batch inside or outside."""

    def summed(x):
        return jnp.sum(jax.vmap(f, in_axes=(None, 0))(x, weights))

    def own(weight):
        return jax.jvp(jax.grad(f), (x, weight), (v, 0 * weight))[1]

    return jax.vmap(own)(weights), jax.jvp(jax.grad(summed), (x,), (v,))[1]


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = [(2, STATES), (2, STEPS, STATES), (2, STATES)]
    return tuple(tuple(part) for part in (0.6 * rng.normal(size=shape) for shape in shapes))


def assert_trees_close(got, expected):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 2 or 3 steps, so that a short sequence has several."""
    monkeypatch.setattr(_scan_methods, "SHORTEST_CHUNK", 2)
    monkeypatch.setattr(_scan_methods, "LONGEST_CHUNK", 3)


def test_all_compositions_through_scan_equal_those_through_plain_loop(x64):
    weights = np.random.default_rng(2).normal(size=(2, STEPS, STATES))
    scan = functools.partial(lastax.diagonal_scan, method="sequential")

    @compiled
    def both(x, v):
        results = []
        for f in (functools.partial(energy, scan), functools.partial(energy, plain_scan)):
            single = derivatives(functools.partial(f, weight=weights[0]), x, v)
            results.append((single, derivatives_of_batch(f, x, v, weights)))
        return results

    got, expected = both(draw(0), draw(1))
    assert_trees_close(got, expected)
    # All ways through JAX agree.
    first, second, _ = expected[0]
    assert_trees_close(first, first[:1] * len(first))
    assert_trees_close(second, second[:1] * len(second))


@pytest.mark.parametrize("method", ["associative", "chunked"])
def test_second_derivatives_of_other_methods_equal_those_of_plain_loop(method, short_chunks, x64):
    weight = np.random.default_rng(2).normal(size=(STEPS, STATES))
    scan = functools.partial(lastax.diagonal_scan, method=method)

    @compiled
    def both(x, v):
        results = []
        for chosen in (scan, plain_scan):
            gradient = jax.grad(
                functools.partial(energy, chosen, weight=weight, directions=(True,))
            )
            results.append(jax.jvp(gradient, (x,), (v,)))
        return results

    assert_trees_close(*both(draw(0), draw(1)))


def test_derivatives_of_products_equal_those_of_plain_operations(x64):
    def chain(x, row, W, product, total, add_row, multiply_row):
        y = multiply_row(add_row(jnp.sin(product(x, W)), row), jnp.cos(row))
        return jnp.sum(jnp.sin(total(y**2)))

    rng = np.random.default_rng(0)
    x, v = ((rng.normal(size=3), rng.normal(size=(4, 3))) for _ in range(2))
    inputs = rng.normal(size=(2, STEPS, 4))
    ours = {"product": product, "total": total, "add_row": add_row, "multiply_row": multiply_row}
    plain = {
        "product": lambda x, W: x @ W,
        "total": lambda x: x.sum(axis=0),
        "add_row": lambda x, row: x + row[None],
        "multiply_row": lambda x, row: x * row[None],
    }

    @compiled
    def both(x, v, inputs):
        results = []
        for operations in (ours, plain):

            def f(x, u, operations=operations):
                return chain(u, *x, **operations)

            single = derivatives(functools.partial(f, u=inputs[0]), x, v)
            results.append((single, derivatives_of_batch(f, x, v, inputs)))
        return results

    assert_trees_close(*both(x, v, inputs))


@pytest.mark.parametrize("draw_system", [random_system, random_channels])
def test_tangent_of_system_equals_difference_quotient(draw_system, x64):
    """For all arrays of the system and its input, in both directions of time."""
    system, direction = (draw_system(seed, bidirectional=True) for seed in (0, 1))
    rng = np.random.default_rng(2)
    u, v = rng.normal(size=(2, STEPS, len(system.D)))

    def moved(step):
        parts = jax.tree.map(lambda a, b: np.asarray(a + step * b), system, direction)
        if isinstance(parts, lastax.System):
            return loop(parts, u + step * v)
        channels = lastax.ssm.channel_systems(parts)
        columns = [loop(one, (u + step * v)[:, i : i + 1]) for i, one in enumerate(channels)]
        return np.concatenate(columns, axis=1)

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    got = compiled(lambda *a: jax.jvp(lambda s, u: s(u), a[:2], a[2:])[1])(
        *jax.tree.map(jnp.asarray, (system, u, direction, v))
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_networks_have_second_derivatives(getkey):
    """Through blocks that are recomputed. Nothing is compiled."""
    config = lastax.ModelConfig(layers=1, channels=2, states=4, dropout=0.0)
    network = lastax.build_network(config, input_size=3, classes=2, key=getkey())
    trainable, rest = lastax.nn.split_trainable(network)

    def loss(trainable):
        model = eqx.combine(trainable, rest)
        y, _ = eqx.filter_vmap(
            lambda x: model.forward(x, axis="batch", remat=True),
            axis_name="batch",
            out_axes=(0, None),
        )(jnp.ones((2, STEPS, 3)))
        return jnp.sum(y**2)

    _, product = jax.eval_shape(lambda x: jax.jvp(jax.grad(loss), (x,), (x,)), trainable)
    assert jax.tree.map(jnp.shape, product) == jax.tree.map(jnp.shape, trainable)
