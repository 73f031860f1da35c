"""Training from a configuration and any data set, in the library alone."""

import dataclasses
import json

import numpy as np
import pytest

import lastax
from lastax import training
from lastax.serialization import RunError
from lastax.training._lock import lock_run
from lastax.training._loop import FitResult


class Tones:
    """High and low tones: a data set without Grain."""

    classes = ("low", "high")
    input_size = 2
    length = 16
    vocabulary = ()

    def records(self, split):
        return {"train": 32, "validation": 12, "test": 10}[split]

    def _batch(self, rng, size):
        label = rng.integers(2, size=size).astype(np.int32)
        phase = rng.uniform(0, 6, size=(size, 1, 2))
        time = np.arange(self.length)[None, :, None]
        x = np.sin(np.where(label, 1.5, 0.4)[:, None, None] * time + phase)
        return {"x": x.astype(np.float32), "label": label}

    def training_batches(self, *, batch_size, seed, augment=False, workers=0):
        return Endless(
            lambda number: self._batch(np.random.default_rng((seed, number)), batch_size)
        )

    def evaluation_batches(self, split, *, batch_size=None, limit=None):
        size = min(self.records(split), limit or 10**6)
        batch = self._batch(np.random.default_rng(len(split)), self.records(split))
        yield {name: rows[:size] for name, rows in batch.items()}


class Endless:
    def __init__(self, make):
        self._make, self._number = make, 0

    def __next__(self):
        self._number += 1
        return self._make(self._number)

    def get_state(self):
        return {"number": self._number}

    def set_state(self, state):
        self._number = state["number"]


PRESET = training.Preset(
    lastax.ModelConfig(layers=1, channels=4, states=4, bidirectional=False),
    training.TrainingConfig(epochs=3, batch_size=8),
)


@pytest.fixture(scope="module")
def data():
    return Tones()


@pytest.fixture(scope="module")
def config(data):
    return training.make_run_config("speech", data, PRESET, seed=3)


@pytest.fixture(scope="module")
def run(data, config, tmp_path_factory):
    events = []
    folder = tmp_path_factory.mktemp("trained") / "run"
    found = training.train(
        config,
        data,
        folder,
        on_start=lambda steps: events.append(("start", steps)),
        on_step=lambda number, metrics: events.append(("step", number)),
        on_epoch=lambda record: events.append(("epoch", record["epoch"])),
    )
    return found, events


def test_any_data_set_will_do(data):
    assert isinstance(data, training.TrainingData)
    assert isinstance(
        lastax.data.Data(sources={}, classes=(), input_size=1, length=1), training.TrainingData
    )


def test_callbacks_follow_the_training(run):
    _, events = run
    assert events[0] == ("start", 12)
    assert [number for kind, number in events if kind == "step"] == list(range(1, 13))
    assert [number for kind, number in events if kind == "epoch"] == [1, 2, 3]


def test_a_run_can_be_loaded(run, data):
    found, _ = run
    config, model = training.load_run(found.folder)
    assert config.labels == ("low", "high")
    assert training.evaluate_split(model, data, "test") == found.test
    assert training.load_results(found.folder) == found.summary()
    again = lastax.load(found.folder)
    assert training.evaluate_split(again, data, "test") == found.test


def test_a_run_is_not_overwritten(run, config, data):
    with pytest.raises(RunError, match="already exists"):
        training.train(config, data, run[0].folder)


