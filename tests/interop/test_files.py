"""Files of every kind are read; nothing in them is executed; faults are named."""

import collections
import contextlib
import io
import json
import os
import pickle
import re
import sys
import tracemalloc
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import lastax
from lastax._errors import RunError
from lastax.interop import open_contents, read, write
from lastax.interop._torch_files import write_torch

from . import writers


@pytest.fixture(autouse=True)
def torch_names(monkeypatch):
    """Names of torch for the pickles that the tests write."""
    for name, module in writers.fake_torch().items():
        monkeypatch.setitem(sys.modules, name, module)


def npz(tree):
    file = io.BytesIO()
    np.savez(file, **tree)
    return file.getvalue()


def flat_pickle(protocol):
    return lambda tree: pickle.dumps(collections.OrderedDict(tree), protocol)


FLAT_WRITERS = {
    "zip": writers.torch_zip,
    "deflated": lambda tree: writers.torch_zip(tree, compression=zipfile.ZIP_DEFLATED),
    "legacy": writers.torch_legacy,
    "safetensors": safetensors.numpy.save,
    "npz": npz,
    "msgpack": writers.flax_msgpack,
    "chunked-msgpack": lambda tree: writers.flax_msgpack(tree, chunk=5),
    **{f"pickle-{protocol}": flat_pickle(protocol) for protocol in (2, 4, 5)},
    "jax-pickle": lambda tree: pickle.dumps({n: jnp.asarray(a) for n, a in tree.items()}),
}


@pytest.mark.parametrize("kind", FLAT_WRITERS)
def test_arrays_of_every_kind_of_file(tmp_path, kind):
    tree = writers.s4_layer()
    path = tmp_path / "file"
    content = FLAT_WRITERS[kind](tree)
    path.write_bytes(content)
    contents = open_contents(path)
    assert contents.arrays.keys() == tree.keys()
    for name, array in tree.items():
        np.testing.assert_array_equal(contents.arrays[name], array)
    layer = read(path).model
    np.testing.assert_array_equal(layer.Lambda_im, tree["kernel.A_imag"].ravel())
    np.testing.assert_array_equal(layer.C, tree["kernel.C"].reshape(-1, 2))
    # Cut in the middle of the arrays.
    path.write_bytes(content[: int(len(content) * 0.6)])
    with pytest.raises(RunError, match=r"damaged or truncated|is truncated|missing or too short"):
        open_contents(path)


