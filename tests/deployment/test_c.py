"""Exported C code, compiled and run: its outputs are those of the streaming cell."""

import ctypes
import dataclasses
import re
import shutil
import subprocess

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax._errors import RunError
from lastax.deployment import footprint, quantized_cell, to_c

from ..systems import compiled, filled, filled_layer, random_system

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2")
STEPS, INPUTS, CLASSES, CHANNELS = 64, 3, 4, 5

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler (cc); install one"
)


def network(layers, *, tokens=False, **settings):
    """One block per layer, with weights that differ from their initial values."""
    config = lastax.ModelConfig(
        layers=len(layers), channels=CHANNELS, states=1, bidirectional=False, **settings
    )
    shapes = eqx.filter_eval_shape(
        lambda key: lastax.build_network(
            config, input_size=INPUTS, classes=CLASSES, tokens=tokens, key=key
        ),
        jax.random.key(0),
    )
    model = filled(shapes)
    blocks = tuple(
        dataclasses.replace(block, layer=layer)
        for block, layer in zip(model.encoder.blocks, layers, strict=True)
    )
    return eqx.tree_at(lambda model: model.encoder.blocks, model, blocks)


def s5(**options):
    return filled_layer(lastax.S5, CHANNELS, 4, **options)


def ragged_s4d():
    """Channels of 3, 0, 2, 1 and 1 states."""
    layer = lastax.S4D.initialize(CHANNELS, 3, key=jax.random.key(1))
    return layer.keep(np.array([1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0], bool))


def lru():
    """With a dense feedthrough."""
    layer = lastax.LRU.initialize(CHANNELS, 4, key=jax.random.key(2))
    system = random_system(3, states=4, channels=5, conj_sym=False, dense_feedthrough=True)
    return layer.with_system(system)


# Together they have all layers, gates, norms, forms of GELU and kinds of pooling and input.
MODELS = {
    "s5": lambda: network([s5(), ragged_s4d()]),
    "full": lambda: network(
        [lru(), s5(conj_sym=False)],
        activation="full_glu", norm="layer", prenorm=False, pooling="last", gelu="exact",
    ),
    "half2": lambda: network([ragged_s4d(), lru()], activation="half_glu2", tokens=True),
    "stateless": lambda: network(
        [s5().keep(np.zeros(4, bool)), ragged_s4d().keep(np.zeros(7, bool))],
        activation="gelu", norm="layer", pooling="last",
    ),
}  # fmt: skip


def build(folder):
    """Compile the code as a library, and the test program. Returns their paths."""
    library, program = folder / "model.so", folder / "check"
    source = folder / "model.c"
    subprocess.run(["cc", *STRICT, "-shared", "-fPIC", source, "-o", library, "-lm"], check=True)
    test = folder / "model_test.c"
    subprocess.run(["cc", *STRICT, source, test, "-o", program, "-lm"], check=True)
    return library, program


def outputs(library, xs, state_bytes):
    """The logits of each step, by the compiled code."""
    code = ctypes.CDLL(str(library))
    state = ctypes.create_string_buffer(b"\xff" * state_bytes, state_bytes)
    code.model_init(state)
    logits, rows = (ctypes.c_float * CLASSES)(), []
    for x in xs:
        argument = ctypes.c_int32(int(x)) if np.ndim(x) == 0 else (ctypes.c_float * INPUTS)(*x)
        code.model_step(state, argument, logits)
        rows.append(list(logits))
    return np.array(rows)


@compiled
def stepwise(cell, xs):
    return jax.lax.scan(lambda state, x: cell.step(state, x), cell.init(), xs)[1]


