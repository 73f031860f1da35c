"""States removed during training: moments, checkpoints, and removals that are undone."""

import dataclasses
import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lastax
from lastax import training
from lastax.pruning import prune_with_optimizer
from lastax.surgery import keep_states_with_optimizer

from .test_trainer import PRESET, Tones

OPTIMIZER = training.make_optimizer(0.01, 0.005, weight_decay=0.01)
STEPS = 3


def network(layer, **settings):
    config = lastax.ModelConfig(layer=layer, layers=1, channels=4, **settings)
    return lastax.build_network(config, input_size=2, classes=2, key=jax.random.key(1))


def moving(state):
    """An optimizer state in which every moment has a value of its own."""
    return jax.tree.map(
        lambda leaf: jnp.arange(1, leaf.size + 1, dtype=leaf.dtype).reshape(leaf.shape), state
    )


@pytest.mark.parametrize("layer", ["s5", "s4d", "lru"])
def test_moments_of_removed_states_are_gone_and_others_stay(layer):
    model = network(layer, states=4)
    parameters, _ = lastax.nn.split_trainable(model)
    state = moving(optax.adam(0.1).init(parameters))
    reduction, small = prune_with_optimizer(model, state, ratio=0.5)
    assert eqx.tree_equal(reduction.model, lastax.prune(model, ratio=0.5, method="aire"))
    assert 2 * sum(reduction.states_after) == sum(reduction.states_before)
    assert eqx.tree_equal(small[0].mu, lastax.keep_states(state[0].mu, reduction.keep))
    assert eqx.tree_equal(small[0].mu.head, state[0].mu.head)
    np.testing.assert_array_equal(small[0].count, state[0].count)


def test_new_states_have_no_moments():
    model = network("s5", states=4)
    parameters, _ = lastax.nn.split_trainable(model)
    state = moving(optax.adam(0.1).init(parameters))
    reduction, small = prune_with_optimizer(model, state, states=2, method="balanced")
    (moments,) = lastax.find_layers(small[0].nu)
    assert eqx.tree_equal(moments, jax.tree.map(jnp.zeros_like, moments))
    (layer,) = lastax.find_layers(reduction.model)
    assert jax.tree.map(jnp.shape, moments) == jax.tree.map(jnp.shape, layer)
    assert eqx.tree_equal(small[0].nu.head, state[0].nu.head)
    # Nothing is removed, so no state is new.
    _, same = prune_with_optimizer(model, state, ratio=0, method="balanced")
    assert eqx.tree_equal(same, state)


@pytest.mark.parametrize("counts", [(32, 32), (3, 5, 2)])
def test_removals_reach_the_share_in_equal_factors(counts):
    plan = training.InTrainingReduction(0.9, prune_with_optimizer, epochs=3, tolerance=0.0)
    targets = [plan.target(epoch, counts) for epoch in (1, 2, 3, 4)]
    fewest = max(lastax.keep_count(sum(counts), 0.9), len(counts))
    assert targets[2:] == [fewest, fewest]
    np.testing.assert_allclose(targets[0] ** 2, sum(counts) * targets[1], rtol=0.25)


class StopHereError(Exception):
    """The moment that a test chose to stop at."""


@functools.cache
def compiled_step():
    return eqx.filter_jit(
        functools.partial(training.train_step, optimizer=OPTIMIZER, key=jax.random.key(2))
    )


def fit(folder, *, share, epochs, prune=prune_with_optimizer, step=None, **options):
    """Four epochs of an S4D network with 8 states; with fewer than 4, its accuracy falls."""
    model = network("s4d", states=2)
    data = Tones()

    def validate(model):
        enough = sum(lastax.state_counts(model)) >= 4
        return training.Evaluation(0.9 if enough else 0.5, 1.0, 12)

    folder.mkdir(exist_ok=True)
    return training.fit(
        training.TrainState.initialize(model, OPTIMIZER),
        step or compiled_step(),
        data.training_batches(batch_size=4, seed=0),
        validate=validate,
        folder=folder,
        epochs=4,
        steps_per_epoch=STEPS,
        checkpoint_steps=2,
        reduction=training.InTrainingReduction(share, prune, epochs, tolerance=1.0),
        **options,
    )


def records(folder):
    times = ("seconds", "steps_per_second", "data_wait")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that removes 4 of 8 states, then 2 of 4, and undoes the second removal."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder, share=0.75, epochs=2)


