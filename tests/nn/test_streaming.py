"""The streaming cell gives the logits of the whole network: step by step and in chunks."""

import dataclasses
import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax
from lastax.nn._channel_recurrence import make_recurrence

from ..systems import compiled, few, random_system

pytestmark = pytest.mark.usefixtures("x64")

LENGTH, INPUTS, CLASSES, CHANNELS = 24, 3, 4, 4


def running(norm, key):
    """The norm with statistics and weights as after training."""
    scale, bias, mean = jax.random.normal(key, (3, CHANNELS))
    norm = dataclasses.replace(norm, scale=1 + 0.3 * scale, bias=bias)
    if isinstance(norm, lastax.nn.LayerNorm):
        return norm
    statistics = lastax.nn.RunningStatistics(3 * mean, jnp.exp(mean))
    return dataclasses.replace(norm, running=statistics)


@compiled
def network(layers, *, tokens=False, **settings):
    """A float64 network of one block per layer."""
    config = lastax.ModelConfig(
        layers=len(layers), channels=CHANNELS, states=2, bidirectional=False, **settings
    )
    key = jax.random.key(5)
    model = lastax.build_network(config, input_size=INPUTS, classes=CLASSES, tokens=tokens, key=key)
    blocks = tuple(
        dataclasses.replace(block, layer=layer, norm=running(block.norm, key))
        for block, layer in zip(model.encoder.blocks, layers, strict=True)
    )
    model = eqx.tree_at(lambda model: model.encoder.blocks, model, blocks)

    def widened(leaf):
        real = eqx.is_inexact_array(leaf) and not jnp.iscomplexobj(leaf)
        return leaf.astype(float) if real else leaf

    return jax.tree.map(widened, model)


@compiled
def s5(**settings):
    return lastax.S5.initialize(CHANNELS, 6, key=jax.random.key(0), **settings)


@compiled
def ragged_s4d():
    """Channels of different numbers of states, and one without states."""
    layer = lastax.S4D.initialize(CHANNELS, 3, key=jax.random.key(1), train_B=False)
    return layer.keep(np.array([1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1], bool))


def refitted_lru():
    """New eigenvalues and a dense feedthrough."""
    layer = compiled(lastax.LRU.initialize)(CHANNELS, 5, key=jax.random.key(2))
    system = random_system(3, states=5, channels=4, conj_sym=False, dense_feedthrough=True)
    return layer.with_system(system)


def mixture():
    return network([ragged_s4d(), refitted_lru()])


class Foreign(eqx.Module):
    """A layer of the protocol only."""

    own: lastax.System

    def system(self, step_rescale=1.0):
        return self.own

    def __call__(self, u, *, step_rescale=1.0):
        return self.own(u)

    def keep(self, mask):
        return Foreign(self.own.keep(mask))


MODELS = {
    "mixture": mixture,
    "postnorm": lambda: network(
        [s5(conj_sym=False)], prenorm=False, activation="full_glu", pooling="last"
    ),
    "layer norm": lambda: network(
        [
            s5(clip_eigenvalues=True, discretize=lastax.discretize_bilinear).keep(np.arange(6) < 0),
            Foreign(random_system(1, channels=4)),
        ],
        norm="layer", activation="half_glu2", gelu="exact",
    ),
    "tokens": lambda: network(
        [ragged_s4d()], norm="layer", prenorm=False, activation="gelu", tokens=True
    ),
}  # fmt: skip


@functools.cache
def case(name="mixture"):
    """A model, its cell, a stream and the logits of the model after 1, 2, ... steps."""
    model, key = MODELS[name](), jax.random.key(7)
    x = jax.random.normal(key, (LENGTH, INPUTS), float)
    if model.encoder.tokens:
        x = jax.random.randint(key, (LENGTH,), 0, INPUTS)
    return model, compiled(lastax.streaming)(model), x, np.asarray(whole(model, x))


@compiled
def whole(model, x):
    return jax.vmap(lambda length: model(x, length))(jnp.arange(1, x.shape[0] + 1))


@compiled
def stepwise(cell, x):
    return jax.lax.scan(lambda state, x: cell.step(state, x), cell.init(), x)


@compiled
def chunk(cell, state, x, reset=None):
    return cell.chunk(state, x, reset=reset)


def assert_close(got, wanted, share=1e-12):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=share * np.abs(wanted).max())


