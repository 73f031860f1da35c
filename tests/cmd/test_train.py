"""`lastax train`: the files of a run, and stopping and resuming it."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.numpy

import lastax

from ..runs import untrained_run
from .conftest import SHORT, TINY


def metrics(folder):
    """The log without times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    times = {"seconds": None, "steps_per_second": None, "data_wait": None}
    return [json.loads(line) | times for line in lines]


def test_a_run_holds_configuration_weights_and_results(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["states"] == [4, 4]
    assert config["model"]["channels"] == 8
    assert config["training"]["epochs"] == 2
    assert config["versions"].keys() >= {"lastax", "jax", "equinox"}
    assert [record["epoch"] for record in metrics(trained)] == [1, 2]
    weights = safetensors.numpy.load_file(trained / "model.safetensors")
    assert weights["encoder.blocks.1.layer.B"].shape == (4, 8, 2)
    results = json.loads((trained / "results.json").read_text())
    best = max(record["validation_accuracy"] for record in metrics(trained))
    assert results["validation"]["accuracy"] == pytest.approx(best)
    assert results["test"]["examples"] == 841


def test_training_learns(trained):
    first, second = metrics(trained)
    assert second["train_loss"] < first["train_loss"] < 2.6
    assert second["validation_accuracy"] > 0.15  # chance is 0.1 for ten words


@pytest.mark.parametrize("moment", ["between steps", "at the end of an epoch"])
def test_killed_and_resumed_is_bit_identical(cli, trained, start, tmp_path, moment):
    folder = tmp_path / "killed"
    process = start("train", "--task", "speech", *SHORT, *TINY, "--out", folder)
    checkpoints = folder / "checkpoints"
    deadline = time.monotonic() + 200
    if moment == "between steps":
        # After the first checkpoint, inside the second epoch.
        wanted = lambda: any(checkpoints.glob("*/_CHECKPOINT_METADATA"))  # noqa: E731
    else:
        # The line of an epoch is in the log before its checkpoint is complete.
        wanted = lambda: (folder / "metrics.jsonl").exists() and metrics(folder)  # noqa: E731
    while not wanted():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "model.safetensors").exists()

    resumed = cli("train", "--task", "speech", "--out", folder, "--resume")
    assert resumed.status == 0, resumed.stderr
    assert re.search(r"\d steps/s  data wait \d+ %", resumed.stderr)
    assert (folder / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()
    assert metrics(folder) == metrics(trained)


def test_resume_refuses_other_settings(cli, trained):
    ended = cli("train", "--task", "speech", "--out", trained, "--resume", "--channels", 16)
    assert ended.status == 2
    assert "--channels 16: the run has 8" in ended.stderr


def test_a_finished_run_is_not_resumed(cli, trained):
    ended = cli("train", "--task", "speech", "--out", trained, "--resume")
    assert ended.status == 1
    assert "has finished" in ended.stderr


def test_a_diverging_run_stops_and_keeps_its_checkpoint(cli, tmp_path):
    arguments = ("train", "--task", "speech", *TINY, "--out", tmp_path / "run", "--epochs", 3)
    ended = cli(*arguments, "--learning-rate", 1e30, "--ssm-learning-rate", 1e30)
    assert ended.status == 1
    assert "training diverged at step" in ended.stderr
    assert "lower learning rates" in ended.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
    evaluated = cli("evaluate", tmp_path / "run")
    resumed = cli("train", "--task", "speech", "--out", tmp_path / "run", "--resume")
    assert evaluated.status == resumed.status == 1
    assert "training diverged at step" in evaluated.stderr
    assert "would fail again" in resumed.stderr
    # A diverged run would diverge again, so `--if-missing` does not resume it.
    assert lastax.training.find_runs(tmp_path, finished=False) == []


@pytest.mark.parametrize("moment", ["while compiling", "after an epoch"])
def test_an_interrupted_run_prints_how_to_resume(start, cache, trained, tmp_path, moment):
    folder, fresh = tmp_path / "run", {}
    if moment == "while compiling":
        # A cache of features, but of no compiled program.
        fresh = {"LASTAX_CACHE": str(tmp_path)}
        for features in cache.glob("speech-*.npz"):
            shutil.copy(features, tmp_path)
    # The imported module may register what the run needs.
    arguments = ["--import", "json", "train", "--task", "speech", "--epochs", 9, *TINY]
    process = start(*arguments, "--out", folder, **fresh)
    sign = folder / ("config.json" if moment == "while compiling" else "metrics.jsonl")
    deadline = time.monotonic() + 200
    while not sign.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Compilation takes seconds.
    time.sleep(1 if moment == "while compiling" else 0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    command = f"lastax --import=json train --task speech --out {folder} --resume"
    assert command in errors.splitlines()[-1]
    assert "Traceback" not in errors


LOST = """
import gc, signal, time
from lastax.cmd._console import keep_interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
keep_interrupts()

def interrupt(*arguments):
    gc.callbacks.clear()
    signal.raise_signal(signal.SIGINT)

gc.callbacks.append(interrupt)
try:
    gc.collect()
    for _ in range(2000):
        time.sleep(0.01)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_during_garbage_collection_is_sent_again():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True)
    assert done.stdout == "interrupted\n"
    assert done.stderr == ""


def test_a_penalty_weight_needs_a_penalty(cli):
    ended = cli("train", "--task", "speech", "--penalty-weight", 0.5)
    assert ended.status == 2
    assert "--penalty-weight has no effect without --state-penalty" in ended.stderr


def test_a_reduction_is_chosen_by_its_share_and_not_repeated(cli, tmp_path):
    ended = cli("train", "--task", "speech", "--reduce-epochs", 2)
    assert ended.status == 2
    assert "--reduce-epochs has no effect without --reduce-during-training" in ended.stderr
    wrong = cli("train", "--task", "speech", "--reduce-during-training", 1)
    assert "reduce_during_training must be in [0, 1); got 1.0" in wrong.stderr
    untrained_run(tmp_path, lastax.ModelConfig(layers=1, channels=4, states=2))
    config = lastax.training.load_config(tmp_path)
    reduced = dataclasses.replace(config.training, reduce_during_training=0.5)
    lastax.training.save_config(tmp_path, dataclasses.replace(config, training=reduced))
    # A run that starts from a smaller network keeps its size, unless it is asked to reduce it.
    for flags, share in (((), 0), (("--reduce-during-training", 0.3), 0.3)):
        shown = cli("train", "--from", tmp_path, *flags, "--show-settings", "--json").result
        assert shown["training"]["reduce_during_training"] == share


def test_if_missing_resumes_only_a_run_with_the_same_settings(cli, tmp_path):
    base = tmp_path / "runs/speech"
    settings = lastax.ModelConfig(layers=2, channels=8, states=4)
    untrained_run(base / "one", settings)
    for name in ("model.safetensors", "results.json"):
        (base / "one" / name).unlink(missing_ok=True)
    assert lastax.training.find_runs("runs", finished=False) == [Path("runs/speech/one")]
    shown = []
    for flags in (("--channels", 8), ("--channels", 16)):
        ended = cli("train", "--task", "speech", "--if-missing", "--show-settings", *flags)
        shown.append(re.search(r"--layers \d", ended.stdout)[0])
    # The other one would start with the settings of the preset.
    assert shown == ["--layers 2", "--layers 4"]


def test_settings_of_the_run_to_resume_are_shown(cli, trained):
    ended = cli("train", "--task", "speech", "--out", trained, "--resume", "--show-settings")
    assert ended.status == 0
    assert "--channels 8" in ended.stdout
