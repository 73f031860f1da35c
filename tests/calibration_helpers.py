"""Small networks and calibration data for tests of what looks at data."""

import functools

import jax
import numpy as np
import pytest

import lastax

from .systems import compiled

LENGTHS = np.array([17, 30, 9, 24, 30, 12])


@functools.cache
def network(key=0, **settings):
    """A small network. Models are immutable, so tests share one per configuration."""
    given = {"layers": 2, "channels": 6, "states": 5, "dropout": 0.1, **settings}
    config = lastax.ModelConfig(**given)
    model = lastax.build_network(config, input_size=3, classes=4, key=jax.random.key(key))
    # Running statistics as after training, not as initialized.
    return lastax.recalibrate_batch_norm(model, data(1, **kind_of(settings)))


def data(seed=0, *, records=6, retrieval=False, lengths=None, steps=30):
    rng = np.random.default_rng(seed)
    shape = (records, 2, steps, 3) if retrieval else (records, steps, 3)
    # Slow inputs, to which the states respond.
    x = np.cumsum(rng.normal(size=shape), axis=-2).astype(np.float32) / 3
    batch = {"x": x, "label": np.zeros(records, np.int32)}
    return batch if lengths is None else {**batch, "length": lengths}


def kind_of(settings):
    return {"retrieval": settings.get("head") == "retrieval"}


@functools.cache
def calibrated(**settings):
    """The calibration of `network(**settings)` on `data()`."""
    return lastax.calibrate(network(**settings), data(**kind_of(settings)))


def logits(model, batch):
    return np.asarray(compiled(lastax.predict)(model, batch), np.float64)


def rows(batch, index):
    return {name: value[index] for name, value in batch.items()}


KINDS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bidirectional": False, "activation": "full_glu", "norm": "layer"},
        {"prenorm": False, "activation": "gelu", "conj_sym": False},
        {"head": "retrieval", "activation": "half_glu2"},
        {"discretization": "bilinear", "pooling": "last"},
        {"layer": "s4d"},
        {"layer": "s4d", "train_b": False, "bidirectional": False},
        {"layer": "lru"},
    ],
    ids=[
        "default",
        "uni-full-layer",
        "postnorm-gelu-real",
        "retrieval",
        "bilinear-last",
        "s4d",
        "s4d-uni",
        "lru",
    ],
)