def test_interrupted_and_resumed_is_bit_identical(run, config, data, tmp_path):
    def interrupt(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        training.train(config, data, folder, on_epoch=interrupt)
    resumed = training.train(config, data, folder, resume=True)
    whole, _ = run
    assert (folder / "model.safetensors").read_bytes() == (
        whole.folder / "model.safetensors"
    ).read_bytes()
    assert resumed.test == whole.test


@pytest.fixture
def interrupted(config, data, tmp_path):
    """A run that was stopped after its second epoch."""

    def interrupt(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(config, data, tmp_path / "run", on_epoch=interrupt)
    return tmp_path / "run"


def test_a_run_that_was_stopped_before_its_results_can_be_resumed(
    run, config, data, tmp_path, monkeypatch
):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("lastax.training._train.evaluate_split", stop)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, data, folder)
    assert (folder / "model.safetensors").is_file()
    assert not training.has_finished(folder)
    assert training.find_runs(tmp_path) == []
    assert training.find_runs(tmp_path, finished=False) == [folder]
    assert training.train(config, data, folder, resume=True).test == run[0].test
    assert training.has_finished(folder)
    assert training.find_runs(tmp_path) == [folder]


def test_one_process_at_a_time_trains_a_run(config, data, interrupted):
    with (
        lock_run(interrupted),
        pytest.raises(RunError, match="another process is training the run"),
    ):
        training.train(config, data, interrupted, resume=True)
    training.train(config, data, interrupted, resume=True)
    assert training.has_finished(interrupted)


def test_a_partial_checkpoint_of_a_killed_process_is_removed(config, data, interrupted):
    partial = interrupted / "checkpoints" / "11.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "arrays").write_bytes(b"half")
    training.train(config, data, interrupted, resume=True)
    assert not partial.exists()


def test_fine_tuning_scales_all_learning_rates(run, config, data, monkeypatch):
    used = []

    def fit_network(network, config, *rest, **settings):
        used.append(config.training)
        return FitResult(network, 1, 0.0, 0.0)

    monkeypatch.setattr("lastax.training._fine_tune.fit_network", fit_network)
    rates = {"learning_rate": 0.5, "ssm_learning_rate": 0.25, "minimum_learning_rate": 0.125}
    before = dataclasses.replace(config, training=dataclasses.replace(config.training, **rates))
    training.fine_tune(run[0].model, before, data, epochs=1, rate=0.5)
    for name, rate in rates.items():
        assert getattr(used[0], name) == rate / 2


def test_fine_tuning_starts_from_the_pruned_network(run, config, data):
    small = lastax.prune(run[0].model, ratio=0.5)
    tuned = training.fine_tune(small, config, data, epochs=1, rate=1e-9)
    for before, after in zip(lastax.systems(small), lastax.systems(tuned.model), strict=True):
        np.testing.assert_allclose(before.lam, after.lam, atol=1e-6)
    assert lastax.state_counts(tuned.model) == lastax.state_counts(small)


def test_calibration_data_have_no_labels(data):
    batch = training.calibration_batch(data, 5, seed=1)
    assert batch["x"].shape == (5, 16, 2)
    assert "label" not in batch
    # As many as there are.
    assert len(training.calibration_batch(data, 99)["x"]) == 32


def test_impossible_settings_are_named(data):
    with pytest.raises(ValueError, match="no task 'sing'; choose one of speech"):
        training.make_run_config("sing", data, PRESET)
    large = dataclasses.replace(PRESET.training, batch_size=64)
    with pytest.raises(ValueError, match="batch_size 64 is larger than the training split of 32"):
        training.steps_per_epoch(large, data)


def test_a_run_of_an_earlier_version_loads(run, tmp_path):
    found, _ = run
    fields = json.loads((found.folder / "config.json").read_text())
    fields["full_D"] = fields.pop("dense_feedthrough")
    fields["model"]["scan_method"] = "fitting"
    fields["training"]["schedule"] = "textbook"
    fields["training"]["loop"] = fields["training"].pop("scan_layers")
    del fields["model"]["precision"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "model.safetensors").write_bytes((found.folder / "model.safetensors").read_bytes())
    config, _ = training.load_run(tmp_path)
    loaded = training.load_config(found.folder)
    # Before the setting existed, all networks computed in float32, and afterwards by default.
    model = dataclasses.replace(loaded.model, precision="float32")
    assert config == dataclasses.replace(loaded, model=model)
    with pytest.raises(RunError, match=r"lastax\.training\.load_run"):
        lastax.load(tmp_path)


def test_results_of_an_earlier_version_have_the_present_names(tmp_path):
    old = {
        "test": {"before": 0.9, "after": 0.8, "divergence": 0.1, "agreement": 0.85},
        "full_D_states": 4,
        "beside": {"aire": {"test": 0.7}},
        "certificates": [
            {"hinf": 1.0, "bound": 2.0, "h2": 0.5, "hinf_whole": 9.0, "h2_whole": 3.0}
        ],
        "layers": [{"states_before": 4, "unstable": [1]}],
    }
    (tmp_path / "results.json").write_text(json.dumps(old))
    results = training.load_results(tmp_path)
    assert results["test"]["kl_divergence"] == 0.1
    assert results["feedthrough_states"] == 4
    assert results["compared"] == {"aire": {"test": 0.7}}
    assert results["certificates"][0]["hinf_original"] == 9.0
    assert results["layers"] == old["layers"]


def test_a_folder_without_a_run_is_not_resumed(config, data, tmp_path):
    with pytest.raises(RunError, match=r"is no run to resume: there is no config\.json"):
        training.train(config, data, tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()


def test_a_loss_that_is_not_finite_is_null_in_the_results(run, tmp_path):
    found = run[0]._replace(test=run[0].test._replace(loss=float("nan")))
    training.save_results(tmp_path, found.summary())
    assert training.load_results(tmp_path)["test"]["loss"] is None


@pytest.mark.parametrize("content", ["[]", "1", "{"])
def test_damaged_results_are_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunError, match=r"results\.json is missing or damaged"):
        training.load_results(tmp_path)
