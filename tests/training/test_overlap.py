"""The loop reads batches ahead and metrics late, and gives the results of a plain loop."""

import functools
import json
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax import training
from lastax.training import _fit_network as fit_network_module
from lastax.training import _overlap as overlap

from .test_train import PRESET, Tones


class Counted:
    """The numbers 1, 2, ..., each as a batch of its own, with a failure on request."""

    def __init__(self, *, fails_at=None):
        self.position, self.fails_at = 0, fails_at

    def __next__(self):
        self.position += 1
        if self.position == self.fails_at:
            raise ZeroDivisionError
        return {"x": np.full(2, self.position, np.float32)}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def counting_fit(folder, step, batches, **options):
    """Six steps of two epochs, with a network without layers."""
    linear = lastax.nn.Linear(jnp.ones((1, 1)), jnp.zeros(1))
    network = lastax.nn.Classifier(lastax.nn.Encoder(linear, ()), linear)
    return training.fit(
        training.TrainState(network, (), jnp.zeros((), jnp.int32)),
        step,
        batches,
        validate=lambda model: training.Evaluation(0.5, 1.0, 1),
        folder=folder,
        epochs=2,
        steps_per_epoch=3,
        **options,
    )


def after(state):
    return eqx.tree_at(lambda state: state.step, state, state.step + 1)


def metrics_of(loss):
    return training.StepMetrics(jnp.asarray(loss), jnp.asarray(0.0))


def threads():
    return [it for it in threading.enumerate() if it.name.startswith("read-ahead")]


def test_a_step_begins_before_the_metrics_of_the_last_one_are_read(tmp_path):
    events = []

    def step(state, batch):
        assert isinstance(batch["x"], jax.Array)
        events.append(f"step {int(batch['x'][0])}")
        return after(state), metrics_of(0.0)

    counting_fit(
        tmp_path,
        step,
        Counted(),
        on_step=lambda number, metrics: events.append(f"read {number}"),
        on_epoch=lambda record: events.append(f"epoch {record['epoch']}"),
    )
    epochs = (
        ["step 1", "step 2", "read 1", "step 3", "read 2", "read 3", "epoch 1"],
        ["step 4", "step 5", "read 4", "step 6", "read 5", "read 6", "epoch 2"],
    )
    assert events == [*epochs[0], *epochs[1]]
    assert threads() == []
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["steps_per_second"] > 0
        assert 0 <= record["data_wait"] <= 1


def test_the_first_step_that_is_not_finite_is_named(tmp_path):
    def step(state, batch):
        number = int(batch["x"][0])
        return after(state), metrics_of(jnp.nan if number >= 4 else 0.0)

    seen = []
    with pytest.raises(training.TrainingDivergedError, match=r"step 4: the loss is nan.*step 3"):
        counting_fit(tmp_path, step, Counted(), on_step=lambda number, _: seen.append(number))
    assert seen == [1, 2, 3]
    assert threads() == []


@pytest.mark.parametrize("stop", [2, 5])
def test_the_position_is_that_of_the_last_batch_used(tmp_path, stop):
    """A checkpoint after every step, and batches that have been read further."""
    used = []

    def step(state, batch):
        used.append(int(batch["x"][0]))
        return after(state), metrics_of(0.0)

    def interrupt(number, metrics):
        if number == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counting_fit(tmp_path, step, Counted(), checkpoint_steps=1, on_step=interrupt)
    assert threads() == []
    # The step without a checkpoint runs again.
    counting_fit(tmp_path, step, Counted(), checkpoint_steps=1, resume=True)
    assert used == [*range(1, stop + 1), *range(stop, 7)]


def test_a_failure_to_read_is_raised_where_its_batch_is_due(tmp_path):
    used = []

    def step(state, batch):
        used.append(int(batch["x"][0]))
        return after(state), metrics_of(0.0)

    with pytest.raises(ZeroDivisionError):
        counting_fit(tmp_path, step, Counted(fails_at=5))
    assert used == [1, 2, 3, 4]
    assert threads() == []


def test_reading_ahead_keeps_the_order_the_end_and_the_precision():
    assert list(overlap.read_ahead(iter(range(9)), str)) == [str(number) for number in range(9)]
    assert list(overlap.read_ahead(iter(()), str)) == []
    with jax.enable_x64(True):
        (wide,) = overlap.read_ahead(iter([np.ones(1)]), jnp.asarray)
    assert wide.dtype == float


@pytest.fixture(scope="module")
def config():
    return training.make_run_config("speech", Tones(), PRESET, seed=3)


def test_training_equals_a_plain_loop(config, tmp_path):
    """Bit for bit: one batch after the other, each metric read at once, models copied at once."""
    data, optimizer = Tones(), training.optimizer_for(config.training, 4)
    found = training.train(config, data, tmp_path / "run")
    state = training.TrainState.initialize(training.build_from_config(config), optimizer)
    state = jax.tree.map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, state)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)

    # With the optimizations that tests turn off, programs with and without donation agree too.
    @functools.partial(jax.jit, donate_argnames="state")
    def step(batch, state):
        return training.train_step(state, batch, optimizer=optimizer, key=key)

    batches = data.training_batches(batch_size=8, seed=config.seed)
    models, log = [], []
    for _ in range(3):
        losses = []
        for _ in range(4):
            state, metrics = step(next(batches), state)
            losses.append(float(metrics.loss))
        models.append(jax.device_get(eqx.filter(state.model, eqx.is_array)))
        reached = training.evaluate_split(state.model, data, "validation")
        log.append((sum(losses) / 4, reached.loss))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(it["train_loss"], it["validation_loss"]) for it in records] == log
    best = jax.device_get(eqx.filter(found.model, eqx.is_array))
    assert eqx.tree_equal(best, models[found.best_epoch - 1])


def test_the_state_is_donated_and_the_network_of_the_caller_is_not(config, tmp_path, monkeypatch):
    caught = {}

    def catch(state, step, batches, **options):
        caught.update(state=jax.tree.map(jnp.copy, eqx.filter(state, eqx.is_array)), whole=state)
        caught.update(step=step, batch=next(batches))
        return original_fit(state, step, batches, **options)

    original_fit = fit_network_module.fit
    monkeypatch.setattr(fit_network_module, "fit", catch)
    network = training.build_from_config(config)
    training.fit_network(network, config, Tones(), tmp_path)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_array)))
    state = eqx.combine(caught["state"], caught["whole"])
    caught["step"](state, caught["batch"])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(caught["state"]))
