"""Pruned models under the names of the foreign code."""

import ast
import dataclasses
import re
import sys
import zipfile

import jax
import numpy as np
import pytest

import lastax
from lastax._errors import RunError
from lastax.interop import configuration_of, open_contents, read, write
from lastax.interop._torch_files import read_torch_zip
from lastax.nn import Gate

from . import writers


def stored(tmp_path, tree, name="file"):
    path = tmp_path / name
    path.write_bytes(writers.flax_msgpack(tree))
    return path


def kept(model, masks):
    pairs = zip(lastax.find_layers(model), masks, strict=True)
    return lastax.surgery.replace_layers(
        model, [layer.keep(np.asarray(mask, bool)) for layer, mask in pairs]
    )


RAGGED = [[1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1], [1] * 11 + [0]]


@pytest.mark.parametrize("kind", ["s4-pth", "s4-npz", "s4-safetensors"])
def test_channels_of_different_sizes_are_filled_with_zeros(tmp_path, kind):
    network = writers.s4_network()
    small = kept(read(stored(tmp_path, network)).model, RAGGED)
    for pad, sizes in (("layer", [2, 4]), ("network", [4, 4])):
        notes = write(tmp_path / "small", small, format=kind, pad=pad)
        arrays = open_contents(tmp_path / "small").arrays
        root = "model." if kind == "s4-pth" else ""
        for number, (size, mask) in enumerate(zip(sizes, RAGGED, strict=True)):
            path = f"s4_layers.{number}.kernel"
            for name in ("C", "log_A_real", "A_imag"):
                original, rows = network[f"{path}.{name}"], arrays[f"{root}{path}.{name}"]
                assert rows.shape[:2] == (3, size)
                for channel, kept_here in enumerate(np.reshape(mask, (3, 4)).astype(bool)):
                    count = kept_here.sum()
                    np.testing.assert_array_equal(
                        rows[channel, :count], original[channel, kept_here]
                    )
                    assert not rows[channel, count:].any()
        # The first layer has 2, 1 and 1 states, the second 4, 4 and 3.
        assert any("3 states of C = 0 were added" in note for note in notes)
    assert read(tmp_path / "small").model.encoder.blocks[0].layer.counts == (4, 4, 4)
    with pytest.raises(RunError, match=r"layers \[0, 1\] have different numbers of states"):
        write(tmp_path / "refused", small, format=kind, pad="refuse")
    assert not (tmp_path / "refused").exists()


