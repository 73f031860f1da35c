"""Imported models compute what the foreign code computes, and are written back unchanged."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax._errors import RunError
from lastax.interop import FORMATS, configuration_of, open_contents, read, write

from .cases import S4_NETWORK, S4D_LAYER, TRAINED, TRAINED_OTHER_GELU, cases


def difference(y, reference):
    return np.max(np.abs(np.asarray(y) - reference)) / np.max(np.abs(reference))


@jax.jit
def outputs(model, x, lengths=None, u=None):
    """Outputs for one input or several, and those of the first layer for channels-first `u`."""
    if u is not None:
        layer = jax.vmap(model.encoder.blocks[0].layer)(u.swapaxes(1, 2))
        return jax.vmap(model)(x), layer.swapaxes(1, 2)
    if x.ndim == 2:
        return model(x)
    return jax.vmap(model)(x) if lengths is None else jax.vmap(model)(x, lengths)


def test_outputs_are_those_of_the_foreign_code(case):
    if case.refused:
        with pytest.raises(RunError, match="as many outputs as inputs"):
            read(case.file, **case.options)
        return
    imported = read(case.file, **case.options)
    assert imported.format == case.format
    if not case.outputs:
        return
    arrays = case.arrays
    y = outputs(imported.model, arrays[case.inputs], arrays.get("lengths"), arrays.get("layer0_u"))
    if "layer0_u" in arrays:
        y, layer = y
        assert difference(layer, arrays["layer0_before_gelu"]) <= S4D_LAYER
    if case.log_softmax:
        y = jax.nn.log_softmax(y)
    compared = {name: bound for name, bound in case.outputs.items() if name in case.arrays}
    assert compared
    for name, bound in compared.items():
        assert difference(y, case.arrays[name]) <= bound, name


def test_a_foreign_file_is_written_back_as_it_was(case, tmp_path):
    if case.refused or case.format == "linoss":
        return
    options = case.options | ({"step_rescale": 1.0} if "step_rescale" in case.options else {})
    imported = read(case.file, **options)
    path = tmp_path / "again"
    write(path, imported.model, like=imported)
    again = open_contents(path)
    for name, array in imported.contents.arrays.items():
        assert again.arrays[name].dtype == array.dtype, name
        np.testing.assert_allclose(again.arrays[name], array, rtol=1e-6, atol=1e-7, err_msg=name)
    assert again.arrays.keys() == imported.contents.arrays.keys()
    assert again.values == imported.contents.values
    assert again.paths == imported.contents.paths


def test_a_model_is_read_bit_for_bit_as_it_was_written(case, tmp_path):
    if case.refused or case.format in ("linoss", "discretax"):
        return
    imported = read(case.file, **case.options)
    given = {name: getattr(imported.options, name) for name in FORMATS[case.format].options}
    path = tmp_path / "file"
    write(path, imported.model, format=case.format)
    again = read(path, format=case.format, **(given | _unscaled(given)))
    before, after = jax.tree.leaves(imported.model), jax.tree.leaves(again.model)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
    assert jax.tree.structure(again.model) == jax.tree.structure(imported.model)


def _unscaled(options):
    return {"step_rescale": 1.0} if "step_rescale" in options else {}


def test_networks_have_a_configuration(golden_import):
    # The last network of each format.
    networks = {case.format: case for case in cases(golden_import).values() if "x" in case.arrays}
    for case in networks.values():
        imported = read(case.file, **case.options)
        config = configuration_of(imported.model)
        network = jax.eval_shape(
            lambda key, config=config: lastax.build_network(
                config, input_size=1, classes=1, key=key
            ),
            jax.random.key(0),
        )
        # The epsilon and the form of GELU are static, so they are part of the structure.
        assert jax.tree.structure(network) == jax.tree.structure(imported.model)
        if case.format == "s4":
            assert (config.gelu, config.norm_epsilon) == ("exact", 1e-5)


def test_the_tanh_form_of_gelu(golden_import):
    infos = json.loads((golden_import / "s4_small.json").read_text())
    name, info = next((name, info) for name, info in infos.items() if "file" in info)
    network = read(golden_import / info["file"], gelu="tanh", prenorm=info["prenorm"]).model
    with np.load(golden_import / "s4_small.npz") as stored:
        logits = outputs(network, stored[f"{name}/x"])
        assert difference(logits, stored[f"{name}/logits_tanh_gelu"]) <= S4_NETWORK


@pytest.mark.parametrize("name", ["ethorondor", "chord"])
def test_trained_networks(golden_import, name):
    checkpoint = golden_import.parent / "data" / "checkpoints" / f"s4d-scifar-{name}.pth"
    if not (golden_import / f"s4_{name}.npz").is_file() or not checkpoint.is_file():
        pytest.skip("needs --golden-import FOLDER, with ../data/checkpoints beside the folder")
    info = json.loads((golden_import / f"s4_{name}.json").read_text())
    imported = read(checkpoint, prenorm=info["options"]["prenorm"])
    assert (imported.values["acc"], imported.values["epoch"]) == (info["acc"], info["epoch"])
    image_mean, image_deviation = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    with np.load(golden_import / f"s4_{name}.npz") as stored:
        images = (stored["image_uint8"] / np.float32(255) - image_mean) / image_deviation
        for part, x in (("noise", stored["x_noise"]), ("image", images.astype(np.float32))):
            logits = np.asarray(outputs(imported.model, jnp.asarray(x)))
            assert difference(logits, stored[f"logits_{part}"]) <= TRAINED
            other = stored[f"logits_{part}_tanh_gelu"]
            assert difference(logits, other) <= TRAINED_OTHER_GELU
            np.testing.assert_array_equal(logits.argmax(1), other.argmax(1))
