"""Networks that read tokens: looking rows up is the product with one-hot vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

KINDS = 7


def network(key, head="classifier"):
    config = lastax.ModelConfig(layers=2, channels=6, states=4, head=head)
    return lastax.build_network(config, input_size=KINDS, classes=3, key=key)


def tokens(key, *shape):
    return jax.random.randint(key, shape, 0, KINDS)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_are_one_hot_products(getkey, dtype, x64):
    linear = lastax.nn.Linear(
        jax.random.normal(getkey(), (KINDS, 5)), jax.random.normal(getkey(), (5,))
    )
    # Beyond the kinds and below 0 there is no row: the vector is all zeros.
    index = np.array([[0, 6, 3], [6, 7, 200]], dtype)
    expected = linear(jax.nn.one_hot(index, KINDS))
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
    spelled_out = {**batch, "x": jax.nn.one_hot(batch["x"], KINDS)}
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)
    state = lastax.training.TrainState.initialize(model, optimizer)

    @eqx.filter_jit
    def step(state, batch):
        return lastax.training.train_step(state, batch, optimizer=optimizer, key=jax.random.key(3))

    ours, metrics = step(state, batch)
    theirs, their_metrics = step(state, spelled_out)
    np.testing.assert_allclose(metrics.loss, their_metrics.loss, rtol=1e-5)
    np.testing.assert_allclose(
        lastax.predict(model, batch), lastax.predict(model, spelled_out), rtol=1e-4, atol=1e-5
    )
    assert eqx.tree_equal(ours.model, theirs.model, rtol=1e-3, atol=1e-4)
    assert not jnp.allclose(ours.model.encoder.embed.weight, model.encoder.embed.weight)


def test_the_gradient_of_a_row_is_the_sum_over_its_uses(getkey, x64):
    linear = lastax.nn.Linear(jnp.zeros((KINDS, 2)), jnp.zeros(2))
    weights = jax.random.normal(getkey(), (4, 2))
    index = np.array([2, 5, 2, 2])

    def loss(linear, steps):
        return jnp.sum(weights * steps(linear))

    gradient = jax.grad(lambda linear: loss(linear, lambda linear: linear.rows(index)))(linear)
    expected = np.zeros((KINDS, 2))
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