def test_a_pruned_network_replaces_that_of_the_original_file(tmp_path):
    variables = writers.s5_network()
    path = stored(tmp_path, variables | {"step": 3, "note": "mine"})
    imported = read(path)
    small = kept(imported.model, [[1, 0, 1, 0], [1, 1, 1, 0]])
    notes = write(tmp_path / "small", small, like=imported)
    assert notes == ("the layers have different sizes: 2, 3 states",)
    contents = open_contents(tmp_path / "small")
    assert contents.container == "msgpack"
    assert contents.values == {"step": 3, "note": "mine"}
    original = variables["params"]["encoder"]["layers_0"]["seq"]["B"]
    np.testing.assert_array_equal(
        contents.arrays["params.encoder.layers_0.seq.B"], original[[0, 2]]
    )
    again = read(tmp_path / "small").model
    for old, new in zip(jax.tree.leaves(small), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(new, old)
    # One size for all layers, as their constructor wants it.
    write(tmp_path / "filled", small, like=imported, pad="network")
    filled = read(tmp_path / "filled").model.encoder.blocks[0].layer
    np.testing.assert_array_equal(filled.C[:, 2], np.zeros((3, 2)))
    np.testing.assert_array_equal(filled.B[:2], original[[0, 2]])
    assert filled.Lambda_re[2] < 0


def test_other_contents_of_a_training_checkpoint_stay(tmp_path, monkeypatch):
    for name, module in writers.fake_torch().items():
        monkeypatch.setitem(sys.modules, name, module)
    network = writers.s4_network()
    optimizer = {
        "state": {0: {"step": 3, "exp_avg": network["s4_layers.0.kernel.A_imag"]}},
        "param_groups": [{"lr": 0.1, "betas": [0.9, 0.99], "params": [0]}],
    }
    average = {f"ema_model.{name}": array for name, array in network.items()}
    state = {f"model.{name}": array for name, array in network.items()} | average
    tree = {"state_dict": state, "optimizer_states": [optimizer], "epoch": 3, "loops": {}}
    # Without the optimizer, only the average remains beside the model.
    (tmp_path / "last.ckpt").write_bytes(writers.torch_zip({"state_dict": state}))
    imported = read(tmp_path / "last.ckpt")
    (note,) = write(tmp_path / "small", kept(imported.model, [[1, 0, 0, 0] * 3] * 2), like=imported)
    assert "6 arrays of optimizers or copies of the model, such as state_dict.ema_model" in note
    (tmp_path / "last.ckpt").write_bytes(writers.torch_zip(tree))
    imported = read(tmp_path / "last.ckpt")
    assert write(tmp_path / "again", imported.model, like=imported) == ()
    with zipfile.ZipFile(tmp_path / "again") as archive:
        again = read_torch_zip(tmp_path / "again", archive)
    # The integer keys and the lists are those that the optimizer needs.
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    small = kept(imported.model, [[1, 0, 0, 0] * 3] * 2)
    (note,) = write(tmp_path / "small", small, like=imported)
    # One of the optimizer, and C, log_A_real and A_imag of two averaged layers.
    assert "7 arrays of optimizers or copies of the model, such as optimizer_states.0" in note
    note, _ = write(tmp_path / "small", small, like=imported, format="npz")
    assert "npz holds only arrays, so 7 other values are left out" in note
    with pytest.raises(RunError, match="an Equinox file can only be written like="):
        write(tmp_path / "refused", small, like=imported, format="eqx")


def test_layers_alone_replace_those_of_the_original_file(tmp_path):
    tree = {f"blocks.{i}.ssm": writers.s5_layer(seed=i) for i in range(11)}
    tree |= {"mine": {"weight": np.ones((2, 3), np.float16)}}
    imported = read(stored(tmp_path, tree))
    assert imported.path is None
    masks = [np.arange(4) <= int(path.split(".")[1]) % 2 for path in imported.layer_paths]
    small = kept(imported.model, masks)
    write(tmp_path / "small", small, like=imported)
    contents = open_contents(tmp_path / "small")
    for number in range(11):
        size = number % 2 + 1
        expected = tree[f"blocks.{number}.ssm"]["Lambda_im"][:size]
        np.testing.assert_array_equal(contents.arrays[f"blocks.{number}.ssm.Lambda_im"], expected)
    assert contents.arrays["mine.weight"].dtype == np.float16
    assert contents.arrays.keys() == imported.contents.arrays.keys()


def test_formats_refuse_what_they_cannot_express(tmp_path):
    s4 = read(stored(tmp_path, writers.s4_network())).model
    s5 = read(stored(tmp_path, writers.s5_network())).model
    for model, kind, message in (
        (s5, "s4-pth", "its activation is half_glu1, the format has full_glu, gelu"),
        (s4, "s5-msgpack", "the layer is a S4D, the format has S5"),
        (s4.encoder.blocks[0].layer, "minimal-lru", "the layer is a S4D, the format has LRU"),
        (s5, "linoss-npz", "single layers only"),
    ):
        with pytest.raises(RunError, match=message):
            write(tmp_path / "refused", model, format=kind)
    layer = s4.encoder.blocks[0].layer
    both = dataclasses.replace(layer, C_reverse=layer.C)
    with pytest.raises(RunError, match="the layer is bidirectional, the format is not"):
        write(tmp_path / "refused", both)
    with pytest.raises(ValueError, match="unknown format 's4-onnx'"):
        write(tmp_path / "refused", s4, format="s4-onnx")
    assert not (tmp_path / "refused").exists()


def test_pairs_are_written_out_for_code_without_conjugates(tmp_path):
    layer = read(stored(tmp_path, writers.s5_layer())).model
    assert layer.conj_sym
    write(tmp_path / "file", layer, format="s5-pytorch-pth")
    arrays = open_contents(tmp_path / "file").arrays
    # The format has no factor 2 for the conjugates that are not stored.
    C = np.asarray(layer.C)
    np.testing.assert_array_equal(arrays["C"], 2 * (C[..., 0] + 1j * C[..., 1]))
    np.testing.assert_array_equal(
        arrays["Lambda"], np.asarray(layer.Lambda_re + 1j * layer.Lambda_im)
    )
    assert read(tmp_path / "file").model.conj_sym is False


@pytest.mark.parametrize("precision", lastax.nn.PRECISIONS)
def test_a_configuration_has_the_precision_of_the_network(precision):
    config = lastax.ModelConfig(layers=1, channels=4, states=4, precision=precision)
    network = lastax.build_network(config, input_size=2, classes=3, key=jax.random.key(0))
    assert configuration_of(network).precision == precision


def test_configurations_need_equal_blocks(tmp_path):
    network = read(stored(tmp_path, writers.s5_network())).model
    assert configuration_of(network).norm == "batch"
    with pytest.raises(ValueError, match="no configuration describes this network"):
        configuration_of(kept(network, [[1, 0, 1, 0], [1] * 4]))
    block = network.encoder.blocks[0]
    blocks = (
        dataclasses.replace(block, gate=Gate(None, None, "gelu")),
        *network.encoder.blocks[1:],
    )
    encoder = dataclasses.replace(network.encoder, blocks=blocks)
    with pytest.raises(ValueError, match="no configuration describes this network"):
        configuration_of(dataclasses.replace(network, encoder=encoder))


def foreign_free(**settings):
    settings = {"layers": 2, "channels": 4, "states": 4, "bidirectional": False} | settings
    config = lastax.ModelConfig(**settings)
    return lastax.build_network(config, input_size=2, classes=3, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("settings", "kind", "unstored"),
    [
        ({"layer": "s4d", "activation": "full_glu"}, "s4", {"pooling", "prenorm", "gelu"}),
        ({"layer": "s5", "activation": "half_glu2"}, "s5", {"pooling", "activation"}),
        ({"layer": "lru", "activation": "full_glu"}, "minimal-lru", {"pooling"}),
    ],
)
def test_settings_that_a_file_cannot_hold_are_named(tmp_path, settings, kind, unstored):
    network = foreign_free(pooling="last", dropout=0.0, mask_padding=False, **settings)
    (note,) = write(tmp_path / "file", network, format=kind)
    named = dict(re.findall(r"(\w+)=('?\w+'?)", note))
    assert named.keys() == unstored
    # With them, the file has the same outputs; without them, it has others.
    x = {"x": np.random.default_rng(0).normal(size=(2, 9, 2)).astype(np.float32)}
    options = {name: ast.literal_eval(value) for name, value in named.items()}
    again = read(tmp_path / "file", **options).model
    expected = lastax.predict(network, x)
    np.testing.assert_allclose(lastax.predict(again, x), expected, rtol=1e-4, atol=1e-5)
    other = lastax.predict(read(tmp_path / "file").model, x)
    assert np.abs(other - expected).max() > 1e-3


def test_public_lru_networks_have_both_maps_of_a_gate(tmp_path):
    network = foreign_free(layer="lru", activation="half_glu1")
    with pytest.raises(RunError, match="its activation is half_glu1, the format has full_glu"):
        write(tmp_path / "refused", network, format="minimal-lru")


def test_a_network_with_other_layers_does_not_replace_that_of_a_file(tmp_path):
    imported = read(stored(tmp_path, writers.s5_network()))
    encoder = imported.model.encoder
    shorter = dataclasses.replace(encoder, blocks=encoder.blocks[:1])
    model = dataclasses.replace(imported.model, encoder=shorter)
    with pytest.raises(RunError, match="numbers of layers differ: 1 in the model, 2 in the file"):
        write(tmp_path / "refused", model, like=imported)