def stream(tokens, seed=1):
    rng = np.random.default_rng(seed)
    if tokens:
        # Also tokens that the network does not know.
        return rng.integers(-1, INPUTS + 1, STEPS).astype(np.int32)
    return rng.normal(size=(STEPS, INPUTS)).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_the_code_computes_the_outputs_of_the_cell(name, tmp_path):
    """And the test program that comes with it passes, and finds a changed constant."""
    model = MODELS[name]()
    compensated = name in ("s5", "full")
    sizes = to_c(model, tmp_path / "c", compensated=compensated)
    assert sizes == footprint(model, compensated=compensated)
    library, program = build(tmp_path / "c")
    cell = lastax.streaming(model, compensated=compensated)
    xs = stream(cell.tokens)
    wanted = np.asarray(stepwise(cell, xs))
    got = outputs(library, xs, sizes.state_bytes)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())

    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{sizes.state_bytes} bytes of state" in done.stdout
    if name != "s5":
        return
    source = tmp_path / "c/model.c"
    first = re.compile(r"(block1_C\[\d+\] = \{\s+)(\S+)f,")
    text, count = first.subn(lambda m: f"{m[1]}{float(m[2]) * 1.01 + 0.001}f,", source.read_text())
    assert count == 1
    source.write_text(text)
    broken = subprocess.run([build(tmp_path / "c")[1]], capture_output=True, text=True)
    assert broken.returncode == 1
    assert "FAILED" in broken.stdout


@needs_compiler
def test_rounding_does_not_add_up_near_the_unit_circle(tmp_path):
    """`1 - |lam| = 1e-6`, a constant input and 16,384 steps.

    The layer is compensated by default, and also where the compiler may fuse products and sums.
    """
    length = 2**14
    system = random_system(0, states=4, channels=CHANNELS, conj_sym=False)
    angles = np.exp(1j * np.array([0.0, 0.03, np.pi / 2, 2.5]))
    layer = lru().with_system(dataclasses.replace(system, lam=(1 - 1e-6) * angles))
    model = network([layer], prenorm=False, activation="gelu", pooling="last")
    cell = lastax.streaming(model)
    xs = np.ones((length, INPUTS), np.float32)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), cell)
        wanted = np.asarray(stepwise(wide, xs))

    def error(folder, *flags, compensated):
        sizes = to_c(cell, folder, compensated=compensated, example=xs[:1])
        library = folder / "model.so"
        source = folder / "model.c"
        subprocess.run(["cc", *flags, "-shared", "-fPIC", source, "-o", library, "-lm"], check=True)
        return np.abs(outputs(library, xs, sizes.state_bytes) - wanted).max() / abs(wanted).max()

    assert error(tmp_path / "plain", "-std=c99", "-O2", compensated=False) > 3e-5
    assert error(tmp_path / "strict", "-std=c99", "-O2", compensated=True) < 2e-6
    fused = ("-std=gnu99", "-O3", "-march=native")
    assert error(tmp_path / "fused", *fused, compensated=True) < 2e-6
    # By default, a cell stays as it is.
    assert footprint(model) == footprint(model, compensated=True) == footprint(cell)
    assert footprint(cell, compensated=False) != footprint(cell)
    assert footprint(network([s5()])) == footprint(network([s5()]), compensated=False)
    source = tmp_path / "strict/model.c"
    done = subprocess.run(["cc", "-Ofast", "-c", source], capture_output=True, text=True)
    assert done.returncode != 0
    assert "compile without -ffast-math" in done.stderr


