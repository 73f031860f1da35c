"""What the README and the examples show runs, and prints what they say."""

import re
import runpy
import sys
from pathlib import Path

import jax
import pytest

import lastax

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_a_network_of_ones_own_is_pruned(capsys):
    runpy.run_path(str(ROOT / "examples/prune_your_own.py"))
    states, shape, change = capsys.readouterr().out.splitlines()
    before, after = re.findall(r"\[(\d+), (\d+)\]", states)
    assert before == ("32", "32")
    assert sum(map(int, after)) == 32
    assert shape == f"shape of B: (32, 8, 2) -> ({after[0]}, 8, 2)"
    assert 0 < float(change.split()[-1]) < 0.1


@pytest.mark.slow
def test_drift_is_measured_on_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    model = lastax.ModelConfig(layers=2, channels=8, states=4)
    config = lastax.training.RunConfig(
        task="speech",
        seed=0,
        data=lastax.training.DataConfig("speech", features="log-mel"),
        input_size=40,
        classes=10,
        length=101,
        model=model,
        training=lastax.training.TrainingConfig(),
        states=lastax.training.untrained_counts(model),
    )
    network = lastax.build_network(model, input_size=40, classes=10, key=jax.random.key(0))
    lastax.training.save_config(tmp_path, config)
    lastax.save(tmp_path, network)
    monkeypatch.setattr(sys, "argv", ["calibration_drift.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "examples/calibration_drift.py"))
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.split() == ["removed", "70", "%", "90", "%"]
    assert len(rows) == 9
    for row in rows:
        assert all(0 <= float(value) <= 100 for value in row.split()[-2:])


def test_the_readme_shows_python():
    assert SNIPPETS


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_python_of_the_readme_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
