"""StableHLO files give the logits of the network, in a process that has JAX and not lastax."""

import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from lastax._errors import MissingPackageError
from lastax.deployment import to_stablehlo

from .networks import (
    UNIDIRECTIONAL,
    assert_close,
    full_and_pruned,
    inputs,
    logits,
    lru,
    network,
    s4d,
    s5,
    streaming,
)

# The length is above or below that of one piece of a recurrence.
WHOLE = {
    "mixture": (
        (1, 150),
        lambda: network(s5(bidirectional=True, scan_method="associative"), s4d(bidirectional=True)),
    ),
    "pairs": ((2, 7), lambda: network(lru(bidirectional=True), head="retrieval", tokens=True)),
}
READER = """
import pathlib, sys
import jax, jax.export, numpy
for path in pathlib.Path(sys.argv[1]).glob("*.bin"):
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda")
    x = numpy.load(path.with_name(path.stem + "-x.npy"))
    numpy.save(path.with_name(path.stem + "-y.npy"), exported.call(x))
assert "lastax" not in sys.modules and "equinox" not in sys.modules
"""


@pytest.fixture
def flatbuffers():
    pytest.importorskip("flatbuffers", reason="files of StableHLO need the package flatbuffers")


def test_a_process_without_lastax_computes_the_logits(flatbuffers, tmp_path):
    wanted = {}
    for name, (size, make) in WHOLE.items():
        model = make()
        to_stablehlo(model, tmp_path / f"{name}.bin")
        x = inputs(model, *size)
        if name == "pairs":
            x = np.stack([x, x[:, ::-1]], axis=1)
        np.save(tmp_path / f"{name}-x.npy", x)
        wanted[f"{name}-y.npy"] = logits(model, x)
    subprocess.run([sys.executable, "-c", READER, str(tmp_path)], check=True)
    for file, values in wanted.items():
        assert_close(np.load(tmp_path / file), values)


def test_steps_give_the_logits_of_the_network(flatbuffers, tmp_path):
    model = UNIDIRECTIONAL["layer norm"]()
    to_stablehlo(streaming(model), tmp_path / "step.bin")
    exported = jax.export.deserialize(bytearray((tmp_path / "step.bin").read_bytes()))
    step = jax.jit(exported.call)
    x = inputs(model, 2, 20)
    _, state = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
    assert "layers.0.value" in state
    state = {name: np.zeros((2, *a.shape[1:]), a.dtype) for name, a in state.items()}
    for k in range(20):
        found, state = step(x[:, k], state)
    assert_close(found, logits(model, x))


def test_a_pruned_network_gives_a_smaller_file_with_fewer_operations(flatbuffers, tmp_path):
    def measure(model):
        to_stablehlo(streaming(model, compensated=False), tmp_path / "step.bin")
        content = (tmp_path / "step.bin").read_bytes()
        # No names of files on this machine.
        assert b".py" not in content
        exported = jax.export.deserialize(bytearray(content))
        _, state = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
        state = {name: np.zeros((1, *a.shape[1:]), a.dtype) for name, a in state.items()}
        lowered = jax.jit(exported.call).lower(np.zeros((1, 3), np.float32), state)
        return len(content), lowered.compile().cost_analysis()["flops"]

    (size, flops), (small_size, small_flops) = map(measure, full_and_pruned())
    # 48 of 80 states are removed, each with 16 numbers in B and C.
    assert size - small_size > 48 * 16 * 4
    assert flops - small_flops > 48 * 16 * 2


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(MissingPackageError, match=r"to_stablehlo needs flatbuffers: .*\[cli\]"):
        to_stablehlo(UNIDIRECTIONAL["postnorm"](), tmp_path / "net.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("platforms", ["cpu", (), ("cpu", "npu")])
def test_unknown_platforms_are_refused(tmp_path, platforms):
    with pytest.raises((ValueError, TypeCheckError), match="platforms"):
        to_stablehlo(UNIDIRECTIONAL["postnorm"](), tmp_path / "net.bin", platforms=platforms)
    assert not list(tmp_path.iterdir())
