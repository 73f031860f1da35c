"""`lastax export --to`: code for machines without lastax."""

import jax
import numpy as np
import pytest

import lastax

from ..runs import untrained_run


@pytest.fixture
def run(tmp_path):
    """A unidirectional run without training and without data."""
    model = lastax.ModelConfig(layers=1, channels=4, states=2, bidirectional=False)
    folder = tmp_path / "run"
    gone = lastax.training.DataConfig("arrays", data="gone.npz")
    untrained_run(folder, model, task="arrays", data=gone, input_size=3, classes=2)
    return folder


def test_c_and_safetensors(cli, run, tmp_path):
    network = lastax.load(run)
    words = ("--quantize", "int8", "--name", "word")
    ended = cli("export", run, "--to", "c", "--out", "code", *words, "--json")
    result = ended.result
    assert result.pop("folder") == "code"
    # The data of the run are gone.
    rounding = result.pop("rounding")
    assert 1e-4 < rounding["logit_difference"] < 0.03
    assert rounding["calibration_sequences"] == 0
    assert "activations keep float32, and " in ended.stderr
    assert "the accuracy was not measured: file not found: " in ended.stderr
    assert result == lastax.deployment.footprint(network, quantize="int8")._asdict()
    names = {"word.h", "word.c", "word_test.c"}
    assert {path.name for path in (tmp_path / "code").iterdir()} == names
    again = cli("export", run, "--to", "c", "--out", "code")
    assert again.status == 1
    assert "code already exists" in again.stderr
    needed = cli("export", run, "--to", "c", "--out", "new", *words, "--calibration", "8")
    assert needed.status == 1
    assert "file not found: " in needed.stderr
    assert not (tmp_path / "new").exists()

    ended = cli("export", run, "--to", "safetensors", "--out", "net.safetensors")
    assert ended.status == 0
    (one,) = lastax.find_layers(lastax.interop.read("net.safetensors").model)
    np.testing.assert_allclose(one.C, lastax.find_layers(network)[0].C, rtol=1e-6)


def test_rounding_shows_its_accuracy(cli, tmp_path):
    """On the records of the run, by an untrained network."""
    x = np.random.default_rng(0).normal(size=(60, 12, 2))
    np.savez("own.npz", x_train=x, y_train=np.arange(60) % 2)
    preset = lastax.training.Preset(
        lastax.ModelConfig(layers=1, channels=4, states=2, bidirectional=False),
        lastax.training.TrainingConfig(epochs=1),
    )
    data_config = lastax.training.DataConfig("arrays", data="own.npz")
    data = lastax.data.open_data(data_config)
    config = lastax.training.make_run_config("arrays", data, preset, data_config=data_config)
    network = lastax.build_network(config.model, input_size=2, classes=2, key=jax.random.key(0))
    lastax.save("run", network)
    lastax.training.save_config("run", config)
    before = lastax.training.evaluate_split(network, data, "test").accuracy
    # By default, all 48 records that are for training.
    for sequences, words in ((0, ("--calibration", "0")), (48, ())):
        command = ("export", "run", "--to", "c", "--out", f"code-{sequences}", *words)
        ended = cli(*command, "--quantize", "int8", "--json")
        assert ended.stderr == ""
        found = ended.result["rounding"]
        assert found["calibration_sequences"] == sequences
        batch = lastax.training.calibration_batch(data, 64) if sequences else None
        rounded = lastax.deployment.quantized_cell(network, calibration=batch)
        after = lastax.training.evaluate_split(rounded, data, "test").accuracy
        assert (found["accuracy_before"], found["accuracy_after"]) == (before, after)
        assert 0 < found["agreement"] <= 1
        code = (tmp_path / f"code-{sequences}/model.c").read_text()
        assert ("add_product_of_integers" in code) == (sequences > 0)
    ended = cli("export", "run", "--to", "c", "--out", "net", "--calibration", "8")
    assert ended.status == 2
    assert "--calibration has no effect without --quantize" in ended.stderr
    ended = cli("export", "run", "--to", "stablehlo", "--out", "net", "--quantize", "int8")
    assert ended.status == 2
    assert "--quantize has no effect without --to c, onnx, onnx-sequence" in ended.stderr


@pytest.mark.slow
def test_activations_in_8_bits_keep_the_accuracy_on_speech(cli):
    """After two epochs. docs/device.md has networks after all epochs: at most 1.0 points."""
    words = ("--task", "speech", "--no-bidirectional", "--epochs", "2", "--out", "run")
    assert cli("train", *words).status == 0
    words = ("--to", "c", "--out", "code", "--quantize", "int8", "--json")
    found = cli("export", "run", *words).result["rounding"]
    assert found["calibration_sequences"] == 64
    assert found["accuracy_before"] > 0.4
    assert abs(found["accuracy_after"] - found["accuracy_before"]) < 0.015
    assert 0.95 < found["agreement"] < 1
