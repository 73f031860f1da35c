"""The folder of golden files itself: every kind is there, and none that no test knows."""

import pytest

KINDS = {
    "hippo_dplr", "discretize", "s5_ssm", "s5_model", "scores", "pruned", "error_bound",
    "optimizer",
}  # fmt: skip
LATER = {"s4d": "S4D layers come later"}


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_folder_holds_the_known_kinds(folder, suffix):
    found = {path.stem for path in folder.glob(f"*{suffix}")}
    assert found >= KINDS
    assert found <= KINDS | set(LATER), "no test module knows these kinds"


@pytest.mark.parametrize("name", LATER)
def test_later_kinds(folder, name):
    if (folder / f"{name}.npz").exists():
        pytest.skip(f"{name}: {LATER[name]}")
