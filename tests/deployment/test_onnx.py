"""ONNX files give the logits of the network, step by step and for whole sequences."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax._errors import MissingPackageError
from lastax.deployment import quantized_cell, to_onnx

from .networks import (
    CHANNELS,
    UNIDIRECTIONAL,
    assert_close,
    full_and_pruned,
    inputs,
    logits,
    network,
    s5,
    streaming,
)

BATCH, LENGTH = 2, 20


def unstable():
    layer = lastax.LRU.initialize(CHANNELS, 2, key=jax.random.key(0))
    return network(dataclasses.replace(layer, nu_log=jnp.full(2, -30.0)))


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="exports to ONNX need the package onnx")


@pytest.fixture
def session(onnx, tmp_path):
    """A network or a cell as a session of onnxruntime."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")

    def open_session(model, **options):
        to_onnx(model, tmp_path / "net.onnx", **options)
        settings = runtime.SessionOptions()
        # By default, onnxruntime also rounds the inputs of matrices of integers.
        settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        return runtime.InferenceSession(tmp_path / "net.onnx", settings)

    return open_session


def start(session, batch):
    """The zero states."""
    return {
        value.name: np.zeros(
            (batch, *value.shape[1:]), np.int32 if "int32" in value.type else np.float32
        )
        for value in session.get_inputs()
        if value.name != "x"
    }


def step(session, x, states):
    found, *new = session.run(None, {"x": x, **states})
    return found, dict(zip(states, new, strict=True))


@pytest.mark.parametrize("name", UNIDIRECTIONAL)
@pytest.mark.parametrize("compensated", [True, False])
def test_steps_and_sequences_give_the_logits_of_the_network(session, name, compensated):
    model = UNIDIRECTIONAL[name]()
    cell = streaming(model, compensated=compensated)
    x = inputs(model, BATCH, LENGTH)
    wanted = logits(model, x)
    stream = session(cell)
    states = start(stream, BATCH)
    for k in range(LENGTH):
        found, states = step(stream, x[:, k], states)
    assert_close(found, wanted)
    whole = session(cell, whole_sequence=True)
    assert_close(whole.run(None, {"x": x})[0], wanted)
    # Other sizes of the batch and of the sequence fit the same file.
    once = whole.run(None, {"x": x[:1, :1]})[0]
    assert_close(once, stream.run(None, {"x": x[:1, 0], **start(stream, 1)})[0])


def test_states_and_outputs_have_the_names_of_the_cell(session):
    cell = streaming(UNIDIRECTIONAL["layer norm"]())
    found = session(cell)
    states = ["layers.0.value", "layers.0.error", "pooled.value", "pooled.error", "pooled.steps"]
    assert [value.name for value in found.get_inputs()] == ["x", *(f"state.{n}" for n in states)]
    names = [value.name for value in found.get_outputs()]
    assert names == ["logits", *(f"next.{name}" for name in states)]
    assert found.get_inputs()[1].shape == ["batch", 12]


@pytest.mark.parametrize("name", ["mixture", "tokens"])
def test_weights_in_8_bits_give_the_logits_of_the_rounded_cell(session, name):
    model = UNIDIRECTIONAL[name]()
    cell = quantized_cell(model)
    x = inputs(model, BATCH, LENGTH)
    wanted = logits(cell, x)
    stream = session(model, quantize="int8")
    states = start(stream, BATCH)
    for k in range(LENGTH):
        found, states = step(stream, x[:, k], states)
    assert_close(found, wanted)
    whole = session(model, quantize="int8", whole_sequence=True)
    assert_close(whole.run(None, {"x": x})[0], wanted)


def test_weights_in_8_bits_are_integers_outside_of_the_loop(onnx, tmp_path):
    """All matrices, but not the eigenvalues."""
    cell = streaming(full_and_pruned()[0])
    size = {}
    for quantize in (None, "int8"):
        to_onnx(cell, tmp_path / "net.onnx", whole_sequence=True, quantize=quantize)
        graph = onnx.load(tmp_path / "net.onnx").graph
        size[quantize] = (tmp_path / "net.onnx").stat().st_size
    weights = [x for x in graph.initializer if len(x.dims) == 2]
    assert {x.data_type for x in weights} == {onnx.TensorProto.INT8}
    (loop,) = (node.attribute[0].g for node in graph.node if node.op_type == "Scan")
    assert "DequantizeLinear" in {node.op_type for node in graph.node}
    assert "DequantizeLinear" not in {node.op_type for node in loop.node}
    removed = 3 * sum(np.prod(x.dims) for x in weights)
    assert 0.5 * removed < size[None] - size["int8"] < removed