def assert_equal_states(one, other):
    for got, wanted in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_steps_and_chunks_give_the_logits_of_the_whole_network(name):
    _, cell, x, wanted = case(name)
    state, logits = stepwise(cell, x)
    assert_close(logits, wanted)
    first, start = chunk(cell, cell.init(), x[: LENGTH // 2])
    last, rest = chunk(cell, first, x[LENGTH // 2 :])
    assert_close(np.concatenate([start, rest]), wanted)
    assert_equal_states(last, state)


def test_a_cell_predicts_whole_sequences():
    """For a batch of padded sequences, whose padding is NaN."""
    _, cell, x, wanted = case()
    lengths = np.array([1, 9, LENGTH])
    batch = jnp.where(np.arange(LENGTH)[:, None] < lengths[:, None, None], x, jnp.nan)
    found = compiled(lastax.predict)(cell, {"x": batch, "length": lengths})
    assert_close(found, wanted[lengths - 1])


def test_states_without_compensation_give_the_same_logits():
    model, _, x, wanted = case("postnorm")
    cell = lastax.streaming(model, compensated=False)
    assert_close(stepwise(cell, x)[1], wanted)
    first, start = chunk(cell, cell.init(), x[: LENGTH // 2])
    assert_close(start, wanted[: LENGTH // 2])
    assert_close(chunk(cell, first, x[LENGTH // 2 :])[1], wanted[LENGTH // 2 :])


@given(lengths=st.lists(st.sampled_from([0, 1, 5]), min_size=4, max_size=12))
@few
def test_chunks_of_any_lengths_give_the_same_logits(lengths):
    _, cell, x, wanted = case()
    state, position = cell.init(), 0
    for length in lengths:
        piece = x[position : position + length]
        if len(piece) < length:
            break
        state, logits = chunk(cell, state, piece)
        assert logits.shape == (length, CLASSES)
        if length:
            assert_close(logits, wanted[position : position + length])
        position += length


def test_a_step_uses_real_arithmetic_only():
    _, cell, x, _ = case()
    jaxpr = str(jax.make_jaxpr(lambda state, x: cell.step(state, x))(cell.init(), x[0]))
    assert "f64[" in jaxpr
    assert not re.search(r"\bc(64|128)\[", jaxpr)
    assert not any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves((cell, cell.init())))


def test_the_state_shrinks_with_the_layers():
    model = case()[0]

    def sizes(model, **settings):
        cell = eqx.filter_eval_shape(lastax.streaming, model, **settings)
        return [leaf.size for leaf in jax.tree.leaves(cell.init().layers)]

    assert sizes(model, compensated=False) == [2 * 6, 2 * 5]
    assert sizes(model) == [2 * 6, 2 * 6, 2 * 5, 2 * 5]
    kept = [np.arange(6) < 1, np.arange(5) < 2]
    assert sizes(lastax.keep_states(model, kept)) == [2, 2, 4, 4]


def test_a_reset_begins_a_new_stream():
    """Also after values that are not finite, and only in the streams where the mask is true."""
    model, cell, x, wanted = case()
    second = whole(model, jnp.roll(x, -9, axis=0))
    broken = x.at[8].set(jnp.nan)
    reset = jnp.isin(jnp.arange(LENGTH), jnp.array([0, 9]))

    @compiled
    def run(cell, x, broken):
        streams = jnp.stack([x, broken])
        states, one = jax.vmap(lambda x: cell.chunk(cell.init(), x))(streams)
        _, two = jax.vmap(lambda state, x: cell.chunk(state, x, reset=reset))(states, streams)
        states = jax.vmap(lambda state, mask: cell.reset(state, mask))(
            states, jnp.array([False, True])
        )
        return one, two, states, cell.init()

    one, two, states, start = run(cell, x, broken)
    assert_close(one[0], wanted)
    assert np.isnan(one[1, 8:]).all()
    assert_close(two[0, :9], wanted[:9])
    assert np.isnan(two[1, 8]).all()
    assert_close(two[:, 9:], np.stack([second[: LENGTH - 9]] * 2))
    first, other = (jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(2))
    assert_equal_states(other, start)
    assert first.pooled.steps == LENGTH


def test_gradients_through_chunks_are_those_of_the_whole_sequence():
    """With respect to the parameters of the model, which the cell is made from in the loss."""
    model, _, x, _ = case("postnorm")

    def chunked(model, between):
        cell = lastax.streaming(model)
        state, _ = cell.chunk(cell.init(), x[: LENGTH // 2])
        return jnp.sum(cell.chunk(between(state), x[LENGTH // 2 :])[1][-1] ** 2)

    wanted = compiled(eqx.filter_grad(lambda model: jnp.sum(model(x) ** 2)))(model)
    got = compiled(eqx.filter_grad(lambda model: chunked(model, lambda state: state)))(model)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("angle", [0.0, 0.03, np.pi / 2, 2.5])
def test_rounding_does_not_add_up_near_the_unit_circle(angle):
    """`1 - |lam| = 1e-6` and 16,384 steps in float32: by step and in chunks of 64 steps."""
    length = 2**14
    lam = np.array([(1 - 1e-6) * np.exp(1j * angle)], np.complex64)
    ones = np.ones((1, 1), np.complex64)
    system = lastax.System(lam, ones, ones, None, np.zeros(1, np.float32), conj_sym=False)
    cell = make_recurrence(system)
    u = np.ones((length, 1), np.float32)
    exact = np.cumsum(lam[0].astype(complex) ** np.arange(length)).real[:, None]

    _, steps = jax.jit(lambda u: jax.lax.scan(lambda x, u: cell.step(x, u), cell.init(), u))(u)
    assert_close(steps, exact, 5e-7)
    pieces = u.reshape(-1, 64, 1)
    _, chunks = jax.jit(lambda u: jax.lax.scan(lambda x, u: cell.chunk(x, u), cell.init(), u))(
        pieces
    )
    assert_close(chunks.reshape(-1, 1), exact, 1e-5)


def test_the_mean_of_a_long_stream_is_precise():
    """A plain sum in float32 would stop growing at 2^24."""
    start = jnp.full(CHANNELS, 2.0**24, jnp.float32)
    state = lastax.nn.RunningSum(start, jnp.zeros_like(start), jnp.int32(2**24))

    def add(state, _):
        return state.step(jnp.ones(CHANNELS, jnp.float32))

    state, means = jax.jit(lambda state: jax.lax.scan(add, state, None, length=1000))(state)
    assert state.value[0] + state.error[0] == 2**24 + 1000
    np.testing.assert_allclose(means, 1, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_logits_of_long_streams_agree_in_float32(pooling):
    """16,384 steps of noise and of a constant, with `1 - |lam|` down to 1e-5."""
    slow = lastax.LRU.initialize(CHANNELS, 5, radius_range=(0.999, 0.99999), key=jax.random.key(0))
    model = network([s5(), ragged_s4d(), slow], pooling=pooling)
    model = jax.tree.map(lambda leaf: leaf.astype(np.float32), model)
    noise = jax.random.normal(jax.random.key(0), (2**14, INPUTS), np.float32)
    for x in (noise, jnp.ones_like(noise)):
        cell = lastax.streaming(model)
        _, steps = stepwise(cell, x)
        _, one_chunk = chunk(cell, cell.init(), x)
        _, chunks = eqx.filter_jit(
            lambda cell, x: jax.lax.scan(lambda *a: cell.chunk(*a), cell.init(), x)
        )(cell, x.reshape(-1, 64, INPUTS))
        assert steps.dtype == np.float32
        assert_close(one_chunk, steps, 1e-5)
        assert_close(chunks.reshape(one_chunk.shape), steps, 1e-5)
        assert_close(eqx.filter_jit(model)(x), steps[-1], 1e-5)


def test_the_mean_of_a_long_sequence_is_precise():
    """Added one after another in float32, equal values have an error of 1e-4."""
    h = jnp.full((2**14, CHANNELS), 0.1, jnp.float32)
    encoder = case()[0].encoder
    np.testing.assert_allclose(encoder.pool(h, None), h[0], rtol=5e-6)
    np.testing.assert_allclose(encoder.pool(h, jnp.arange(2**14) < 16000), h[0], rtol=5e-6)


def test_steps_of_different_sizes():
    """The network and the cell, in chunks and by step; a factor of 2 everywhere is a scalar 2."""
    model, _, x, _ = case()
    cell = lastax.streaming(model, step_rescale=2.0)
    factors = jnp.asarray(np.random.default_rng(0).uniform(0.2, 2, LENGTH))
    rescaled = compiled(lambda model, x, factors: model(x, step_rescale=factors))
    wanted = rescaled(model, x, 2 * factors)

    @compiled
    def run(cell, x, factors):
        half = LENGTH // 2
        state, _ = cell.chunk(cell.init(), x[:half], step_rescale=factors[:half])
        _, logits = jax.lax.scan(
            lambda state, row: cell.step(state, row[0], step_rescale=row[1]),
            state,
            (x[half:], factors[half:]),
        )
        return logits[-1]

    assert_close(run(cell, x, factors), wanted)
    assert_close(run(cell, x, jnp.ones(LENGTH)), rescaled(model, x, 2.0))
    jaxpr = jax.make_jaxpr(lambda r: cell.step(cell.init(), x[0], step_rescale=r))(1.0)
    assert not re.search(r"\bc(64|128)\[", str(jaxpr))


@functools.cache
def bad_calls():
    cell, tokens = case()[1], case("tokens")[1]
    foreign = case("layer norm")[1]
    state, other = cell.init(), case("postnorm")[1].init()
    x, xs = jnp.zeros(INPUTS), jnp.zeros((5, INPUTS))
    model = case("postnorm")[0]
    layer = model.encoder.blocks[0].layer
    both = dataclasses.replace(layer, C_reverse=layer.C)
    bidirectional = eqx.tree_at(lambda model: model.encoder.blocks[0].layer, model, both)
    retrieval = lastax.nn.Retrieval(model.encoder, model.head, model.head)
    return {
        "bidirectional": (
            lambda: lastax.streaming(bidirectional),
            "streaming: .*block 0 is bidirectional.*--no-bidirectional",
        ),
        "pair": (lambda: lastax.streaming(retrieval), "streaming: .*got Retrieval"),
        "batch": (lambda: cell.step(state, xs), r"StreamingCell.step: .*\(3,\).*\(5, 3\).*chunk"),
        "size": (lambda: cell.step(state, x[:2]), r"StreamingCell.step: .*\(3,\).*\(2,\)"),
        "one-step": (lambda: cell.chunk(state, x), r"StreamingCell.chunk: .*\(L, 3\).*\(3,\)"),
        "features": (
            lambda: tokens.step(tokens.init(), jnp.float32(1)),
            "StreamingCell.step: x must be integer token ids",
        ),
        "state": (lambda: cell.step(other, x), "StreamingCell.step: the state has shapes"),
        "states": (
            lambda: cell.reset(jax.tree.map(lambda leaf: leaf[None], state), True),
            "StreamingCell.reset: the state has shapes .*vmap",
        ),
        "step_rescale": (
            lambda: cell.step(state, x, step_rescale=jnp.ones(2)),
            r"StreamingCell.step: step_rescale must be one number, got shape \(2,\)",
        ),
        "unknown": (
            lambda: foreign.chunk(foreign.init(), xs, step_rescale=jnp.ones(5)),
            r"StreamingCell.chunk: the step size can change .* S5 and S4D .*LRU",
        ),
        "mask": (
            lambda: cell.reset(state, jnp.ones(2, bool)),
            r"StreamingCell.reset: mask must be one boolean, got bool of shape \(2,\); .*vmap",
        ),
        "reset": (
            lambda: cell.chunk(state, xs, reset=jnp.zeros(4, bool)),
            r"StreamingCell.chunk: reset must be boolean of shape \(5,\)",
        ),
    }


NAMES = (
    "bidirectional pair batch size one-step features state states step_rescale unknown mask reset"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_errors_name_the_function_and_the_remedy(name):
    call, message = bad_calls()[name]
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_lengths_of_a_cell_are_those_of_the_network():
    model, cell, x, _ = case()
    for length in (0, 1, LENGTH):
        batch = {"x": x[None], "length": np.array([length])}
        assert_close(lastax.predict(cell, batch), lastax.predict(model, batch))
        assert_close(cell(x, length), model(x, length))
    for length in (-1, LENGTH + 1):
        for network in (model, cell):
            with pytest.raises(ValueError, match=f"length.*{length}"):
                network(x, length)
            with pytest.raises(ValueError, match=r"predict: .*length"):
                lastax.predict(network, {"x": x[None], "length": np.array([length])})
    with pytest.raises(ValueError, match=r"StreamingCell: .*\(0, "):
        cell(x[:0])
