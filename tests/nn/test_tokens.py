"""Networks of tokens: looking up rows is the product with one-hot vectors."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from ..systems import compiled

TOKENS = 7


def network(key, head="classifier"):
    config = lastax.ModelConfig(
        layer="lru", layers=1, channels=3, states=2, bidirectional=False, head=head
    )
    return lastax.build_network(config, input_size=TOKENS, classes=3, key=key, tokens=True)


def of_features(model):
    """The same network for one-hot vectors instead of tokens."""
    encoder = dataclasses.replace(model.encoder, tokens=False)
    return dataclasses.replace(model, encoder=encoder)


def tokens(key, *shape):
    return jax.random.randint(key, shape, 0, TOKENS)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_are_one_hot_products(getkey, dtype, x64):
    linear = lastax.nn.Linear(
        jax.random.normal(getkey(), (TOKENS, 5)), jax.random.normal(getkey(), (5,))
    )
    # Indices outside [0, TOKENS) stand for the zero vector.
    index = np.array([[0, 6, 3], [6, 7, 200]], dtype)
    expected = linear(jax.nn.one_hot(index, TOKENS))
    np.testing.assert_allclose(linear.rows(index), expected, rtol=1e-12)
    np.testing.assert_array_equal(linear.rows(index)[1, 1:], np.stack([linear.bias] * 2))
    np.testing.assert_allclose(linear.rows(np.array([-1])), linear.bias[None], rtol=1e-12)


def test_training_on_tokens_is_training_on_one_hot_vectors(getkey):
    model = network(getkey(), "retrieval")
    x, length = tokens(getkey(), 3, 2, 6), np.array([[3, 6], [4, 5], [6, 1]])

    @compiled
    def step(model, x):
        def loss(model):
            logits, updated = eqx.filter_vmap(
                lambda x, length: model.forward(x, length, axis="n"),
                out_axes=(0, None),
                axis_name="n",
            )(x, length)
            return jnp.sum(logits**3), (logits, updated)

        return eqx.filter_grad(loss, has_aux=True)(model)

    gradient, (logits, updated) = step(model, x)
    one_hot = jax.nn.one_hot(x, TOKENS)
    other_gradient, (other_logits, other) = step(of_features(model), one_hot)
    np.testing.assert_allclose(logits, other_logits, rtol=1e-4, atol=1e-5)
    assert eqx.tree_equal(of_features(gradient), other_gradient, rtol=1e-3, atol=1e-4)
    assert eqx.tree_equal(of_features(updated), other, rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(gradient.encoder.embed.weight).max()) > 1e-3


def test_the_gradient_of_a_row_is_the_sum_over_its_uses(getkey, x64):
    linear = lastax.nn.Linear(jnp.zeros((TOKENS, 2)), jnp.zeros(2))
    weights = jax.random.normal(getkey(), (4, 2))
    index = np.array([2, 5, 2, 2])

    def loss(linear, steps):
        return jnp.sum(weights * steps(linear))

    gradient = jax.grad(lambda linear: loss(linear, lambda linear: linear.rows(index)))(linear)
    expected = np.zeros((TOKENS, 2))
    for row, weight in zip(index, np.asarray(weights), strict=True):
        expected[row] += weight
    np.testing.assert_allclose(gradient.weight, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient.bias, expected.sum(0), rtol=1e-12)


def test_padding_does_not_depend_on_its_token(getkey):
    model, x = network(getkey()), tokens(getkey(), 13)
    evaluate = compiled(lambda x, length: model(x, length))
    logits, all_logits = evaluate(x, jnp.asarray(9)), evaluate(x, jnp.asarray(13))
    other = evaluate(x.at[9:].set((x[9:] + 1) % TOKENS), jnp.asarray(9))
    np.testing.assert_allclose(logits, other, rtol=1e-5, atol=1e-6)
    cut = compiled(of_features(model))(jax.nn.one_hot(x[:9], TOKENS))
    np.testing.assert_allclose(logits, cut, rtol=1e-4, atol=1e-5)
    assert not jnp.allclose(logits, all_logits)
