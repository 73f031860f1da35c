"""Networks of tokens: looking up rows is the product with one-hot vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from ..systems import compiled

TOKENS = 7


def network(key, head="classifier"):
    config = lastax.ModelConfig(layers=2, channels=6, states=4, head=head)
    return lastax.build_network(config, input_size=TOKENS, classes=3, key=key)


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


@pytest.mark.parametrize(
    ("head", "lengths"), [("classifier", [9, 30, 17]), ("retrieval", [[9, 30], [4, 5], [30, 1]])]
)
def test_training_on_tokens_is_training_on_one_hot_vectors(getkey, head, lengths):
    model = network(getkey(), head)
    shape = (3, 30) if head == "classifier" else (3, 2, 30)
    batch = {"x": tokens(getkey(), *shape), "label": np.array([0, 2, 1])}
    batch["length"] = np.array(lengths)
    one_hot = {**batch, "x": jax.nn.one_hot(batch["x"], TOKENS)}
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)
    state = lastax.training.TrainState.initialize(model, optimizer)

    @compiled
    def step(state, batch):
        return lastax.training.train_step(state, batch, optimizer=optimizer, key=jax.random.key(3))

    by_rows, metrics = step(state, batch)
    by_products, other_metrics = step(state, one_hot)
    np.testing.assert_allclose(metrics.loss, other_metrics.loss, rtol=1e-5)
    np.testing.assert_allclose(
        lastax.predict(model, batch), lastax.predict(model, one_hot), rtol=1e-4, atol=1e-5
    )
    assert eqx.tree_equal(by_rows.model, by_products.model, rtol=1e-3, atol=1e-4)
    assert not jnp.allclose(by_rows.model.encoder.embed.weight, model.encoder.embed.weight)


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
    model = network(getkey())
    x = tokens(getkey(), 30)
    other = x.at[20:].set(3)
    np.testing.assert_allclose(model(x, 20), model(other, 20), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(x, 20), model(x[:20]), rtol=1e-4, atol=1e-5)
    assert not jnp.allclose(model(x), model(other))
