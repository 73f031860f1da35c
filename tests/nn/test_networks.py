"""Blocks and networks: padding, batch statistics, dropout, pooling, pairs of documents."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import lastax

from ..systems import compiled

LENGTHS = np.array([17, 30, 9])
FORMS = ("tanh", "exact")


def network(key, **settings):
    config = lastax.ModelConfig(**{"layers": 2, "channels": 6, "states": 4, **settings})
    return lastax.build_network(config, input_size=3, classes=5, key=key)


def traced_forward(model, x, lengths=None, key=None, axis="batch"):
    """Logits of a batch and the updated model, as in training."""
    keys = None if key is None else jax.random.split(key, len(x))
    return eqx.filter_vmap(
        lambda x, length, key: model.forward(x, length, key=key, axis=axis),
        in_axes=(0, eqx.if_array(0), eqx.if_array(0)),
        out_axes=(0, None),
        axis_name="batch",
    )(x, lengths, keys)


forward = compiled(traced_forward)


def padded_with(x, filling):
    inside = np.arange(x.shape[1])[None, :] < LENGTHS[:, None]
    return jnp.where(inside[..., None], x, filling)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_masked_padding_changes_nothing(getkey, norm, prenorm, pooling):
    model = network(getkey(), norm=norm, prenorm=prenorm, pooling=pooling)
    x = jax.random.normal(getkey(), (3, 30, 3))
    zeros, noise = padded_with(x, 0.0), padded_with(x, 1e3)
    for axis in ("batch", None):
        logits, updated = forward(model, zeros, LENGTHS, axis=axis)
        others, other_updated = forward(model, noise, LENGTHS, axis=axis)
        np.testing.assert_allclose(logits, others, rtol=1e-4, atol=1e-5)
        assert eqx.tree_equal(updated, other_updated, rtol=1e-4, atol=1e-5)


def test_padding_does_not_change_logits(getkey):
    model = network(getkey())
    x = jax.random.normal(getkey(), (3, 30, 3))
    evaluate = compiled(lambda model, x, length=None: model(x, length))
    for sequence, length in zip(x, LENGTHS, strict=True):
        short = evaluate(model, sequence[:length])
        padded = evaluate(model, sequence, jnp.asarray(length))
        np.testing.assert_allclose(padded, short, rtol=1e-4, atol=1e-5)


def test_padding_changes_logits_without_mask_padding(getkey):
    model = network(getkey(), mask_padding=False)
    x = jax.random.normal(getkey(), (3, 30, 3))
    first, _ = forward(model, padded_with(x, 0.0), LENGTHS)
    second, _ = forward(model, padded_with(x, 1e3), LENGTHS)
    assert jnp.abs(first - second).max() > 1e-2


def test_batch_statistics_are_those_of_all_valid_steps(getkey):
    norm = lastax.nn.BatchNorm.initialize(3, momentum=0.9)
    x = 5 + 2 * jax.random.normal(getkey(), (3, 30, 3))
    mask = np.arange(30)[None, :] < LENGTHS[:, None]
    y, moved = jax.vmap(
        lambda x, mask: norm(x, mask, axis="batch"), out_axes=(0, None), axis_name="batch"
    )(x, mask)
    valid = np.asarray(x, np.float64)[mask]
    np.testing.assert_allclose(moved.running.mean, 0.1 * valid.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved.running.variance, 0.9 + 0.1 * valid.var(0), rtol=1e-5)
    normalized = np.asarray(y)[mask]
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(0), 1, rtol=1e-4)


def test_variance_is_precise_for_large_means(getkey):
    norm = lastax.nn.BatchNorm.initialize(3, momentum=0.0)
    x = 3000 + jax.random.normal(getkey(), (4, 50, 3))
    _, moved = jax.vmap(lambda x: norm(x, axis="batch"), out_axes=(0, None), axis_name="batch")(x)
    truth = np.asarray(x, np.float64).var((0, 1))
    np.testing.assert_allclose(moved.running.variance, truth, rtol=1e-3)


def test_derivatives_of_batch_normalization_are_those_of_the_formula(x64):
    """Gradients, and their derivatives along a direction."""
    rng = np.random.default_rng(0)
    x, weight, x_along = rng.normal(size=(3, 2, 9, 2))
    scale, bias, *rows_along = rng.normal(size=(4, 2))
    point, along = (x, scale, bias), (x_along, *rows_along)
    mask = np.arange(9)[None] < np.array([[9], [5]])
    norm = lastax.nn.BatchNorm.initialize(2, momentum=0.0)

    def loss(y, mean, variance):
        return jnp.sum(jnp.sin(y) * weight) + jnp.sum(jnp.cos(mean) + jnp.sin(variance))

    def plain(x, scale, bias):
        over = {"axis": (0, 1), "where": mask[..., None], "keepdims": True}
        mean, variance = x.mean(**over), x.var(**over)
        y = (x - mean) / jnp.sqrt(variance + norm.epsilon) * scale[None, None] + bias[None, None]
        return loss(y, mean, variance)

    def with_statistics(x, scale, bias):
        own = dataclasses.replace(norm, scale=scale, bias=bias)
        apply = functools.partial(own, axis="batch")
        y, moved = jax.vmap(apply, out_axes=(0, None), axis_name="batch")(x, mask)
        return loss(y, moved.running.mean, moved.running.variance)

    @jax.jit
    def derivatives(point):
        return [jax.jvp(jax.grad(f, (0, 1, 2)), point, along) for f in (plain, with_statistics)]

    wanted, got = map(jax.tree.leaves, derivatives(point))
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_evaluation_does_not_change_running_statistics(getkey):
    model = network(getkey())
    _, same = forward(model, jax.random.normal(getkey(), (3, 30, 3)), axis=None)
    assert eqx.tree_equal(model, same)


def test_dropout_drops_channels_in_all_steps(getkey):
    x = jnp.ones((20, 4000))
    y = lastax.nn.drop_channels(x, 0.25, getkey())
    assert (y == y[:1]).all()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float((y == 0).mean()) - 0.25) < 0.03
    assert (lastax.nn.drop_channels(x, 0.25, None) == x).all()


def test_dropout_depends_on_the_key(getkey):
    model = network(getkey(), dropout=0.5)
    x = jax.random.normal(getkey(), (3, 30, 3))
    first, _ = forward(model, x, key=getkey())
    second, _ = forward(model, x, key=getkey())
    assert jnp.abs(first - second).max() > 1e-3


# The gate depends on the activation alone, and the layer on the other two settings.
@pytest.mark.parametrize(
    ("activation", "bidirectional", "conj_sym"),
    [
        ("full_glu", True, True),
        ("half_glu1", True, False),
        ("half_glu2", False, True),
        ("gelu", False, False),
    ],
)
def test_every_parameter_has_a_gradient(getkey, activation, bidirectional, conj_sym):
    model = network(getkey(), activation=activation, bidirectional=bidirectional, conj_sym=conj_sym)
    parameters, rest = lastax.nn.split_trainable(model)
    x = jax.random.normal(getkey(), (3, 30, 3))

    def loss(parameters):
        logits, _ = traced_forward(eqx.combine(parameters, rest), x)
        return jnp.mean(lastax.training.cross_entropy(logits, jnp.arange(3)))

    for gradient in jax.tree.leaves(compiled(jax.grad(loss))(parameters)):
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0


def test_unidirectional_network_is_causal(getkey):
    model = network(getkey(), bidirectional=False, pooling="last")
    x = jax.random.normal(getkey(), (30, 3))
    sensitivity = compiled(jax.jacobian(lambda x: model(x, 12)))(x)
    assert jnp.abs(sensitivity[:, 12:]).max() == 0
    assert jnp.abs(sensitivity[:, :12]).min(axis=(0, 2)).max() > 0


def test_retrieval_encodes_both_documents_with_one_encoder(getkey):
    model = network(getkey(), head="retrieval")
    x = jax.random.normal(getkey(), (4, 2, 30, 3))
    lengths = np.array([[30, 12], [5, 30], [9, 9], [30, 30]])
    logits, updated = forward(model, x, lengths)
    assert logits.shape == (4, 5)
    # Statistics over pairs of documents are those of one batch with all documents.
    encode = eqx.filter_vmap(
        lambda x, length: model.encoder(x, length, axis="batch"),
        out_axes=(0, None),
        axis_name="batch",
    )
    encoded = compiled(encode)(x.reshape(8, 30, 3), lengths.reshape(8))[1]
    assert eqx.tree_equal(updated.encoder, encoded, rtol=1e-5, atol=1e-6)
    evaluate = compiled(model)
    pair, swapped = evaluate(x[0], lengths[0]), evaluate(x[0, ::-1], lengths[0, ::-1])
    assert jnp.abs(pair - swapped).max() > 1e-4


def test_forms_of_gelu():
    x = np.linspace(-5, 5, 101)
    exact = 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))
    difference = {
        form: np.abs(lastax.nn.gelu(jnp.asarray(x), form) - exact).max() for form in FORMS
    }
    assert difference["exact"] < 1e-6
    assert 1e-4 < difference["tanh"] < 5e-4


def test_form_of_gelu_and_epsilon_are_used_everywhere(getkey):
    settings = {"layers": 1, "head": "retrieval", "norm": "layer"}
    settings |= {"gelu": "exact", "norm_epsilon": 0.5}
    model = network(getkey(), **settings)
    x = 3 * jax.random.normal(getkey(), (2, 2, 7, 3))
    # The block-wise forward pass has formulas of its own.
    forward = lastax.nn.NetworkForward()

    @compiled
    def both_ways(model, x):
        states = forward.enter(model, x, None)
        (block,) = forward.blocks(model)
        y = jax.vmap(block.layer)(forward.before(block, states))
        states = forward.after(block, states, y)
        by_blocks = model.head(forward.features(model, states))
        return jax.vmap(model)(x), by_blocks, forward.linears_input(block, y), y

    logits, by_blocks, inputs, y = both_ways(model, x)
    np.testing.assert_allclose(by_blocks, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inputs, jax.nn.gelu(y, approximate=False), atol=1e-6)
    centered = x[0, 0] @ model.encoder.embed.weight
    centered = centered - centered.mean(axis=1, keepdims=True)
    expected = centered / np.sqrt(np.mean(np.square(centered), axis=1, keepdims=True) + 0.5)
    norm = model.encoder.blocks[0].norm
    np.testing.assert_allclose(norm(x[0, 0] @ model.encoder.embed.weight)[0], expected, atol=1e-5)


def test_step_rescale_compensates_half_the_sampling_rate(getkey):
    layer = lastax.S5.initialize(3, 8, key=getkey(), step_range=(1e-4, 1e-3))
    slow = jnp.sin(jnp.linspace(0, 3, 400))[:, None] * jnp.ones((1, 3))
    apply = compiled(layer)
    fine, coarse = apply(slow), apply(slow[::2], step_rescale=2.0)
    np.testing.assert_allclose(fine[::2], coarse, atol=0.02 * float(jnp.abs(fine).max()))


def test_errors_name_the_setting(getkey):
    for name, value, words in [
        ("layers", 0, "layers must be at least 1"),
        ("dropout", 1.0, r"dropout must be in \[0, 1\)"),
        ("step_minimum", float("nan"), "step_minimum must be finite"),
        ("hippo_blocks", 3, "multiple of blocks"),
    ]:
        config = dataclasses.replace(lastax.ModelConfig(states=4), **{name: value})
        with pytest.raises(ValueError, match=words):
            lastax.build_network(config, input_size=3, classes=5, key=getkey())
