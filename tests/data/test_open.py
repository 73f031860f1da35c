"""`open_data`, `reopen_data`, `data_settings`: settings, paths, and data of a run."""

import dataclasses
import pathlib

import numpy as np
import pytest

from lastax.data import DataError, data_settings, open_data, reopen_data
from lastax.training import TASKS, DataConfig, make_run_config


def save(path, classes=2, length=6):
    rng = np.random.default_rng(0)
    labels = np.arange(24) % classes
    np.savez(path, x_train=rng.normal(size=(24, length, 2)), y_train=labels)


@pytest.fixture
def own(tmp_path):
    save(tmp_path / "own.npz")
    return tmp_path / "own.npz"


def run_config(data, config):
    task = TASKS["arrays"]
    return make_run_config("arrays", data, next(iter(task.presets.values())), data_config=config)


def test_a_name_and_a_configuration_open_the_same_data(own):
    by_name = open_data("arrays", data=own)
    by_config = open_data(DataConfig("arrays", data=str(own)))
    assert by_name.records("train") == by_config.records("train") == 20
    for index in range(20):
        np.testing.assert_array_equal(
            by_name.sources["train"][index]["x"], by_config.sources["train"][index]["x"]
        )


def test_length_and_every_select_steps(own):
    complete = open_data("arrays", data=own).sources["test"][0]["x"]
    data = open_data("arrays", data=own, length=5, every=2)
    assert data.length == 3
    np.testing.assert_array_equal(data.sources["test"][0]["x"], complete[:5:2])


def test_settings_replace_those_of_the_configuration_unless_they_are_none(own):
    config = DataConfig("arrays", data=str(own), length=4)
    assert open_data(config, length=3).length == 3
    assert open_data(config, length=None).length == 4


@pytest.mark.parametrize(
    ("name", "settings", "error", "words"),
    [
        ("opera", {}, DataError, "no data set 'opera'; choose one of .*speech"),
        ("arrays", {}, DataError, r"open_data: arrays needs data= \(--data FILE"),
        ("speech", {"level": "hard"}, ValueError, "level is not a setting of speech.*features"),
        ("listops", {"rate": 8000}, ValueError, "rate is not a setting of listops"),
        ("speech", {"colour": 1}, ValueError, "open_data: no setting 'colour'"),
        ("speech", {"name": "text"}, ValueError, "open_data: no setting 'name'"),
        ("speech", {"every": 0}, ValueError, "every must be at least 1; got 0"),
        ("speech", {"length": 102}, ValueError, "length must be at most 101"),
    ],
)
def test_wrong_settings_are_named(name, settings, error, words):
    with pytest.raises(error, match=words):
        open_data(name, **settings)


def test_a_configuration_with_settings_of_another_data_set_is_refused():
    with pytest.raises(ValueError, match="level is not a setting of speech"):
        open_data(DataConfig("speech", level="hard"))


def test_settings_lose_none_and_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_settings("arrays", {"data": "own.npz", "length": None, "every": 2}) == {
        "data": str(tmp_path / "own.npz"),
        "every": 2,
    }
    home = str(pathlib.Path("~/own.npz").expanduser().resolve())
    assert data_settings("arrays", {"data": "~/own.npz"}) == {"data": home}


def test_a_run_finds_its_data_also_if_they_were_moved(own, tmp_path):
    config = DataConfig("arrays", data=str(own), every=2)
    run = run_config(open_data(config), config)
    assert reopen_data(run).length == 3
    own.rename(tmp_path / "moved.npz")
    with pytest.raises(DataError, match=r"own\.npz"):
        reopen_data(run)
    assert reopen_data(run, data=tmp_path / "moved.npz").length == 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"classes": 3}, r"classes: 3 \('0' '1' '2'\); the run has 2 \('0' '1'\)"),
        ({"length": 7}, "steps per record: 7; the run has 6"),
    ],
)
def test_data_of_another_shape_are_refused(own, tmp_path, other, words):
    config = DataConfig("arrays", data=str(own))
    run = run_config(open_data(config), config)
    save(tmp_path / "other.npz", **other)
    with pytest.raises(DataError, match=words):
        reopen_data(run, data=tmp_path / "other.npz")


def test_data_of_a_run_with_an_unknown_data_set_are_refused(own):
    config = DataConfig("arrays", data=str(own))
    run = run_config(open_data(config), config)
    run = dataclasses.replace(run, data=DataConfig("opera"))
    with pytest.raises(DataError, match="no data set 'opera'"):
        reopen_data(run)
