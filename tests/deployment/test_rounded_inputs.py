"""Activations in 8 bits: C and ONNX compute what a simulation with integers computes."""

import ctypes
import dataclasses
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from scipy.special import erfc

from lastax.deployment import footprint, quantized_cell, to_c, to_onnx
from lastax.deployment._functions import definitions
from lastax.deployment._rounding import to_int8
from lastax.nn._blocks import Linear

from .networks import CLASSES, inputs, logits, lru, network, s4d, s5, streaming, without_states

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2")
BATCH, LENGTH = 3, 24

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler (cc); install one"
)

# Together: all layers, gates of two matrices and of one, both norms and poolings, tokens.
MODELS = {
    "features": lambda: network(lru(), s4d(), activation="full_glu"),
    "tokens": lambda: network(
        s5(), without_states(), activation="half_glu2", norm="layer", prenorm=False,
        gelu="exact", pooling="last", tokens=True,
    ),
}  # fmt: skip


def columns_to_int8(weights):
    """Integers, and one scale per column."""
    scales = np.abs(weights).max(axis=0) / 127
    return np.rint(weights / scales).astype(np.int32), scales.astype(np.float32).astype(float)


class Simulation:
    """The quantized network in float64, whose matrix products are sums of int32."""

    def __init__(self, cell):
        self.cell = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32).astype(float), cell)
        self.peaks, self.calibrating = {}, True

    def calibrate(self, x):
        self(x)
        self.calibrating = False
        return self

    def product(self, name, values, weights):
        integers, scales = columns_to_int8(weights)
        if self.calibrating:
            self.peaks[name] = max(self.peaks.get(name, 0), np.abs(values).max())
            return values @ (integers * scales)
        scale = float(np.float32(self.peaks[name] / 127))
        rounded = np.clip(np.rint(values / scale), -128, 127).astype(np.int32)
        return (rounded @ integers).astype(float) * (scales * scale)

    def linear(self, name, linear, values):
        return self.product(name, values, linear.weight) + linear.bias

    def norm(self, norm, h):
        if norm.epsilon is not None:
            h = h - h.mean(axis=1, keepdims=True)
            h = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + norm.epsilon)
        return h * norm.scale + norm.bias

    def layer(self, name, layer, state, u):
        """The new states and the output. States have float64."""
        P = len(layer.lam_re)
        lam = layer.lam_re + 1j * layer.lam_im
        y = self.product(name, u, layer.D) if layer.D.ndim == 2 else u * layer.D
        if layer.B.ndim == 1:
            channel = np.repeat(np.arange(len(layer.counts)), layer.counts)
            B, C = (a[:P] + 1j * a[P:] for a in (layer.B, layer.C))
            # Only the products of B and C matter.
            gains = C.conj() * B
            state = lam * state + u[:, channel]
            for number in set(channel):
                here = channel == number
                parts = np.concatenate([gains[here].real, -gains[here].imag])[:, None]
                integers, scales = columns_to_int8(parts)
                read = np.concatenate([state[:, here].real, state[:, here].imag], axis=1)
                y[:, number] += (read @ (integers * scales))[:, 0]
            return state, y
        if P == 0:
            return state, y
        # The largest output weight of each state is 1.
        units = np.tile(np.abs(layer.C).reshape(2, P, -1).max(axis=(0, 2)), 2)
        driven = self.product(name, u, layer.B * units)
        state = lam * state + driven[:, :P] + 1j * driven[:, P:]
        integers, scales = columns_to_int8(layer.C / units[:, None])
        return state, y + np.concatenate([state.real, state.imag], axis=1) @ (integers * scales)

    def __call__(self, x):
        """The logits after each step, shape `(batch, steps, classes)`."""
        cell, found, total = self.cell, [], 0
        states = [np.zeros((len(x), len(b.recurrence.lam_re)), complex) for b in cell.blocks]
        for k in range(x.shape[1]):
            if cell.tokens:
                table = np.multiply(*columns_to_int8(cell.embed.weight))
                known = (x[:, k] >= 0) & (x[:, k] < len(table))
                h = np.where(known[:, None], table[np.clip(x[:, k], 0, len(table) - 1)], 0)
                h = h + cell.embed.bias
            else:
                h = self.linear("embed", cell.embed, x[:, k].astype(float))
            for number, block in enumerate(cell.blocks):
                u = self.norm(block.norm, h) if block.prenorm else h
                states[number], y = self.layer(f"u{number}", block.recurrence, states[number], u)
                h = h + self.gate(f"g{number}", block.gate, y)
                h = h if block.prenorm else self.norm(block.norm, h)
            total = total + h
            read = total / (k + 1) if cell.pooling == "mean" else h
            found.append(self.linear("head", cell.head, read))
        return np.stack(found, axis=1)

    def gate(self, name, gate, y):
        cubic = np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)
        g = y * erfc(-y / np.sqrt(2)) / 2
        g = y * (1 + np.tanh(cubic)) / 2 if gate.gelu == "tanh" else g
        passed = y if gate.activation == "half_glu2" else g
        passed = passed if gate.value is None else self.linear(name, gate.value, g)
        return passed / (1 + np.exp(-self.linear(name, gate.gate, g)))