def test_an_undone_removal_leaves_no_trace(whole, tmp_path):
    folder, undone = whole
    log = records(folder)
    assert [line["epoch"] for line in log] == [1, 2, 3, 3, 4]
    assert [line["states"] for line in log] == [8, 4, 2, 4, 4]
    assert [line["undone"] for line in log] == [False, False, True, False, False]
    once = fit(tmp_path, share=0.5, epochs=1)
    assert eqx.tree_equal(once, undone)
    assert [line for line in log if not line["undone"]] == records(tmp_path)


class Stop:
    """Raises in the call that a test chose, of the callback that a test chose."""

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments, **options):
        self.call -= 1
        if self.call == 0:
            raise StopHereError

    def after_pruning(self, *arguments, **options):
        pruned = prune_with_optimizer(*arguments, **options)
        self()
        return pruned


@pytest.mark.parametrize(
    "stop",
    [
        lambda: {"prune": Stop(1).after_pruning},
        lambda: {"on_step": Stop(5)},  # with 4 states, before they are accepted
        lambda: {"prune": Stop(2).after_pruning},
        lambda: {"on_step": Stop(9)},  # with 2 states
        lambda: {"on_epoch": Stop(3)},  # the removal is about to be undone
        lambda: {"on_step": Stop(10)},  # of the repeated epoch
        lambda: {"on_reduced": Stop(1)},  # after the last step
    ],
)
def test_stopped_and_resumed_is_bit_identical(whole, tmp_path, stop):
    with pytest.raises(StopHereError):
        fit(tmp_path, share=0.75, epochs=2, **stop())
    resumed = fit(tmp_path, share=0.75, epochs=2, resume=True)
    folder, model = whole
    assert eqx.tree_equal(model, resumed)
    assert records(tmp_path) == records(folder)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_training_goes_on_with_what_prune_leaves(tmp_path):
    seen = []

    def step(state, batch):
        seen.append(state)
        return compiled_step()(state, batch)

    fit(tmp_path, share=0.5, epochs=1, step=step)
    # The state before the removal follows from the last step of the first epoch.
    batches = Tones().training_batches(batch_size=4, seed=0)
    batch = [next(batches) for _ in range(STEPS)][-1]
    before, _ = compiled_step()(seen[STEPS - 1], batch)
    after = seen[STEPS]
    assert eqx.tree_equal(after.model, lastax.prune(before.model, ratio=0.5, method="aire"))
    plan = lastax.plan_pruning(before.model, ratio=0.5, method="aire")
    _, moments = keep_states_with_optimizer(before.model, before.optimizer_state, plan.keep)
    assert eqx.tree_equal(after.optimizer_state, moments)
    assert int(after.step) == STEPS


REDUCING = dataclasses.replace(
    PRESET.training, reduce_during_training=0.5, reduce_epochs=1, reduce_tolerance=100.0
)


@pytest.fixture(scope="module")
def config():
    preset = dataclasses.replace(PRESET, training=REDUCING)
    return training.make_run_config("speech", Tones(), preset, seed=3)


def test_a_run_records_the_remaining_states(config, tmp_path):
    folder, data = tmp_path / "run", Tones()

    def stop(record):
        if record["epoch"] == 2:
            raise StopHereError

    with pytest.raises(StopHereError):
        training.train(config, data, folder, on_epoch=stop)
    assert training.load_config(folder) == config
    run = training.train(config, data, folder, resume=True)
    assert lastax.state_counts(run.model) == [2]
    found, model = training.load_run(folder)
    assert found.states == (2,)
    assert eqx.tree_equal(model, run.model)
    assert eqx.tree_equal(lastax.load(folder), run.model)
    # A crash between the configuration and the model.
    for name in ("model.safetensors", "structure.json", "results.json"):
        (folder / name).unlink()
    again = training.train(training.load_config(folder), data, folder, resume=True)
    assert eqx.tree_equal(again.model, run.model)
    assert training.load_config(folder) == found
    tuned = training.fine_tune(run.model, found, data, epochs=1)
    assert lastax.state_counts(tuned.model) == [2]


def test_impossible_settings_are_named(config, tmp_path):
    for name, value, message in (
        ("reduce_epochs", 3, "an epoch must follow"),
        ("reduce_method", "last-minute", "no pruning method 'last-minute'"),
    ):
        wrong = dataclasses.replace(REDUCING, **{name: value})
        with pytest.raises(ValueError, match=message):
            training.train(dataclasses.replace(config, training=wrong), Tones(), tmp_path / "run")
        assert not (tmp_path / "run").exists()
