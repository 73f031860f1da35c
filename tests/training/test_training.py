"""Steps, loop and runs on disk: pure, resumable, and the same for pruned networks."""

import functools
import json
import math
import signal
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax.serialization import folder_written_at_once, write_atomically
from lastax.training import _checkpoints as checkpoints_module
from lastax.training import _evaluation as evaluation_module

from ..devices import run_on_devices

OPTIMIZER = lastax.training.make_optimizer(0.01, 0.005, weight_decay=0.01)
CONFIG = lastax.ModelConfig(layers=2, channels=6, states=4, dropout=0.1)


def small_network(key):
    return lastax.build_network(CONFIG, input_size=3, classes=2, key=key)


class Waves:
    """Endless batches of rising and falling tones, a function of the position alone."""

    def __init__(self) -> None:
        self.position = 0

    def batch(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(number)
        label = rng.integers(2, size=8).astype(np.int32)
        time = np.linspace(0, 1, 25)[None, :, None]
        pitch = np.where(label, 9.0, 4.0)[:, None, None]
        x = np.sin(pitch * time + rng.normal(size=(8, 1, 3)))
        return {"x": x.astype(np.float32), "label": label}

    def __next__(self) -> dict[str, np.ndarray]:
        self.position += 1
        return self.batch(self.position)

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position}

    def set_state(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def run_config(model):
    return lastax.training.RunConfig(
        task="speech",
        seed=0,
        data=lastax.training.DataConfig("speech"),
        input_size=3,
        classes=2,
        length=25,
        model=CONFIG,
        training=lastax.training.TrainingConfig(),
        states=tuple(lastax.state_counts(model)),
    )


def make_step(key):
    return eqx.filter_jit(
        functools.partial(lastax.training.train_step, optimizer=OPTIMIZER, key=key)
    )


def fit(folder, key, *, epochs, **options):
    state = lastax.training.TrainState.initialize(small_network(key), OPTIMIZER)
    held_out = [Waves().batch(10**6)]
    folder.mkdir(exist_ok=True)
    return lastax.training.fit(
        state,
        options.pop("step", None) or make_step(key),
        Waves(),
        validate=lambda model: lastax.training.evaluate(model, held_out),
        folder=folder,
        epochs=epochs,
        steps_per_epoch=6,
        **options,
    )


def test_cross_entropy_against_float64():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(7, 5)), np.arange(7) % 5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = 0.9 * np.eye(5)[label] + 0.1 / 5
    truth = -(target * np.log(p)).sum(1)
    ours = lastax.training.cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(label), 0.1)
    np.testing.assert_allclose(ours, truth, rtol=1e-5)


def test_a_step_is_a_pure_function(getkey):
    key = getkey()
    state = lastax.training.TrainState.initialize(small_network(key), OPTIMIZER)
    step, batch = make_step(key), Waves().batch(0)
    first, metrics = step(state, batch)
    second, same = step(state, batch)
    assert eqx.tree_equal(first, second)
    assert metrics == same
    assert int(first.step) == 1
    assert not eqx.tree_equal(first.model, state.model)


