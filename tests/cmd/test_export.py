"""`lastax export --to`: code for machines without lastax."""

import jax
import numpy as np
import pytest

import lastax


@pytest.fixture
def run(tmp_path):
    """A unidirectional run without training."""
    model = lastax.ModelConfig(layers=1, channels=4, states=2, bidirectional=False)
    config = lastax.training.RunConfig(
        task="speech",
        seed=0,
        data=lastax.training.DataConfig("speech", features="log-mel"),
        input_size=3,
        classes=2,
        length=101,
        model=model,
        training=lastax.training.TrainingConfig(),
        states=lastax.training.untrained_counts(model),
    )
    network = lastax.build_network(model, input_size=3, classes=2, key=jax.random.key(0))
    folder = tmp_path / "run"
    folder.mkdir()
    lastax.training.save_config(folder, config)
    lastax.save(folder, network)
    return folder


def test_c_and_safetensors(cli, run, tmp_path):
    network = lastax.load(run)
    words = ("--quantize", "int8", "--name", "word")
    result = cli("export", run, "--to", "c", "--out", "code", *words, "--json").result
    assert result.pop("folder") == "code"
    assert result == lastax.deployment.footprint(network, quantize="int8")._asdict()
    names = {"word.h", "word.c", "word_test.c"}
    assert {path.name for path in (tmp_path / "code").iterdir()} == names
    again = cli("export", run, "--to", "c", "--out", "code")
    assert again.status == 1
    assert "code already exists" in again.stderr

    ended = cli("export", run, "--to", "safetensors", "--out", "net.safetensors")
    assert ended.status == 0
    (one,) = lastax.find_layers(lastax.interop.read("net.safetensors").model)
    np.testing.assert_allclose(one.C, lastax.find_layers(network)[0].C, rtol=1e-6)