def test_a_pruned_network_is_smaller(tmp_path):
    """In constants, state and work: the removed states leave nothing behind."""
    model = network([s5(), ragged_s4d()])
    small = lastax.keep_states(model, [np.arange(4) < 1, np.arange(7) < 2])
    before, after = footprint(model), footprint(small)
    dense, scalar = 3, 5
    # Two float32 numbers for each of lam, the H entries of B and of C; lam and C B of S4D.
    constants = 8 * (dense * (1 + 2 * CHANNELS) + scalar * 2)
    assert before.flash_bytes - after.flash_bytes == constants
    assert before.state_bytes - after.state_bytes == 8 * (dense + scalar)
    assert before.multiply_adds - after.multiply_adds == dense * (4 + 4 * CHANNELS) + scalar * 6
    if shutil.which("cc") is None or shutil.which("size") is None:
        return
    measured = []
    for name, one in (("before", model), ("after", small)):
        to_c(one, tmp_path / name, example=stream(False)[:1])
        code = tmp_path / f"{name}.o"
        subprocess.run(["cc", *STRICT, "-c", tmp_path / name / "model.c", "-o", code], check=True)
        done = subprocess.run(["size", code], capture_output=True, text=True, check=True)
        text, data, bss = map(int, done.stdout.splitlines()[1].split()[:3])
        assert data == bss == 0
        measured.append(text)
    # Of the code, only sizes differ.
    assert abs(measured[0] - measured[1] - constants) < 300


@needs_compiler
@pytest.mark.parametrize("tokens", [False, True])
def test_weights_in_8_bits(tokens, tmp_path):
    layers = [lru(), ragged_s4d(), s5().keep(np.zeros(4, bool))]
    model = network(layers, tokens=tokens, activation="full_glu")
    full, small = footprint(model), to_c(model, tmp_path / "c", quantize="int8")
    assert (small.state_bytes, small.multiply_adds) == (full.state_bytes, full.multiply_adds)
    assert small == footprint(model, quantize="int8")
    library, program = build(tmp_path / "c")
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    xs = stream(tokens)
    wanted = np.asarray(stepwise(lastax.streaming(model), xs))
    got = outputs(library, xs, small.state_bytes)
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert 1e-4 < error < 0.03
    rounded = np.asarray(stepwise(quantized_cell(model), xs))
    np.testing.assert_allclose(got, rounded, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_errors_name_the_function_and_the_remedy(tmp_path, monkeypatch):
    model = network([s5()])
    layer = lru().with_system(random_system(0, states=4, channels=CHANNELS, conj_sym=False))
    unstable = network([dataclasses.replace(layer, nu_log=jnp.full(4, -30.0))])
    broken = eqx.tree_at(lambda model: model.head.bias, model, jnp.full(CLASSES, jnp.nan))
    both = network([s5(bidirectional=True)])
    tokens = network([s5()], tokens=True)
    target = tmp_path / "c"
    for call, message in (
        (lambda: to_c(model, target, name="2nd"), "to_c: name must .* got '2nd'"),
        (lambda: to_c(model, target, name="math"), "to_c: name must .* got 'math'"),
        (lambda: to_c(both, target), "block 0 is bidirectional.*--no-bidirectional"),
        (
            lambda: footprint(unstable),
            r"footprint: the states \[0, 2, 3\] of block 0 .*keep_states",
        ),
        (lambda: to_c(broken, target), r"to_c: cell.head.bias has values that are not finite"),
        (
            lambda: to_c(model, target, example=jnp.ones((4, 2))),
            r"to_c: example .*\(L, 3\).*\(4, 2\)",
        ),
        (lambda: to_c(tokens, target, example=jnp.ones(4)), r"to_c: example must be tokens"),
        (
            lambda: to_c(model, target, example=jnp.full((4, 3), jnp.nan)),
            "to_c: example has values that are not finite",
        ),
        (
            lambda: to_c(model, target, example=np.full((4, 3), 1e39)),
            "to_c: example has values that are not finite",
        ),
        (lambda: to_c(model, target, example=jnp.ones((4, 3)) * 1j), "got complex64"),
        (
            lambda: footprint(model, quantize="int8", calibration=np.zeros((2, 0, 3))),
            r"footprint: calibration data must be sequences .* L >= 1",
        ),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []

    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(RunError, match=r"cannot write .*c: No space left"):
            to_c(model, target)
    assert list(tmp_path.iterdir()) == []
    to_c(model, target)
    with pytest.raises(RunError, match="already exists"):
        to_c(model, target)
