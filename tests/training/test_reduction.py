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
from lastax.training import _fine_tune as fine_tune_module
from lastax.training._training_parts import reduction_for

from ..systems import compiled, random_layer
from .test_train import PRESET, Tones

OPTIMIZER = training.make_optimizer(0.01, 0.005, weight_decay=0.01)
STEPS = 3


@pytest.fixture(scope="module")
def model():
    """A layer of each kind, and other parameters."""
    key = jax.random.key(0)
    return {
        "s5": random_layer(0, states=4, bidirectional=True),
        "s4d": lastax.S4D.initialize(2, 3, key=key),
        "lru": lastax.LRU.initialize(2, 4, key=key),
        "w": jnp.arange(8.0).reshape(4, 2),
    }


@pytest.fixture(scope="module")
def moments(model):
    """A state of Adam in which every moment has a value of its own."""
    return jax.tree.map(
        lambda leaf: np.arange(1, leaf.size + 1, dtype=leaf.dtype).reshape(leaf.shape),
        optax.adam(0.1).init(model),
    )


def test_moments_of_removed_states_are_gone_and_others_stay(model, moments):
    reduction, small = prune_with_optimizer(model, moments, states=7)
    assert reduction.states_before == [4, 6, 4]
    assert sum(reduction.states_after) == 7
    layers = lastax.find_layers(small[0].mu)
    for before, after, keep in zip(
        lastax.find_layers(moments[0].mu), layers, reduction.keep, strict=True
    ):
        for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            # The values of a moment are different, so this also fails for the wrong states.
            assert set(np.ravel(other)) <= set(np.ravel(one))
        assert eqx.tree_equal(after, before.keep(keep))
    np.testing.assert_array_equal(small[0].mu["w"], moments[0].mu["w"])
    assert eqx.tree_equal(reduction.model, lastax.keep_states(model, reduction.keep))


def test_new_states_have_no_moments(model, moments):
    reduction, small = prune_with_optimizer(model, moments, states=7, method="balanced")
    found = {**small[0].nu}
    np.testing.assert_array_equal(found.pop("w"), moments[0].nu["w"])
    layers = {name: layer for name, layer in reduction.model.items() if name != "w"}
    assert eqx.tree_equal(found, jax.tree.map(jnp.zeros_like, layers))
    # Nothing is removed, so no state is new.
    _, same = prune_with_optimizer(model, moments, ratio=0, method="balanced")
    assert eqx.tree_equal(same, moments)


@pytest.mark.parametrize("counts", [(32, 32), (3, 5, 2)])
def test_removals_reach_the_share_in_equal_factors(counts):
    plan = training.InTrainingReduction(0.9, prune_with_optimizer, epochs=3, tolerance=0.0)
    targets = [plan.target(epoch, counts) for epoch in (1, 2, 3, 4)]
    fewest = max(lastax.keep_count(sum(counts), 0.9), len(counts))
    assert targets[2:] == [fewest, fewest]
    np.testing.assert_allclose(targets[0] ** 2, sum(counts) * targets[1], rtol=0.25)


@functools.cache
def compiled_step():
    return compiled(
        functools.partial(training.train_step, optimizer=OPTIMIZER, key=jax.random.key(2))
    )


@functools.cache
def initial():
    """An S4D network with 8 states."""
    config = lastax.ModelConfig(layer="s4d", layers=1, channels=4, states=2)
    model = lastax.build_network(config, input_size=2, classes=2, key=jax.random.key(1))
    return training.TrainState.initialize(model, OPTIMIZER)


