"""The folder of golden files has every kind that tests read, and no others."""

import pytest

KINDS = {
    "hippo_dplr", "discretize", "s5_ssm", "s5_model", "scores", "pruned", "error_bound",
    "optimizer", "s4d",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_folder_holds_the_known_kinds(folder, suffix):
    found = {path.stem for path in folder.glob(f"*{suffix}")}
    assert found >= KINDS
    assert found <= KINDS, "no test module knows these kinds"
