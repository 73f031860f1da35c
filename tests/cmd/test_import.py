"""`lastax --import MODULE`: methods of users appear in every command."""

import sys

import pytest

import lastax
from lastax.pruning import _methods

MODULE = """
import lastax

lastax.register_method("slowest", lastax.Method(lambda system, _: abs(system.lam), "slow first"))
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "slow_states.py").write_text(MODULE)
    monkeypatch.delenv("LASTAX_IMPORT", raising=False)
    monkeypatch.setenv("LASTAX_IMPORT", "")
    yield "slow_states"
    sys.modules.pop("slow_states", None)
    _methods._METHODS.pop("slowest", None)


def test_a_method_of_a_module_prunes_and_sweeps(cli, trained, own_module, tmp_path):
    out = tmp_path / "small"
    pruned = cli(
        "--import", own_module, "prune", trained, "--method", "slowest", "--out", out, "--json"
    )
    assert pruned.result["method"] == "slowest"
    kept = [abs(system.lam).min() for system in lastax.systems(lastax.load(out))]
    assert min(kept) > 0
    swept = cli(
        "--import", own_module, "sweep", trained, "--methods", "slowest", "--ratios", "0.3",
        "--limit", 16, "--out", tmp_path / "sweep", "--json",
    )  # fmt: skip
    assert [cell["method"] for cell in swept.result["cells"]] == ["unpruned", "slowest"]


def test_a_missing_module_is_named(cli, monkeypatch):
    monkeypatch.setenv("LASTAX_IMPORT", "")
    ended = cli("--import", "no_such_module", "score")
    assert ended.status == 2
    assert "--import no_such_module" in ended.stderr