def in_c(folder, x, state_bytes):
    """The logits after each step of each sequence, by the compiled code."""
    library = folder / "model.so"
    command = ["cc", *STRICT, "-shared", "-fPIC", folder / "model.c", "-o", library, "-lm"]
    subprocess.run(command, check=True)
    code = ctypes.CDLL(str(library))
    state = ctypes.create_string_buffer(b"\xff" * state_bytes, state_bytes)
    found, out = [], (ctypes.c_float * CLASSES)()
    for sequence in x:
        code.model_init(state)
        for step in sequence:
            tokens = np.ndim(step) == 0
            argument = ctypes.c_int32(int(step)) if tokens else (ctypes.c_float * len(step))(*step)
            code.model_step(state, argument, out)
            found.append(list(out))
    return np.array(found).reshape(*x.shape[:2], CLASSES)


def run_test(folder):
    """Compile and run the test that comes with the code."""
    program = folder / "check"
    sources = [folder / "model.c", folder / "model_test.c"]
    subprocess.run(["cc", *STRICT, *sources, "-o", program, "-lm"], check=True)
    return subprocess.run([program], capture_output=True, text=True)


@pytest.mark.parametrize("name", MODELS)
def test_all_runtimes_multiply_integers(name, tmp_path):
    model = MODELS[name]()
    cell = streaming(model, compensated=False)
    calibration, x = inputs(model, 8, LENGTH), inputs(model, BATCH, LENGTH + 1)
    simulation = Simulation(cell).calibrate(calibration)
    wanted = simulation(x)
    largest = np.abs(wanted).max()
    options = {"quantize": "int8", "calibration": calibration}

    rounded = quantized_cell(cell, calibration=calibration)
    np.testing.assert_allclose(logits(rounded, x), wanted[:, -1], rtol=0, atol=1e-5 * largest)
    # Rounding activations matters more than the precision of this test.
    only_weights = logits(quantized_cell(cell), x)
    assert np.abs(only_weights - wanted[:, -1]).max() > 1e-3 * largest

    if shutil.which("cc"):
        sizes = to_c(cell, tmp_path / "c", **options)
        found = in_c(tmp_path / "c", x, sizes.state_bytes)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * largest)
        weights = footprint(cell, quantize="int8")
        assert sizes.flash_bytes == weights.flash_bytes
        assert sizes.state_bytes == weights.state_bytes
        done = run_test(tmp_path / "c")
        assert done.returncode == 0, done.stdout
        text = (tmp_path / "c/model_test.c").read_text()
        assert float(re.search(r"TOLERANCE (\S+)f", text)[1]) < 3e-5 * largest
        # It finds a scale that is 2 % too large.
        source = tmp_path / "c/model.c"
        change = re.compile(r"(to_integers\(\d+, )([\d.e+-]+)f, (\w+)")
        source.write_text(
            change.sub(lambda m: f"{m[1]}{1.02 * float(m[2])}f, {m[3]}", source.read_text(), 1)
        )
        assert run_test(tmp_path / "c").returncode == 1

    pytest.importorskip("onnx", reason="exports to ONNX need the package onnx")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")
    to_onnx(cell, tmp_path / "net.onnx", whole_sequence=True, **options)
    settings = runtime.SessionOptions()
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = runtime.InferenceSession(tmp_path / "net.onnx", settings)
    found = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(found, wanted[:, -1], rtol=0, atol=1e-5 * largest)


def test_onnx_files_multiply_integers_except_states(tmp_path):
    onnx = pytest.importorskip("onnx", reason="exports to ONNX need the package onnx")
    model = network(lru(), activation="full_glu")
    options = {"quantize": "int8", "calibration": inputs(model, 2, 3)}
    to_onnx(streaming(model), tmp_path / "net.onnx", **options)
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    count = {
        kind: sum(node.op_type == kind for node in nodes) for kind in ("MatMul", "MatMulInteger")
    }
    # The first matrix, B, a dense D, two of the gate, and the head; C.
    assert count == {"MatMulInteger": 6, "MatMul": 1}


@needs_compiler
def test_a_test_with_an_example_passes(tmp_path):
    """An example can be rounded either way, for which the test allows."""
    model = network(s5())
    cell, x = streaming(model), inputs(model, 1, 200)
    to_c(cell, tmp_path / "c", quantize="int8", calibration=x, example=x[0])
    done = run_test(tmp_path / "c")
    assert done.returncode == 0, done.stdout
    assert "200 steps" in done.stdout


