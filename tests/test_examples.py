"""What the README and the examples show runs, and prints what they say."""

import re
import runpy
from pathlib import Path

import pytest

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


def test_the_readme_shows_python():
    assert SNIPPETS


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_python_of_the_readme_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
