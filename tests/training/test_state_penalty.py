"""The term of the loss that makes states redundant."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax._settings import check_settings
from lastax.training import state_penalty
from lastax.training._training_parts import penalty_weight_for

from ..systems import compiled
from .test_train import PRESET, Tones

CONFIG = {"layers": 2, "channels": 4, "states": 6}
OPTIMIZER = lastax.training.make_optimizer(0.01, 0.01, weight_decay=0.0)


def penalized_step(penalty, weight):
    return compiled(
        functools.partial(
            lastax.training.train_step,
            optimizer=OPTIMIZER,
            key=jax.random.key(1),
            penalty=penalty,
            penalty_weight=weight,
        )
    )


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
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(4, 9, 2)).astype(np.float32), "label": np.arange(4) % 2}
    value = compiled(functools.partial(state_penalty, penalty=penalty))
    reached = {}
    for weight in (0.0, 100.0):
        step = penalized_step(penalty, weight)
        state = lastax.training.TrainState.initialize(model, OPTIMIZER)
        for _ in range(8):
            state, metrics = step(state, batch)
        assert np.isfinite(metrics.loss)
        reached[weight] = float(value(state.model))
    assert reached[100.0] < float(value(model)) - 0.005
    assert reached[100.0] < reached[0.0] - 0.005


def test_the_weight_rises_over_a_share_of_the_epochs():
    """Two of three epochs of four steps; the schedule is that of the step that it is used in."""
    setting = lastax.training.TrainingConfig(epochs=3, penalty_weight=2.0, penalty_warmup=0.67)
    weight = penalty_weight_for(setting, 4)
    np.testing.assert_allclose([weight(step) for step in (0, 4, 8, 11)], [0, 1, 2, 2])
    constant = dataclasses.replace(setting, penalty_warmup=0.0)
    assert penalty_weight_for(constant, 4) == 2
    model = lastax.build_network(
        lastax.ModelConfig(**CONFIG), input_size=2, classes=2, key=jax.random.key(0)
    )
    start = lastax.training.TrainState.initialize(model, OPTIMIZER)
    batch = {"x": np.ones((2, 9, 2), np.float32), "label": np.arange(2)}

    def loss(weight, step):
        state = eqx.tree_at(lambda state: state.step, start, jnp.asarray(step))
        _, metrics = penalized_step(lastax.analysis.modal_penalty, weight)(state, batch)
        return float(metrics.loss)

    assert loss(weight, 4) == pytest.approx(loss(1.0, 4), rel=1e-6)
    assert loss(weight, 4) > loss(0.0, 4) + 0.01


def test_a_training_uses_the_rising_weight(tmp_path):
    """The weight is 0 in the first step, and the penalty counts later."""
    losses = {}
    for name in ("none", "modal"):
        changed = dataclasses.replace(PRESET.training, state_penalty=name, penalty_weight=10.0)
        preset = dataclasses.replace(PRESET, training=changed)
        config = lastax.training.make_run_config("speech", Tones(), preset, seed=3)
        seen = losses.setdefault(name, [])

        def on_step(number, metrics, seen=seen):
            seen.append(float(metrics.loss))

        lastax.training.train(config, Tones(), tmp_path / name, on_step=on_step)
    assert losses["modal"][0] == pytest.approx(losses["none"][0], rel=1e-5)
    assert losses["modal"][-1] > losses["none"][-1] + 1


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_the_share_is_checked(share):
    with pytest.raises(ValueError, match="penalty_warmup"):
        check_settings(lastax.training.TrainingConfig(penalty_warmup=share))