def test_training_lowers_the_loss_and_moves_the_statistics(getkey, tmp_path):
    result = fit(tmp_path / "run", getkey(), epochs=10)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] < 0.7 * lines[0]["train_loss"]
    assert result.validation_accuracy == max(line["validation_accuracy"] for line in lines)
    assert jnp.abs(result.model.encoder.blocks[0].norm.running.mean).max() > 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a run of three epochs that was not stopped, its model and its key."""
    key, folder = jax.random.key(0), tmp_path_factory.mktemp("whole")
    return folder, fit(folder, key, epochs=3).model, key


class StopHereError(Exception):
    """The moment that a test chose to stop at."""


@pytest.mark.parametrize("stop", [4, 6, 7, 11])
def test_stopped_and_resumed_is_bit_identical(whole, tmp_path, stop):
    folder, model, key = whole

    def stop_after(number, metrics):
        if number == stop:
            raise StopHereError

    with pytest.raises(StopHereError):
        fit(tmp_path / "parts", key, epochs=3, on_step=stop_after, checkpoint_steps=4)
    parts = fit(tmp_path / "parts", key, epochs=3, resume=True, checkpoint_steps=4)
    assert eqx.tree_equal(model, parts.model)

    def log(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        times = {"seconds": None, "steps_per_second": None, "data_wait": None}
        return [json.loads(line) | times for line in lines]

    assert log(folder) == log(tmp_path / "parts")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(whole, tmp_path):
    _, model, key = whole
    pure = make_step(key)

    def breaking(state, batch):
        state, metrics = pure(state, batch)
        if int(state.step) == 9:
            metrics = metrics._replace(loss=jnp.asarray(jnp.nan))
        return state, metrics

    with pytest.raises(
        lastax.training.TrainingDivergedError, match=r"step 9: the loss is nan.*step 6 remains"
    ):
        fit(tmp_path / "run", key, epochs=3, step=breaking)
    resumed = fit(tmp_path / "run", key, epochs=3, resume=True)
    assert eqx.tree_equal(model, resumed.model)


def test_a_parameter_that_is_not_finite_is_never_checkpointed(getkey, tmp_path):
    key = getkey()
    pure = make_step(key)

    def breaking(state, batch):
        state, metrics = pure(state, batch)
        broken = eqx.tree_at(lambda s: s.model.head.bias, state, jnp.full(2, jnp.inf))
        return (broken if int(state.step) == 12 else state), metrics

    with pytest.raises(
        lastax.training.TrainingDivergedError, match=r"head\.bias is not finite.*step 6"
    ):
        fit(tmp_path / "run", key, epochs=3, step=breaking)


def test_evaluation_weighs_examples_not_batches(getkey):
    model = small_network(getkey())
    first, second = Waves().batch(1), Waves().batch(2)
    filled = {
        name: np.concatenate([second[name][:3], np.repeat(second[name][2:3], 5, axis=0)])
        for name in second
    }
    weight = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)
    result = lastax.training.evaluate(model, [first, {**filled, "weight": weight}])
    x = np.concatenate([first["x"], second["x"][:3]])
    label = np.concatenate([first["label"], second["label"][:3]])
    logits = np.stack([np.asarray(model(row), np.float64) for row in x])
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(11), label]
    assert result.examples == 11
    assert result.accuracy == pytest.approx((logits.argmax(1) == label).mean())
    assert result.loss == pytest.approx(losses.mean(), rel=1e-5)
    with pytest.raises(ValueError, match="no examples"):
        lastax.training.evaluate(model, [])


def test_fidelity_by_hand(getkey):
    one, other = small_network(getkey()), small_network(getkey())
    batch = Waves().batch(0)
    weighted = {**batch, "weight": np.array([1, 1, 1, 0, 1, 0, 1, 1], np.float32)}
    p, q = (
        np.asarray(lastax.predict(model, batch), np.float64)[weighted["weight"] > 0]
        for model in (one, other)
    )
    log_p, log_q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (p, q))
    found = lastax.training.compare(one, other, [weighted])
    assert found.examples == 6
    wanted = np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1))
    assert found.kl_divergence == pytest.approx(wanted, rel=1e-4)
    assert found.agreement == pytest.approx(np.mean(p.argmax(1) == q.argmax(1)))
    same = lastax.training.compare(one, one, [batch, weighted])
    assert (same.kl_divergence, same.agreement, same.examples) == (0, 1, 14)
    right = weighted["label"][weighted["weight"] > 0]
    for accuracy, logits in ((found.original_accuracy, p), (found.other_accuracy, q)):
        assert accuracy == pytest.approx(np.mean(logits.argmax(1) == right))
    assert math.isnan(lastax.training.compare(one, other, [{"x": batch["x"]}]).other_accuracy)
    with pytest.raises(ValueError, match="no examples"):
        lastax.training.compare(one, one, [])


def test_accuracies_and_fidelity_compile_each_network_once(getkey, monkeypatch):
    model = small_network(getkey())
    small = lastax.prune(model, ratio=0.5)
    # Of a length that no other test has: nothing is compiled yet.
    batch = {name: rows[:, :23] if name == "x" else rows for name, rows in Waves().batch(0).items()}
    traced = []
    predict = evaluation_module.predict
    monkeypatch.setattr(
        evaluation_module, "predict", lambda *a, **k: (traced.append(a), predict(*a, **k))[1]
    )
    for one in (model, small):
        lastax.training.evaluate(one, [batch])
    lastax.training.compare(model, small, [batch])
    assert len(traced) == 2


def test_distillation_follows_the_teacher_not_the_labels(getkey):
    student, teacher = small_network(getkey()), small_network(getkey())
    state = lastax.training.TrainState.initialize(student, OPTIMIZER)
    step = eqx.filter_jit(functools.partial(lastax.training.train_step, optimizer=OPTIMIZER))
    waves, key = Waves(), getkey()
    before = lastax.training.compare(teacher, student, [waves.batch(-1 % 2**32)])
    for number in range(60):
        batch = waves.batch(number)
        wrong = {**batch, "label": 1 - batch["label"]}
        state, metrics = step(state, batch, key=key, teacher=teacher)
        if number == 0:
            other, same = step(
                lastax.training.TrainState.initialize(student, OPTIMIZER),
                wrong,
                key=key,
                teacher=teacher,
            )
            # Labels are counted, but they move nothing.
            assert eqx.tree_equal(other.model, state.model)
            assert same.loss == metrics.loss
            assert same.accuracy != metrics.accuracy
    after = lastax.training.compare(teacher, state.model, [waves.batch(-1 % 2**32)])
    assert after.kl_divergence < 0.5 * before.kl_divergence


def test_a_pruned_network_trains_on(getkey):
    key = getkey()
    small = lastax.prune(small_network(key), ratio=0.5)
    state = lastax.training.TrainState.initialize(small, OPTIMIZER)
    step, losses = make_step(key), []
    for number in range(40):
        state, metrics = step(state, Waves().batch(number))
        losses.append(float(metrics.loss))
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert sum(lastax.state_counts(state.model)) == 4


@pytest.mark.parametrize("ratio", [0, 0.3, 0.75])
def test_saved_and_loaded_is_the_same_network(getkey, tmp_path, ratio):
    model = lastax.prune(small_network(getkey()), ratio=ratio)
    config = run_config(model)
    lastax.training.save_config(tmp_path, config)
    lastax.save(tmp_path, model)
    loaded_config, loaded = lastax.training.load_run(tmp_path)
    assert loaded_config == config
    assert eqx.tree_equal(loaded, model)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def break_off():
        with folder_written_at_once(tmp_path / "run") as folder:
            write_atomically(folder / "file", b"half")
            raise StopHereError

    with pytest.raises(StopHereError):
        break_off()
    assert list(tmp_path.iterdir()) == []
    with folder_written_at_once(tmp_path / "run") as folder:
        write_atomically(folder / "file", b"whole")
    assert (tmp_path / "run" / "file").read_bytes() == b"whole"
    with (
        pytest.raises(lastax.serialization.RunError, match="already exists"),
        folder_written_at_once(tmp_path / "run"),
    ):
        pass


def test_an_interrupt_waits_for_the_checkpoint(getkey, tmp_path, monkeypatch):
    arrays = checkpoints_module.named_arrays

    def interrupting(tree):
        signal.raise_signal(signal.SIGINT)
        return arrays(tree)

    model = small_network(getkey())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with lastax.training.Checkpoints(tmp_path) as checkpoints:
            monkeypatch.setattr(checkpoints_module, "named_arrays", interrupting)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(1, model, {"left": "whole"})
            monkeypatch.undo()
            restored, progress = checkpoints.restore(small_network(getkey()))
    finally:
        signal.signal(signal.SIGINT, before)
    assert progress == {"left": "whole"}
    assert eqx.tree_equal(restored, model)


def test_replacing_keeps_the_old_until_the_new_is_whole(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "file").write_bytes(b"old")

    def break_off():
        with folder_written_at_once(target, replace=True) as folder:
            write_atomically(folder / "file", b"new")
            raise StopHereError

    with pytest.raises(StopHereError):
        break_off()
    assert (target / "file").read_bytes() == b"old"
    with folder_written_at_once(target, replace=True) as folder:
        write_atomically(folder / "file", b"new")
    assert (target / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_appears_meanwhile_is_not_overwritten(tmp_path):
    target = tmp_path / "run"

    def collide():
        with folder_written_at_once(target) as folder:
            write_atomically(folder / "file", b"new")
            target.mkdir()
            (target / "theirs").write_bytes(b"theirs")

    with pytest.raises(lastax.serialization.RunError, match="cannot write"):
        collide()
    assert (target / "theirs").read_bytes() == b"theirs"


def test_a_used_folder_is_not_trained_into_again(getkey, tmp_path):
    key = getkey()
    fit(tmp_path / "run", key, epochs=1)
    with pytest.raises(lastax.serialization.RunError, match="resume it, or choose another folder"):
        fit(tmp_path / "run", key, epochs=1)


def test_a_run_loads_in_double_precision_programs(getkey, tmp_path):
    model = small_network(getkey())
    lastax.save(tmp_path, model)
    lastax.training.save_config(tmp_path, run_config(model))
    x = np.ones((25, 3), np.float32)
    with jax.enable_x64(True):
        _, loaded = lastax.training.load_run(tmp_path)
        logits = loaded(jnp.asarray(x))
    np.testing.assert_allclose(logits, model(jnp.asarray(x)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(lastax.training.SCHEDULES))
def test_schedules_never_exceed_the_base_rate(name):
    rate = lastax.training.SCHEDULES[name](
        0.1, steps_per_epoch=7, epochs=5, warmup_epochs=2, minimum=0.01
    )
    rates = np.array([rate(step) for step in range(35)])
    assert rates.max() <= 0.1 + 1e-7
    assert rates[14 + 1 :].min() >= 0.01 - 1e-7
    assert np.all(np.diff(rates[16:]) <= 1e-7)


def test_groups_decide_who_decays(getkey):
    """Without gradients, decay is the whole update: only the decaying groups move."""
    model = small_network(getkey())
    parameters, _ = lastax.nn.split_trainable(model)
    optimizer = lastax.training.make_optimizer(0.1, 0.01, weight_decay=0.5, grouping="BandCdecay")
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    updates, _ = optimizer.update(zeros, optimizer.init(parameters), parameters)
    layer, before = updates.encoder.blocks[0].layer, parameters.encoder.blocks[0].layer
    assert jnp.abs(layer.Lambda_re).max() == jnp.abs(layer.log_step).max() == 0
    np.testing.assert_allclose(layer.B, -0.01 * 0.5 * before.B, rtol=1e-5)
    np.testing.assert_allclose(layer.C, -0.1 * 0.5 * before.C, rtol=1e-5)


def test_unknown_groupings_are_refused(getkey):
    parameters, _ = lastax.nn.split_trainable(small_network(getkey()))
    with pytest.raises(
        ValueError, match=r"parameter_groups: no grouping 'all'; choose one of standard"
    ):
        lastax.training.parameter_groups(parameters, grouping="all")


def test_several_devices_compute_the_same(tmp_path):
    """On four virtual devices as on one, also after a checkpoint; in a process of its own."""
    program = """
        import functools, sys, jax, equinox as eqx, numpy as np, lastax
        from pathlib import Path
        from lastax.training._placement import Placement
        optimizer = lastax.training.make_optimizer(0.01, 0.005, weight_decay=0.01)
        config = lastax.ModelConfig(layers=1, channels=6, states=4, dropout=0.1)
        key = jax.random.key(0)
        network = lastax.build_network(config, input_size=3, classes=2, key=key)
        pure = functools.partial(lastax.training.train_step, optimizer=optimizer, key=key)
        step = eqx.filter_jit(pure)
        rng = np.random.default_rng(0)
        batch = {"x": rng.normal(size=(8, 25, 3)).astype("float32"), "label": np.arange(8) % 2}
        states = []
        for count in (1, 4):
            state = lastax.training.TrainState.initialize(network, optimizer)
            placed = Placement.over(jax.devices()[:count]).batch(batch)
            assert len(placed["x"].sharding.device_set) == count
            state, _ = step(state, placed)
            with lastax.training.Checkpoints(Path(sys.argv[1]) / str(count)) as checkpoints:
                checkpoints.save(1, state, {})
                state, _ = checkpoints.restore(state)
            state, _ = step(state, placed)
            states.append(jax.device_get(eqx.filter(state.model, eqx.is_array)))
        assert eqx.tree_equal(*states, rtol=1e-4, atol=1e-6)
    """
    run_on_devices(program, 4, str(tmp_path))


def test_rows_that_only_fill_a_batch_are_refused(getkey):
    state = lastax.training.TrainState.initialize(small_network(getkey()), OPTIMIZER)
    batch = {**Waves().batch(0), "weight": np.ones(8, np.float32)}
    with pytest.raises(ValueError, match="train_step: the batch has a weight"):
        lastax.training.train_step(state, batch, optimizer=OPTIMIZER, key=getkey())
