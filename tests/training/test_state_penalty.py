"""The term of the loss that makes states redundant."""

import functools

import jax
import numpy as np
import pytest

import lastax
from lastax.training import state_penalty

from ..systems import compiled

CONFIG = {"layers": 2, "channels": 4, "states": 6}


def test_every_name_of_a_setting_has_a_penalty():
    choices = lastax.training.allowed_values(lastax.training.TrainingConfig)["state_penalty"]
    assert choices.choices == ("none", *lastax.analysis.STATE_PENALTIES)
    assert lastax.analysis.STATE_PENALTIES["modal"] is lastax.analysis.modal_penalty


@pytest.mark.parametrize(
    ("penalty", "layer", "bidirectional"),
    [
        (lastax.analysis.modal_penalty, "s5", True),
        pytest.param(lastax.analysis.hankel_penalty, "s4d", False, marks=pytest.mark.slow),
        pytest.param(lastax.analysis.modal_penalty, "s4d", True, marks=pytest.mark.slow),
        pytest.param(lastax.analysis.modal_penalty, "lru", True, marks=pytest.mark.slow),
        pytest.param(lastax.analysis.hankel_penalty, "s5", False, marks=pytest.mark.slow),
        pytest.param(lastax.analysis.hankel_penalty, "lru", False, marks=pytest.mark.slow),
    ],
)
def test_steps_with_a_penalty_lower_it(penalty, layer, bidirectional):
    """With a large weight; steps without it do not."""
    config = lastax.ModelConfig(layer=layer, bidirectional=bidirectional, **CONFIG)
    model = lastax.build_network(config, input_size=2, classes=2, key=jax.random.key(0))
    optimizer = lastax.training.make_optimizer(0.01, 0.01, weight_decay=0.0)
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(4, 9, 2)).astype(np.float32), "label": np.arange(4) % 2}
    value = compiled(functools.partial(state_penalty, penalty=penalty))
    reached = {}
    for weight in (0.0, 100.0):
        step = compiled(
            functools.partial(
                lastax.training.train_step,
                optimizer=optimizer,
                key=jax.random.key(1),
                penalty=penalty,
                penalty_weight=weight,
            )
        )
        state = lastax.training.TrainState.initialize(model, optimizer)
        for _ in range(8):
            state, metrics = step(state, batch)
        assert np.isfinite(metrics.loss)
        reached[weight] = float(value(state.model))
    assert reached[100.0] < float(value(model)) - 0.005
    assert reached[100.0] < reached[0.0] - 0.005