def test_orbax_folders(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    variables = writers.s5_network(layers=1)
    folder = tmp_path / "3" / "state"
    orbax.PyTreeCheckpointer().save(folder, variables | {"step": 5})
    for path in (tmp_path, folder):
        imported = read(path)
        assert imported.contents.container == "orbax"
        np.testing.assert_array_equal(
            imported.model.encoder.blocks[0].layer.B,
            variables["params"]["encoder"]["layers_0"]["seq"]["B"],
        )
    with pytest.raises(RunError, match="no Orbax checkpoint"):
        read(tmp_path / "3" / "state" / "d" if (folder / "d").is_dir() else tmp_path.parent)


class Mixer(eqx.Module):
    """A model of somebody who uses names that are known."""

    gain: float
    name: str
    seq: dict

    def __init__(self, arrays):
        self.gain, self.name, self.seq = 2.0, "mine", arrays


def test_equinox_files_with_a_template(tmp_path):
    arrays = {name: jnp.asarray(array) for name, array in writers.s5_layer().items()}
    model = Mixer(arrays)
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    template = Mixer(jax.tree.map(jnp.zeros_like, arrays))
    imported = read(tmp_path / "model.eqx", template=template)
    np.testing.assert_array_equal(imported.model.B, arrays["B"])
    assert imported.layer_paths == ("seq",)
    with pytest.raises(RunError, match="pass template="):
        read(tmp_path / "model.eqx")
    with pytest.raises(RunError, match=r"7 records, the template 1 leaves"):
        read(tmp_path / "model.eqx", template=jnp.zeros(3))


class Harmful:
    """Unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_no_pickle_is_executed(tmp_path, kind):
    mark = tmp_path / "executed"
    tree = {"a": np.zeros(3, np.float32), "b": Harmful(f"touch {mark}")}
    write = {
        "zip": writers.torch_zip,
        "legacy": writers.torch_legacy,
        "pickle": pickle.dumps,
    }[kind]
    (tmp_path / "file").write_bytes(write(tree))
    with pytest.raises(RunError, match=r"(posix|nt)\.system, .*nothing was executed"):
        open_contents(tmp_path / "file")
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(V1+1\ntR.",
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\nVx\ntR.",
        b"cnumpy\nload\n(Vx\ntR.",
        b"ctorch.storage\n_load_from_bytes\n(Vx\ntR.",
        b"c__builtin__\neval\n(Vx\ntR.",
        b"ios\nsystem\n(Vx\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
    ],
)
def test_other_functions_are_refused_by_name(tmp_path, program):
    path = tmp_path / "file.pkl"
    path.write_bytes(program)
    with pytest.raises(RunError, match=r"asks for .*|damaged or truncated") as refusal:
        open_contents(path)
    if not program.startswith(b"ios"):
        assert "nothing was executed" in str(refusal.value)


def test_tensors_stay_inside_their_storages(tmp_path):
    content = writers.torch_zip({"a": np.zeros(12, np.float32)})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickled = archive.read("ckpt/data.pkl")
    # The size of the tensor (12,) becomes (200,).
    larger = pickled.replace(b"K\x0c\x85", b"K\xc8\x85")
    assert larger != pickled
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("ckpt/data.pkl", larger)
        archive.writestr("ckpt/data/0", bytes(48))
    with pytest.raises(RunError, match=r"size \(200,\) does not fit its storage of 12"):
        open_contents(tmp_path / "file")


def test_a_pickle_cannot_move_a_tensor_out_of_its_storage(tmp_path):
    content = writers.torch_zip({"a": np.zeros(12, np.float32)})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickled = archive.read("ckpt/data.pkl")
    # After the tensor, a BUILD that changes its attributes.
    build = pickle.dumps({"size": (4,), "stride": (-3,)}, protocol=2)[2:-1]
    changed = pickled[:-2] + build + b"bs."
    assert pickled.endswith((b"s.", b"u."))
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("ckpt/data.pkl", changed)
        archive.writestr("ckpt/data/0", bytes(48))
    with pytest.raises(RunError, match=r"stride \(-3,\) is damaged"):
        open_contents(tmp_path / "file")


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_file_of_2_gb_is_opened_lazily(tmp_path, kind):
    path = tmp_path / "large"
    writers.SPARSE[kind](path, 2 << 30)
    tracemalloc.start()
    contents = open_contents(path)
    assert contents.arrays["unused"].shape == (1 << 29,)
    assert contents.arrays["unused"][-1] == 0
    layer = read(path).model
    # NumPy reports what it allocates. Pages of the mapped file are not allocated.
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
    np.testing.assert_array_equal(layer.D, writers.s4_layer()["D"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "npz", "msgpack"])
def test_other_precisions(tmp_path, kind, dtype):
    numbers = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    tree = {name: array.astype(numbers) for name, array in writers.s4_layer().items()}
    path = tmp_path / "file"
    if (kind, dtype) == ("safetensors", "bfloat16"):
        # Its writer for NumPy does not know bfloat16.
        bits = {name: array.view(np.uint16) for name, array in tree.items()}
        path.write_bytes(safetensors.numpy.save(bits).replace(b'"U16"', b'"BF16"'))
        text = path.read_bytes()
        size = int.from_bytes(text[:8], "little") + len(bits)
        path.write_bytes(size.to_bytes(8, "little") + text[8:])
    else:
        path.write_bytes(FLAT_WRITERS[kind](tree))
    imported = read(path)
    layer = imported.model
    assert layer.D.dtype == np.float32
    np.testing.assert_array_equal(layer.D, tree["D"].astype(np.float32))
    assert any("16 bits" in note for note in imported.notes) == (dtype != "float64")


def test_files_of_no_kind(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(RunError, match="there is no file"):
        read(path)
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02c__torch__\nNet\n)\x81.")
        archive.writestr("net/constants.pkl", b"\x80\x02).")
    for content, message in (
        (b"", "the file is empty"),
        (b"hello, this is text", "which is no known kind"),
        (bytes(100), "which is no known kind"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x1f\x8b\x08\x00" + bytes(99), "compressed with gzip"),
        (b"PK\x05\x06" + bytes(18), "torch.save has one data.pkl, this one has 0"),
        (script.getvalue(), "a TorchScript archive, which holds code"),
        (writers.torch_zip({"epoch": 3}), "there are no arrays in it"),
    ):
        path.write_bytes(content)
        with pytest.raises(RunError, match=message):
            read(path)
    path.write_bytes(npz({"a": np.asarray([{}, 1], object)}))
    with pytest.raises(RunError, match="damaged"):
        read(path)


def changed(**changes):
    tree = writers.s4_network()
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del tree[name]
        else:
            tree[name] = value
    return tree


NAN = writers.s4_layer()["kernel.A_imag"] * np.asarray([[np.nan, 1, np.inf, 1]], np.float32)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            changed(s4_layers__1__kernel__log_dt=None),
            r"s4_layers\.1\.kernel\.log_dt is missing; nearest names in the file: "
            r"s4_layers\.0\.kernel\.log_dt",
        ),
        (
            changed(s4_layers__0__kernel__C=np.zeros((3, 5, 2), np.float32)),
            r"s4_layers\.0\.kernel\.C has shape \(3, 5, 2\), expected \(H, N, 2\) with .*N = 4",
        ),
        (changed(norms__1__weight=None), r"norms\.1\.weight is missing; nearest .*norms\.0\.we"),
        (
            changed(s4_layers__1__kernel__A_imag=NAN),
            r"s4_layers\.1\.kernel\.A_imag has 6 values that are not finite, of 12",
        ),
        (
            {name: array for name, array in writers.s4_layer().items() if name != "kernel.log_dt"},
            r"kernel\.log_dt is missing for a layer of s4; nearest",
        ),
        ({"weight": np.zeros(3)}, "no layer of s4, .* among its arrays: weight"),
        (
            {"optimizer_states.0.state.0.exp_avg": np.zeros(3)},
            "only the state of an optimizer, and no parameters",
        ),
        ({"opt_state.0.mu.Lambda_re": np.zeros(3)}, "only the state of an optimizer"),
        (
            writers.s4_layer() | {"kernel.B": np.zeros(2), "kernel.inv_A_real": np.zeros(2)},
            "ok",
        ),
        ({"kernel.B": np.zeros(2), "kernel.inv_A_real": np.zeros(2)}, "only the standalone S4D"),
    ],
)
def test_faults_are_named(tmp_path, tree, message):
    path = tmp_path / "file.npz"
    path.write_bytes(npz(tree))
    if message == "ok":
        read(path)
        return
    with pytest.raises(RunError, match=message) as refusal:
        read(path)
    assert str(path) in str(refusal.value)


def test_unstable_states_are_counted(tmp_path):
    layer = writers.s5_layer()
    layer["Lambda_re"][:2] = 0.25
    (tmp_path / "file").write_bytes(npz(layer))
    assert any("layer 0 has 2 states with |lam| >= 1" in n for n in read(tmp_path / "file").notes)
    clipped = read(tmp_path / "file", clip_eigenvalues=True)
    assert not any("|lam|" in note for note in clipped.notes)


def test_options_are_checked(tmp_path):
    (tmp_path / "file").write_bytes(npz(writers.s5_layer()))
    for options, message in (
        ({"format": "s6"}, "unknown format 's6'; known are s4, s5"),
        ({"oscillator": "im"}, "the format s5 has no option oscillator; it has prenorm"),
        ({"dropout": 1.5}, "dropout must be in [0, 1); got 1.5"),
        ({"step_rescale": 0.0}, "step_rescale must be positive"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            read(tmp_path / "file", **options)


def under(prefix, tree):
    return {f"{prefix}.{name}": array for name, array in tree.items()}


def test_the_model_is_found_in_the_checkpoint(tmp_path):
    path = tmp_path / "file"
    network = writers.s4_network()
    average = {name: array + 1 for name, array in network.items() if array.dtype.kind == "f"}
    lightning = {
        "state_dict": under("model", network) | under("ema_model", average),
        "optimizer_states": [{"state": {"0": {"exp_avg": network["encoder.weight"]}}}],
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1},
    }
    path.write_bytes(writers.torch_zip(lightning))
    imported = read(path)
    assert imported.path == "state_dict.model"
    assert imported.values["epoch"] == 3
    weight = network["encoder.weight"].T
    np.testing.assert_array_equal(imported.model.encoder.embed.weight, weight)
    asked = read(path, prefix="state_dict.ema_model").model
    np.testing.assert_array_equal(asked.encoder.embed.weight, weight + 1)
    with pytest.raises(RunError, match=r"nothing is below the prefix 'net'; .*state_dict"):
        read(path, prefix="net")
    for prefix in ("module", "net", "net.module"):
        path.write_bytes(writers.torch_zip(under(prefix, network)))
        assert read(path).path == prefix
    path.write_bytes(writers.torch_zip(under("a", network) | under("b", network)))
    with pytest.raises(RunError, match="pass prefix=, one of a, b"):
        read(path)


def test_the_model_is_found_in_a_train_state(tmp_path):
    path = tmp_path / "file"
    variables = writers.s5_network()
    average = jax.tree.map(lambda array: array + 1, variables["params"])
    state = variables | {
        "step": 7,
        "ema_params": average,
        "opt_state": {"0": {"mu": variables["params"], "count": np.asarray(3)}},
    }
    path.write_bytes(writers.flax_msgpack(state))
    imported = read(path)
    kernel = variables["params"]["decoder"]["kernel"]
    mean = variables["batch_stats"]["encoder"]["layers_1"]["norm"]["mean"]
    for model, expected in (
        (imported.model, kernel),
        (read(path, prefix="ema_params").model, kernel + 1),
    ):
        np.testing.assert_array_equal(model.head.weight, expected)
        np.testing.assert_array_equal(model.encoder.blocks[1].norm.running.mean, mean)
    assert imported.values == {"step": 7}


def test_layers_alone_where_the_network_is_unknown(tmp_path):
    network = writers.s4_network(batch_norm=True)
    assert read_npz(tmp_path, network).model.encoder.blocks[0].norm.momentum == 0.9
    del network["encoder.weight"]
    imported = read_npz(tmp_path, network)
    assert list(imported.model) == ["s4_layers.0", "s4_layers.1"] == list(imported.layer_paths)
    assert "its encoder or decoder is not a linear map" in imported.notes[0]
    layers = lastax.find_layers(imported.model)
    assert [layer.keep(np.arange(12) < 5).counts for layer in layers] == [(4, 1, 0)] * 2


def test_variants_of_s4(tmp_path):
    network = writers.s4_network(batch_norm=True)
    kernel = "s4_layers.0.kernel."
    decay = network[kernel + "log_A_real"] = network[kernel + "log_A_real"][:, :1]
    for name in ("weight", "bias"):
        del network[f"s4_layers.1.output_linear.0.{name}"]
    del network["decoder.bias"]
    model = read_npz(tmp_path, network).model
    first, second = model.encoder.blocks
    np.testing.assert_array_equal(first.layer.log_decay, np.repeat(decay, 4))
    assert (first.gate.activation, second.gate.activation) == ("full_glu", "gelu")
    variance = network["norms.1.running_var"]
    np.testing.assert_array_equal(second.norm.running.variance, variance)
    np.testing.assert_array_equal(model.head.bias, np.zeros(5))
    # A linear map without a gate is not a lastax block.
    network["s4_layers.1.output_linear.0.weight"] = np.zeros((3, 3, 1), np.float32)
    assert "linear map without a gate" in read_npz(tmp_path, network).notes[0]


def test_variants_of_s5(tmp_path):
    draw = np.random.default_rng(0).standard_normal
    tree = writers.s5_network()
    params = tree["params"]
    embedding = draw((9, 3)).astype(np.float32)
    params["encoder"]["encoder"] = {"embedding": embedding}
    params["decoder"] = {
        "layer1": {"kernel": draw((12, 3)), "bias": draw(3)},
        "layer2": {"kernel": draw((3, 2)), "bias": draw(2)},
    }
    mixers = params["encoder"]["layers_0"]
    mixers["mixer"] = mixers.pop("seq")
    path = tmp_path / "file"
    path.write_bytes(writers.flax_msgpack(tree))
    imported = read(path, activation="half_glu2", clip_eigenvalues=True)
    model = imported.model
    assert isinstance(model, lastax.nn.Retrieval)
    np.testing.assert_array_equal(model.encoder.embed.rows(np.asarray([4, 8])), embedding[[4, 8]])
    gates = {block.gate.activation for block in model.encoder.blocks}
    assert gates == {"half_glu2"}
    write(tmp_path / "again", model, like=imported)
    again = open_contents(tmp_path / "again").arrays
    np.testing.assert_array_equal(again["params.encoder.encoder.embedding"], embedding)
    assert again.keys() == imported.contents.arrays.keys()
    with pytest.raises(RunError, match="has the maps of half_glu1 or half_glu2, not of full_glu"):
        read(path, activation="full_glu")
    # Layer norm, where there are no statistics.
    del tree["batch_stats"]
    path.write_bytes(writers.flax_msgpack(tree))
    norms = [block.norm for block in read(path).model.encoder.blocks]
    assert all(isinstance(norm, lastax.nn.LayerNorm) for norm in norms)
    mixers["mixer"]["B_bias"] = draw(4)
    path.write_bytes(writers.flax_msgpack(tree))
    with pytest.raises(RunError, match="a batch norm was folded into the layer"):
        read(path)


def read_npz(folder, tree):
    (folder / "file.npz").write_bytes(npz(tree))
    return read(folder / "file.npz")


def test_values_are_shown_as_json(tmp_path):
    (tmp_path / "file").write_bytes(writers.torch_zip({"model": writers.s4_network(), "acc": 84.5}))
    assert json.dumps(dict(read(tmp_path / "file").values)) == '{"acc": 84.5}'


def test_a_small_pickle_cannot_repeat_its_parts_without_end(tmp_path):
    node = [0.0, 0.0]
    for _ in range(30):
        node = [node, node]
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"a": node}, 2))
    with pytest.raises(RunError, match="repeats its parts to more than 1,000,000 values"):
        open_contents(path)


def test_sizes_in_a_pickle_allocate_nothing(tmp_path):
    """A billion zeros, and a memo of 2^31 entries, each in a few bytes."""
    path = tmp_path / "file.pkl"
    memo = b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b"."
    size = (2**29).to_bytes(8, "little")
    tracemalloc.start()
    for hostile in (memo, *(b"\x80\x05" + opcode + size + b"." for opcode in (b"\x96", b"\x8e"))):
        path.write_bytes(hostile)
        with contextlib.suppress(RunError):
            open_contents(path)
    # A frame.
    path.write_bytes(b"\x80\x04\x95" + size + b".")
    with pytest.raises(RunError, match="states 536,870,912 bytes, 1 are left"):
        open_contents(path)
    zeros = pickle.dumps({"a": Rebuilt()}, 2)
    path.write_bytes(zeros)
    with pytest.raises(RunError, match="an array without bytes is damaged"):
        open_contents(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10**7


class Rebuilt:
    def __reduce__(self):
        return np._core.numeric._frombuffer, (10**9, np.dtype("u1"), (10**9,), "C")


def test_compressed_storages_are_read_only_as_far_as_needed(tmp_path):
    path = tmp_path / "file.pth"
    tree = {"a": np.arange(4, dtype=np.float32)}
    plain = io.BytesIO(write_torch(path, tree))
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            more = bytes(10**8) if "/data/" in member.filename else b""
            new.writestr(member.filename, old.read(member) + more)
    tracemalloc.start()
    np.testing.assert_array_equal(open_contents(path).arrays["a"], tree["a"])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10**7


@pytest.mark.parametrize("weight", [None, np.zeros(())])
def test_a_network_with_another_output_map_is_read_as_layers(tmp_path, weight):
    tree = writers.s4_network()
    for name in [name for name in tree if "output_linear" in name and name.endswith("weight")]:
        tree[name.replace("output_linear.0", "output_linear.1")] = tree.pop(name)
        if weight is not None:
            tree[name] = weight
    path = tmp_path / "file"
    path.write_bytes(writers.flax_msgpack(tree))
    imported = read(path)
    assert imported.path is None
    assert len(lastax.find_layers(imported.model)) == 2