def compiled_function(name, folder):
    """A function of the exported code as a library."""
    source = folder / f"{name}.c"
    text = definitions(f"{name}(").replace(f"static int32_t {name}", f"int32_t {name}")
    text = text.replace(f"static void {name}", f"void {name}")
    source.write_text(f"#include <stdint.h>\n#define UNROLLED\n{text}")
    library = folder / f"{name}.so"
    subprocess.run(["cc", *STRICT, "-shared", "-fPIC", source, "-o", library], check=True)
    return getattr(ctypes.CDLL(str(library)), name)


@needs_compiler
def test_the_largest_sum_fits_32_bits(tmp_path):
    """132,104 products of -128 and -127: one more would be above 2^31 - 1."""
    most = 132_104
    assert most * 128 * 127 < 2**31 - 1 < (most + 1) * 128 * 127
    dot = compiled_function("dot_integers", tmp_path)
    w, x = np.full(most, -127, np.int8), np.full(most, -128, np.int8)
    assert dot(most, w.ctypes.data_as(ctypes.c_void_p), x.ctypes.data_as(ctypes.c_void_p)) == (
        most * 128 * 127
    )
    # A wider matrix is refused.
    cell = streaming(network(s5()))
    channels = cell.embed.weight.shape[1]
    wide = Linear(np.ones((most + 1, channels), np.float32), np.zeros(channels, np.float32))
    cell = dataclasses.replace(cell, embed=wide)
    x = np.ones((1, 1, most + 1), np.float32)
    with pytest.raises(ValueError, match="a sum of 32 bits has space for 132,104"):
        footprint(cell, quantize="int8", calibration=x)


@needs_compiler
def test_rounding_is_to_the_nearest_integer_and_saturates(tmp_path):
    function = compiled_function("to_integers", tmp_path)
    x = np.array([0, 0.5, 1.5, -0.5, -2.5, 0.49999997, 126.7, 127.4, 1e9, np.inf, -128.6, -1e9])
    x = np.concatenate([x, -x, np.random.default_rng(0).normal(size=99) * 50, [np.nan]])
    x, found = x.astype(np.float32), np.zeros(len(x), np.int8)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, found)]
    function(len(x), ctypes.c_float(1), *pointers)
    wanted = np.clip(np.rint(x[:-1]), -128, 127)
    np.testing.assert_array_equal(found, [*wanted, -128])


def test_padding_does_not_count():
    cell = streaming(network(s5()))
    x = inputs(network(s5()), 2, 5)
    padded = np.concatenate([x, np.full((2, 3, 3), 1e3, np.float32)], axis=1)
    batch = {"x": padded, "length": np.array([5, 5])}
    wanted, found = (jax.tree.leaves(quantized_cell(cell, calibration=c)) for c in (x, [batch]))
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_bad_calibration_data_are_refused(tmp_path):
    model = network(s5())
    cell, x = streaming(model), inputs(model, 2, 5)
    rounded = quantized_cell(cell, calibration=x)
    huge = np.full_like(x, 1e38)
    for options, message in (
        ({"calibration": x}, "to_c: calibration has no effect without quantize='int8'"),
        (
            {"quantize": "int8", "calibration": np.zeros_like(x)},
            "to_c: .* the input of the first matrix has only zeros.*--calibration 0",
        ),
        (
            {"quantize": "int8", "calibration": huge},
            "to_c: .* has values that are not finite, so that there is no scale",
        ),
        (
            {"quantize": "int8", "calibration": np.where(x > 1, np.nan, x)},
            "to_c: calibration records .* not finite",
        ),
        (
            {"quantize": "int8", "calibration": x[..., :2]},
            r"to_c: calibration data must be sequences of shape \(N, L, 3\) with L >= 1, got "
            r"float32 of shape \(2, 5, 2\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            to_c(cell, tmp_path / "c", **options)
    with pytest.raises(ValueError, match=r"footprint: .*rounded activations; pass quantize='int8'"):
        footprint(rounded)
    # Its scales stay.
    assert footprint(rounded, quantize="int8") == footprint(cell, quantize="int8", calibration=x)
    tokens = streaming(network(s5(), tokens=True))
    with pytest.raises(ValueError, match=r"quantized_cell: .* of tokens .* got float"):
        quantized_cell(tokens, calibration=x)
    assert not list(tmp_path.iterdir())


def test_rows_of_tiny_numbers_count_as_zeros():
    rows = np.array([[3e-44, -1e-44], [2e-43, -2e-43], [1.0, -0.5]], np.float32)
    integers, scales = to_int8(rows)
    np.testing.assert_array_equal(integers, [[0, 0], [0, 0], [127, -64]])
    assert (scales > 0).all()