def fit(
    folder, *, share, epochs, retry=0, least=4, prune=prune_with_optimizer, step=None, **options
):
    """Four epochs from 8 states; with fewer than `least` of them, the accuracy falls."""

    def validate(model):
        enough = sum(lastax.state_counts(model)) >= least
        return training.Evaluation(0.9 if enough else 0.5, 1.0, 12)

    folder.mkdir(exist_ok=True)
    return training.fit(
        initial(),
        step or compiled_step(),
        Tones().training_batches(batch_size=4, seed=0),
        validate=validate,
        folder=folder,
        epochs=4,
        steps_per_epoch=STEPS,
        checkpoint_steps=2,
        reduction=training.InTrainingReduction(share, prune, epochs, 1.0, retry),
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


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A training that removes 4 of 8 states and no more; with the states before all its steps."""
    folder, seen = tmp_path_factory.mktemp("once"), []

    def step(state, batch):
        seen.append((state, batch))
        return compiled_step()(state, batch)

    return folder, fit(folder, share=0.5, epochs=1, step=step), seen


def test_an_undone_removal_leaves_no_trace(whole, once):
    folder, undone = whole
    log = records(folder)
    assert [line["epoch"] for line in log] == [1, 2, 3, 3, 4]
    assert [line["states"] for line in log] == [8, 4, 2, 4, 4]
    assert [line["undone"] for line in log] == [False, False, True, False, False]
    other, same, _ = once
    assert eqx.tree_equal(same, undone)
    assert [line for line in log if not line["undone"]] == records(other)


def test_an_undone_removal_is_tried_again_in_smaller_steps(tmp_path):
    """2 of 8 states are too few, and 4 are enough. The next removal aims at 2 again."""
    found = fit(tmp_path, share=0.75, epochs=1, retry=2, least=3)
    log = records(tmp_path)
    assert [line["epoch"] for line in log] == [1, 2, 2, 3, 4, 4]
    assert [line["states"] for line in log] == [8, 2, 8, 4, 2, 4]
    assert [line["undone"] for line in log] == [False, True, False, False, True, False]
    assert lastax.state_counts(found.model) == [4]


def test_training_continues_with_the_states_that_prune_keeps(once):
    _, _, seen = once
    before, _ = compiled_step()(*seen[STEPS - 1])
    after, _ = seen[STEPS]
    plan = lastax.plan_pruning(before.model, ratio=0.5, method="aire")
    model, moments = keep_states_with_optimizer(before.model, before.optimizer_state, plan.keep)
    assert eqx.tree_equal(model, lastax.prune(before.model, ratio=0.5, method="aire"))
    assert eqx.tree_equal(after.model, model)
    assert eqx.tree_equal(after.optimizer_state, moments)
    assert int(after.step) == STEPS


class StopHereError(Exception):
    """The moment that a test chose to stop at."""


class Stops:
    """Callbacks that raise at each of some moments, once."""

    def __init__(self, *moments):
        self.left, self.again = list(moments), ""

    def at(self, moment):
        if moment in self.left:
            self.left.remove(moment)
            raise StopHereError

    def prune(self, *arguments, states):
        pruned = prune_with_optimizer(*arguments, states=states)
        self.at(f"{states} states remain")
        return pruned

    def on_step(self, number, metrics):
        self.at(f"step {number}{self.again}")

    def on_epoch(self, record):
        self.at(f"epoch {record['epoch']}, undone {record['undone']}")
        self.again = " again" if record["undone"] else self.again

    def on_reduced(self, keep):
        self.at("end")


def test_stopped_and_resumed_is_bit_identical(whole, tmp_path):
    stops = Stops(
        "4 states remain",  # after a removal, before its checkpoint
        "step 6",  # with 4 states, which are not accepted yet
        "2 states remain",
        "epoch 3, undone True",  # the removal is not undone yet
        "step 9 again",
        "end",
    )
    callbacks = {name: getattr(stops, name) for name in ("on_step", "on_epoch", "on_reduced")}
    resume = functools.partial(
        fit, tmp_path, share=0.75, epochs=2, resume=True, prune=stops.prune, **callbacks
    )
    for moment in tuple(stops.left):
        with pytest.raises(StopHereError):
            resume()
        assert moment not in stops.left
    resumed, (folder, model) = resume(), whole
    assert eqx.tree_equal(model, resumed)
    assert records(tmp_path) == records(folder)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_a_diverged_training_names_its_checkpoint_by_the_step(tmp_path):
    """Steps 7 to 9 are repeated, which the names of the checkpoints count too."""
    moments = iter(range(1, 99))

    def step(state, batch):
        state, metrics = compiled_step()(state, batch)
        diverged = next(moments) == 12  # step 9 for the second time
        return state, metrics._replace(loss=jnp.asarray(jnp.nan)) if diverged else metrics

    with pytest.raises(training.TrainingDivergedError, match=r"step 9: .* of step 8 remains"):
        fit(tmp_path, share=0.75, epochs=2, step=step)
    # Also if the training was resumed after that checkpoint.
    moments = iter([12])
    with pytest.raises(training.TrainingDivergedError, match=r"step 9: .* of step 8 remains"):
        fit(tmp_path, share=0.75, epochs=2, step=step, resume=True)


REDUCING = dataclasses.replace(
    PRESET.training, reduce_during_training=0.5, reduce_epochs=1, reduce_tolerance=100.0
)


@pytest.fixture(scope="module")
def config():
    preset = dataclasses.replace(PRESET, training=REDUCING)
    return training.make_run_config("speech", Tones(), preset, seed=3)


def test_a_run_records_the_remaining_states(config, tmp_path, monkeypatch):
    folder, data = tmp_path / "run", Tones()
    run = training.train(config, data, folder)
    assert lastax.state_counts(run.model) == [2]
    found, model = training.load_run(folder)
    assert found == training.keep_in_config(config, training.kept_masks(found, (4,)))
    assert found.states == (2,)
    assert eqx.tree_equal(model, run.model)
    assert eqx.tree_equal(lastax.load(folder), run.model)
    # A crash between the configuration and the model.
    for name in ("model.safetensors", "structure.json", "results.json"):
        (folder / name).unlink()
    again = training.train(found, data, folder, resume=True)
    assert eqx.tree_equal(again.model, run.model)
    assert training.load_config(folder) == found
    # Fine-tuning removes no more states.
    tuning = []

    def stop(network, config, *_, **__):
        tuning.append(config)
        raise StopHereError

    monkeypatch.setattr(fine_tune_module, "fit_network", stop)
    with pytest.raises(StopHereError):
        training.fine_tune(run.model, found, data, epochs=1)
    assert reduction_for(tuning[0], data) is None


def test_a_removal_with_calibration_data_resumes_to_the_same_bits(config, tmp_path):
    """A refit changes the remaining states, so a checkpoint must hold their new values."""
    refitting = dataclasses.replace(REDUCING, reduce_method="calibrated")
    config = dataclasses.replace(config, training=refitting)
    whole = training.train(config, Tones(), tmp_path / "whole")
    stops = Stops("epoch 2, undone False")
    with pytest.raises(StopHereError):
        training.train(config, Tones(), tmp_path / "run", on_epoch=stops.on_epoch)
    resumed = training.train(config, Tones(), tmp_path / "run", resume=True)
    assert lastax.state_counts(resumed.model) == [2]
    assert eqx.tree_equal(resumed.model, whole.model)


def test_impossible_settings_are_named(config, tmp_path):
    for name, value, message in (
        ("reduce_epochs", 3, "an epoch must follow"),
        (
            "reduce_method",
            "last-minute",
            "reduce_method: no .* 'last-minute'; choose one of random,",
        ),
    ):
        wrong = dataclasses.replace(REDUCING, **{name: value})
        with pytest.raises(ValueError, match=message):
            training.train(dataclasses.replace(config, training=wrong), Tones(), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="an epoch must follow"):
        fit(tmp_path / "fit", share=0.5, epochs=4)
