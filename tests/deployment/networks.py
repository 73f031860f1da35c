"""Tiny networks that have every part an exporter must know."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import lastax

from ..systems import filled_layer, random_layer

INPUTS, CLASSES, CHANNELS = 3, 4, 4


def network(*layers, tokens=False, **settings):
    """A network of one block per layer, whose norms are as after training."""
    config = lastax.ModelConfig(layers=len(layers), channels=CHANNELS, states=2, **settings)
    shapes = eqx.filter_eval_shape(
        lambda: lastax.build_network(
            config, input_size=INPUTS, classes=CLASSES, tokens=tokens, key=jax.random.key(0)
        )
    )
    shapes = eqx.tree_at(
        lambda model: [block.layer for block in model.encoder.blocks], shapes, layers
    )
    rng = np.random.default_rng(len(layers))

    def draw(path, leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        values = rng.normal(size=leaf.shape) / 2
        if "variance" in jax.tree_util.keystr(path):
            values = np.exp(values)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def s5(seed=3, scan_method=None, **options):
    layer = random_layer(seed, channels=CHANNELS, **options)
    return dataclasses.replace(layer, scan_method=scan_method)


def s4d(**options):
    """Channels with 2, 1, 0 and 3 states."""
    layer = filled_layer(lastax.S4D, CHANNELS, 3, **options)
    return layer.keep(np.array([1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1], bool))


def lru(**options):
    """A layer with a dense feedthrough."""
    layer = filled_layer(lastax.LRU, CHANNELS, 5, **options)
    return dataclasses.replace(layer, D=jnp.asarray(np.cos(np.arange(16.0)).reshape(4, 4)))


def without_states():
    return s5().keep(np.zeros(6, bool))


def full_and_pruned():
    """A network of 40 states per layer, and the same without 28 and 20 of them."""
    model = network(s5(states=40), s5(4, states=40))
    kept = [np.arange(40) < 12, np.arange(40) >= 20]
    return model, lastax.keep_states(model, kept)


# Every layer, norm, gate, form of GELU and pooling.
UNIDIRECTIONAL = {
    "mixture": lambda: network(s4d(), lru(), s5(conj_sym=False)),
    "postnorm": lambda: network(s5(), prenorm=False, activation="full_glu", pooling="last"),
    "layer norm": lambda: network(
        s5(), without_states(), norm="layer", activation="half_glu2", gelu="exact"
    ),
    "tokens": lambda: network(
        s4d(), norm="layer", prenorm=False, activation="gelu", pooling="last", tokens=True
    ),
}


# One compiled program instead of one per operation.
streaming = eqx.filter_jit(lastax.streaming)


def inputs(model, batch, length):
    """Sequences, the first with tokens outside of the table."""
    rng = np.random.default_rng(length)
    if model.encoder.tokens:
        return rng.integers(-1, INPUTS + 1, (batch, length)).astype(np.int32)
    return rng.normal(size=(batch, length, INPUTS)).astype(np.float32)


def logits(model, x):
    return np.asarray(eqx.filter_jit(lastax.predict)(model, {"x": x}))


def assert_close(got, wanted, share=2e-6):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=share * np.abs(wanted).max())