@pytest.mark.parametrize(("compensated", "low", "high"), [(True, 0, 1e-7), (False, 3e-6, 1)])
def test_rounding_errors_of_slow_states_do_not_add_up(session, compensated, low, high):
    """A constant input for 3000 steps. States follow a geometric series."""
    layer = lastax.LRU.initialize(
        CHANNELS, 6, key=jax.random.key(0), radius_range=(0.99999, 0.999999)
    )
    cell = streaming(network(layer), compensated=compensated)
    stream = session(cell)
    states, x = start(stream, 1), np.ones((1, 3), np.float32)
    _, states = step(stream, x, states)
    driven = states["state.layers.0.value"][0].astype(float)
    for _ in range(2999):
        _, states = step(stream, x, states)
    recurrence = cell.blocks[0].recurrence
    lam = np.asarray(recurrence.lam_re, float) + 1j * np.asarray(recurrence.lam_im, float)
    wanted = (driven[:6] + 1j * driven[6:]) * (1 - lam**3000) / (1 - lam)
    value = states["state.layers.0.value"][0]
    error = np.abs(value[:6] + 1j * value[6:] - wanted) / np.abs(wanted)
    assert low < error.max() < high


def test_a_pruned_network_gives_a_smaller_file_with_fewer_operations(onnx, tmp_path):
    model, small = full_and_pruned()
    to_onnx(streaming(model), tmp_path / "full.onnx", whole_sequence=True)
    to_onnx(streaming(small), tmp_path / "small.onnx", whole_sequence=True)
    graphs = [onnx.load(tmp_path / f"{name}.onnx").graph for name in ("full", "small")]
    # Each number of a matrix is multiplied once in every step.
    before, after = (
        sum(np.prod(x.dims) for x in graph.initializer if len(x.dims) == 2) for graph in graphs
    )
    removed = (28 + 20) * 4 * CHANNELS
    assert before - after == removed
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("full", "small")]
    assert sizes[0] - sizes[1] > 4 * removed


def test_a_file_tells_its_classes_and_uses_real_numbers_only(onnx, tmp_path):
    model = UNIDIRECTIONAL["mixture"]()
    to_onnx(streaming(model), tmp_path / "net.onnx", classes=("a", "b", "c", "d"))
    found = onnx.load(tmp_path / "net.onnx")
    metadata = {entry.key: entry.value for entry in found.metadata_props}
    assert metadata["lastax.format"] == "1"
    assert json.loads(metadata["lastax.classes"]) == ["a", "b", "c", "d"]
    assert json.loads(metadata["lastax.states"]) == [6, 5, 6]
    assert found.opset_import[0].version == 20
    kinds = {onnx.helper.tensor_dtype_to_np_dtype(x.data_type) for x in found.graph.initializer}
    assert kinds <= {np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)}


def test_double_precision_becomes_single(session, x64):
    model = UNIDIRECTIONAL["postnorm"]()
    x = inputs(model, BATCH, LENGTH)
    wide = jax.tree.map(lambda a: a.astype(float) if isinstance(a, jax.Array) else a, model)
    found = session(wide, whole_sequence=True).run(None, {"x": x})[0]
    assert_close(found, logits(wide, jnp.asarray(x, float)))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (lambda: network(s5(bidirectional=True)), {}, "streaming: .*bidirectional=False"),
        (UNIDIRECTIONAL["postnorm"], {"classes": ("a",)}, "to_onnx: classes has 1 names, .* 4"),
        (
            unstable,
            {"quantize": "int8"},
            r"to_onnx: the states \[0, 1\] of block 0 have .lam. >= 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        to_onnx(model(), tmp_path / "net.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    for name in ("_onnx_cell", "_onnx_compensated", "_onnx_graph"):
        monkeypatch.delitem(sys.modules, f"lastax.deployment.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r"to_onnx needs onnx: .*'lastax\[onnx\]'"):
        to_onnx(UNIDIRECTIONAL["postnorm"](), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
