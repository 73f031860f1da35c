"""Calls of layers and networks: what they accept, and one clear error for everything else."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from ..systems import compiled, filled, filled_layer, loop, mimo

kinds = pytest.mark.parametrize("kind", [lastax.S5, lastax.S4D, lastax.LRU])

CHANNELS, STATES, LENGTH = 3, 4, 11


@functools.cache
def layer_of(kind, **options):
    return filled_layer(kind, CHANNELS, STATES, **options)


@functools.cache
def network(head="classifier", *, tokens=False, **settings):
    config = lastax.ModelConfig(
        **{"layer": "lru", "layers": 1, "channels": 4, "states": 2, "head": head, **settings}
    )
    key = jax.random.key(0)
    return filled(
        eqx.filter_eval_shape(
            lambda: lastax.build_network(config, input_size=3, classes=5, key=key, tokens=tokens)
        )
    )


def in_dtype(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, tree)


def error_of(function, *arguments, **options):
    """The message of the error that a call raises before it computes anything."""
    with pytest.raises(ValueError, match=r".") as caught:
        eqx.filter_eval_shape(function, *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Layers


@pytest.mark.parametrize("kind", [lastax.S5, lastax.S4D])
def test_layers_run_in_pieces_and_mask_their_input(kind):
    layer = layer_of(kind)
    u = np.random.default_rng(0).normal(size=(LENGTH, CHANNELS)).astype(np.float32)
    padded = np.concatenate([u, np.full((LENGTH - 5, CHANNELS), np.nan, np.float32)])
    mask = np.arange(len(padded)) < LENGTH

    @compiled
    def outputs(layer):
        first, state = layer.run(u[:5])
        second, last = layer.run(u[5:], initial=state)
        masked, gradient = jax.value_and_grad(
            lambda u: (y := layer(u, mask=mask)[:LENGTH], jnp.sum(y))[::-1], has_aux=True
        )(jnp.asarray(padded))
        masked_rest, masked_last = layer.run(padded[5:], initial=state, mask=mask[5:])
        none = layer.run(u[5:], initial=state, mask=np.zeros(LENGTH - 5, bool))[1]
        return (
            {
                "pieces": jnp.concatenate([first, second]),
                "call": jnp.concatenate([first, layer(u[5:], initial=state)]),
                "masked": masked[1],
                "masked pieces": jnp.concatenate([first, masked_rest[: LENGTH - 5]]),
            },
            gradient,
            (state, none),
            (last, masked_last),
        )

    found, gradient, (state, none), (last, masked_last) = outputs(layer)
    wanted = loop(mimo(lastax.systems(layer)[0]), np.asarray(u, float))
    atol = 2e-5 * np.abs(wanted).max()
    for name, y in found.items():
        np.testing.assert_allclose(y, wanted, rtol=0, atol=atol, err_msg=name)
    np.testing.assert_allclose(masked_last, last, rtol=1e-5)
    np.testing.assert_array_equal(none, state)
    assert np.isfinite(gradient).all()
    assert np.all(gradient[LENGTH:] == 0)


def test_sequential_modules_take_layers():
    """`equinox.nn.Sequential` passes a key to each of its layers, and layers ignore it."""
    linear = lastax.nn.Linear.initialize(3, 3, key=jax.random.key(0))
    gate = lastax.nn.Gate.initialize(3, "gelu", key=jax.random.key(0))
    layers = [layer_of(kind) for kind in (lastax.LRU, lastax.S5, lastax.S4D)]
    u = jnp.ones((LENGTH, CHANNELS))

    @compiled
    def both(layers):
        sequential = eqx.nn.Sequential([linear, *layers, gate])
        y = linear(u)
        for layer in layers:
            y = layer(y)
        return sequential(u, key=jax.random.key(0)), gate(y)

    np.testing.assert_array_equal(*both(layers))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(lastax.S5, jnp.bfloat16), (lastax.S4D, jnp.float16), (lastax.LRU, jnp.bfloat16)],
)
def test_16_bit_layers_compute_in_float32(kind, dtype):
    layer = in_dtype(layer_of(kind), dtype)
    u = np.random.default_rng(0).normal(size=(60, CHANNELS)).astype(dtype)
    y = compiled(lambda layer: layer(u))(layer)
    assert y.dtype == dtype
    (system,) = lastax.systems(layer)
    wanted = loop(mimo(system), np.asarray(u, float))
    error = np.abs(np.asarray(y, float) - wanted)
    half_a_unit = 0.5 * float(jnp.finfo(dtype).eps)
    assert np.all(error <= half_a_unit * np.abs(wanted) + 1e-4 * np.abs(wanted).max())
    for changed in (
        layer.keep(np.arange(layer.system().states) != 1),
        layer.with_system(dataclasses.replace(system, lam=0.9 * system.lam)),
        lastax.prune(layer, ratio=0.5),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {np.dtype(dtype)}
    for parameters in (dtype, jnp.float32):
        for given in (dtype, jnp.float32, jnp.int32):
            y = jax.eval_shape(in_dtype(layer, parameters), jnp.zeros((2, CHANNELS), given))
            assert y.dtype == (given if given == dtype else jnp.float32)


@kinds
def test_wrong_input_of_a_layer_is_one_error(kind):
    layer, both, name = layer_of(kind), layer_of(kind, bidirectional=True), kind.__name__
    u = jnp.zeros((LENGTH, CHANNELS))
    for message, layer_called, arguments, options in [
        (
            "got shape (2, 11, 3); for a batch use jax.vmap(layer)",
            layer,
            (u[None].repeat(2, 0),),
            {},
        ),
        ("one sequence of shape (L, 3), got shape (11, 2)", layer, (u[:, :2],), {}),
        ("got shape (11,)", layer, (u[:, 0],), {}),
        ("at least one step", layer, (u[:0],), {}),
        ("must be real, got complex64", layer, (u + 0j,), {}),
        ("mask must be boolean of shape (11,)", layer, (u,), {"mask": np.ones(3, bool)}),
        ("mask must be boolean", layer, (u,), {"mask": np.ones(LENGTH)}),
        ("initial must have shape", layer, (u,), {"initial": np.zeros(2, np.complex64)}),
        ("unidirectional", both, (u,), {"initial": np.zeros(STATES, np.complex64)}),
        ("unidirectional", both.run, (u,), {}),
    ]:
        found = error_of(layer_called, *arguments, **options)
        assert found.startswith(name)
        assert message in found


@kinds
def test_stacks_and_parts_of_layers_say_what_to_do(kind):
    stack = jax.tree.map(lambda leaf: np.stack([leaf] * 3), layer_of(kind))
    u = jnp.zeros((LENGTH, CHANNELS))
    states = layer_of(kind).system().states
    for call in (
        lambda: stack(u),
        lambda: stack.run(u),
        lambda: stack.keep(np.ones(states, bool)),
        lambda: stack.with_system(layer_of(kind).system()),
    ):
        found = error_of(call)
        assert found.startswith(f"{kind.__name__}: ")
        assert "stack of layers; apply it by equinox.filter_vmap" in found
        assert "for i in range(3)" in found
    found = error_of(lambda: lastax.prune([stack], ratio=0.5))
    assert found.startswith(f"prune: layer 0 ({kind.__name__}) holds 3 layers stacked")
    each = eqx.filter_eval_shape(eqx.filter_vmap(lambda layer: layer(u)), stack)
    assert each.shape == (3, LENGTH, CHANNELS)
    for field in ("C", "D"):
        part = eqx.tree_at(lambda layer, field=field: getattr(layer, field), layer_of(kind), None)
        found = error_of(part, u)
        assert found.startswith(f"{kind.__name__}: {field} is None")
        assert "equinox.combine" in found


# Networks


def test_integer_features_are_numbers():
    x = np.random.default_rng(0).integers(0, 3, (4, 2, 7, 3))
    for model, numbers in ((network(), x[:, 0]), (network("retrieval"), x)):
        enter = lastax.nn.NetworkForward().enter
        wanted = enter(model, numbers.astype(np.float32), None).hidden
        for dtype in (np.int32, np.uint8):
            given = numbers.astype(dtype)
            np.testing.assert_array_equal(enter(model, given, None).hidden, wanted)
            assert eqx.filter_eval_shape(lastax.predict, model, {"x": given}).shape == (4, 5)
            one = given[0].reshape(-1, 7, 3)[0]
            np.testing.assert_allclose(
                model.encoder.embedded(one, None), wanted[0], rtol=1e-6, atol=1e-6
            )


def test_wrong_input_of_a_network_is_one_error():
    real, pair = jnp.zeros((7, 3)), jnp.zeros((2, 7, 3))
    ids = jnp.zeros(7, int)
    features, retrieval = network(), network("retrieval")
    tokens, pairs_of_tokens = network(tokens=True), network("retrieval", tokens=True)
    shape, last = "real features of shape (L, 3)", network(pooling="last")
    for message, model, x in [
        (f"Classifier: x must be {shape}, got float32 of shape (4, 7, 3); for a batch use "
         "lastax.predict or jax.vmap", features, jnp.zeros((4, 7, 3))),
        ("got int32 of shape (4, 7, 3); for a batch", last, jnp.zeros((4, 7, 3), int)),
        ("got float32 of shape (7, 2)", features, real[:, :2]),
        ("got float32 of shape (7,)", features, real[:, 0]),
        ("(7,); for token ids build the network with tokens=True", features, ids),
        ("got complex64", features, real + 0j),
        ("at least one step", features, real[:0]),
        ("Retrieval: x must be real features of shape (2, L, 3), got", retrieval, real),
        ("of shape (3, 7, 3)", retrieval, jnp.zeros((3, 7, 3))),
        ("Classifier: x must be integer token ids of shape (L,), got float32", tokens, real[:, 0]),
        ("(7, 3); for a batch use", tokens, jnp.zeros((7, 3), int)),
        ("got int32 of shape (7, 3)", pairs_of_tokens, jnp.zeros((7, 3), int)),
        ("Retrieval: x must be integer token ids of shape (2, L), got", pairs_of_tokens, pair),
        ("of shape (L,), got", tokens.encoder, real),
        ("stack of networks", eqx.filter_vmap(lambda _: features)(jnp.zeros(2)), real),
        ("Linear: weight is None", eqx.filter(features, lambda _: False), real),
        ("RunningStatistics: mean is None", lastax.nn.split_trainable(features)[0], real),
    ]:  # fmt: skip
        assert message in error_of(model, x)
    for message, model, x in [
        ("predict: x must be real features of shape (n, L, 3), got float32", features, real),
        ("for token ids build the network with tokens=True", features, jnp.zeros((4, 7), int)),
        ("predict: x must be real features of shape (n, 2, L, 3), got", retrieval, pair),
        ("for features build the network with tokens=False", tokens, real[None]),
    ]:
        assert message in error_of(lastax.predict, model, {"x": x})
    with pytest.raises(ValueError, match=r"Classifier: .* \(n, L, 3\), got int\d+ of shape \(4, 7"):
        lastax.refit(features, {"x": np.zeros((4, 7), np.int64)}, ratio=0.5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("mask_padding", [True, False])
def test_padding_may_hold_nan_and_sequences_may_be_empty(pooling, mask_padding):
    model = network(pooling=pooling, mask_padding=mask_padding, bidirectional=mask_padding)
    x = np.random.default_rng(0).normal(size=(3, 9, 3)).astype(np.float32)
    length = np.array([9, 4, 0])
    inside = (np.arange(9)[None, :] < length[:, None])[..., None]

    @compiled
    def logits_and_gradient(model, x, length):
        def loss(model):
            logits = eqx.filter_vmap(
                lambda x, length: model.forward(x, length, axis="n" if mask_padding else None)[0],
                axis_name="n",
            )(x, length)
            return jnp.sum(logits**2), logits

        (_, logits), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        return logits, gradient

    got, gradient = logits_and_gradient(model, np.where(inside, x, np.nan), length)
    wanted, other = logits_and_gradient(model, np.where(inside, x, 0), length)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    if mask_padding:
        assert eqx.tree_equal(gradient, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[2], model.head.bias, atol=1e-7)
    # Under `jit` lengths have no values, and all steps are valid at most.
    longer, _ = logits_and_gradient(model, x, np.array([12, 10, 9]))
    whole, _ = logits_and_gradient(model, x, np.array([9, 9, 9]))
    np.testing.assert_array_equal(longer, whole)


def test_lengths_outside_a_sequence_are_errors():
    model, retrieval = network(), network("retrieval")
    x = jnp.zeros((2, 7, 3))
    between = "length must be between 0 and the 7 steps of x, got"
    for message, call in [
        (f"Classifier: {between} 8", lambda: model(x[0], 8)),
        (f"Classifier: {between} -1", lambda: model(x[0], np.int64(-1))),
        (f"Retrieval: {between} 9", lambda: retrieval(x, np.array([7, 9]))),
    ]:
        assert message in error_of(call)
    for message, length in [
        (f"predict: {between} 8", [8, 1]),
        ("length must be integers of shape (2,)", [1, 2, 3]),
        ("length must be integers", [1.0, 2.0]),
    ]:
        batch = {"x": x, "length": np.array(length)}
        assert message in error_of(lambda batch=batch: lastax.predict(model, batch))


def test_16_bit_networks():
    """Sums over many steps would overflow: 800 values near 100 are more than 65,504."""
    model = network(norm="batch", prenorm=False)
    narrow = in_dtype(model, jnp.float16)
    x = (60 + 20 * np.random.default_rng(0).normal(size=(8, 100, 3))).astype(np.float16)

    @compiled
    def forward(model, x):
        return eqx.filter_vmap(
            lambda x: model.forward(x, axis="n"), axis_name="n", out_axes=(0, None)
        )(x)

    logits, updated = forward(narrow, x)
    wanted, wide = forward(in_dtype(narrow, jnp.float32), x.astype(np.float32))
    assert logits.dtype == jnp.float16
    assert eqx.tree_equal(in_dtype(updated, jnp.float32), wide, rtol=0.02, atol=0.01)
    assert jax.tree.map(jnp.result_type, updated) == jax.tree.map(jnp.result_type, narrow)
    np.testing.assert_allclose(logits.astype(np.float32), wanted, rtol=0.02)
    features = 1000 * np.ones((100, 4), np.float16)
    np.testing.assert_array_equal(narrow.encoder.pool(features, None), features[0])
    np.testing.assert_array_equal(narrow.encoder.pool(features, features[:, 0] > 0), features[0])
    for remat in (False, True):

        def features(model, x, remat=remat):
            return model.encoder(x, remat=remat)[0].sum()

        for parameters in (jnp.bfloat16, jnp.float32):
            for given in (jnp.bfloat16, jnp.float32):
                gradient = eqx.filter_eval_shape(
                    eqx.filter_grad(features),
                    in_dtype(network(layers=2), parameters),
                    jax.ShapeDtypeStruct((4, 3), given),
                )
                assert gradient.encoder.embed.weight.dtype == parameters
