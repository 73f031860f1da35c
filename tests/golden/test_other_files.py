"""Tests read lengths, names and ratios from the files: they also pass for a changed folder."""

import json

import numpy as np
import pytest

from . import test_s4d
from .reading import FILES, read_kind

LENGTH = 7


@pytest.fixture
def kind(tmp_path):
    """Bundled S4D files with shorter sequences, and with another name of cases and ratios."""
    facts = json.loads((FILES / "s4d.json").read_text())
    longest = f"/L{max(facts['cfg']['L'])}/"
    facts["cfg"] |= {"L": [LENGTH], "inits": ["lin"], "init_N": facts["cfg"]["init_N"][:1]}
    initial = f"init/lin/N{facts['cfg']['init_N'][0]}/"
    arrays = {}
    with np.load(FILES / "s4d.npz") as stored:
        for name, array in stored.items():
            if longest in name:
                arrays[name.replace(longest, f"/L{LENGTH}/")] = array[..., :LENGTH]
            elif "/L" not in name and (name.startswith(initial) or not name.startswith("init/")):
                arrays[name] = array
    renamed = {
        name.replace("trained/", "another/").replace("_90", "_80"): array
        for name, array in arrays.items()
    }
    np.savez(tmp_path / "s4d.npz", **renamed)
    (tmp_path / "s4d.json").write_text(json.dumps(facts))
    return read_kind(tmp_path, "s4d")


def test_other_lengths_names_and_ratios(kind):
    test_s4d.test_every_array_is_known(kind)
    cases = test_s4d.parameters(kind)
    assert list(cases["length"].values()) == [LENGTH]
    assert "another" in cases["network"]
    assert "another-80" in cases["cut"]
    for case in cases["layer"].values():
        test_s4d.test_kernel(case, LENGTH)
    test_s4d.test_complete_published_layer(cases["network"]["another"], LENGTH)
    test_s4d.test_removal(cases["cut"]["another-80"], kind)
    for start in cases["start"].values():
        test_s4d.test_initial_eigenvalues(start)
