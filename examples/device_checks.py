"""One network in every runtime: the largest differences of its logits.

`study_device.py` uses it.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.export
import numpy as np
import soundfile
from device_code import RATE, Words

import lastax

CLIPS = 64
SEQUENCES = 64
_INT8 = ("--quantize", "int8", "--calibration", SEQUENCES)
CHUNK = 37
WEIGHTS = ("float32", "int8")
# As WEIGHTS, and what else is in 8 bits.
NUMBERS = (*WEIGHTS, "int8 + activations")
ONNX_TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32}


@jax.jit
def _by_chunks(cell, xs):
    state, logits = cell.init(), None
    for start in range(0, xs.shape[0], CHUNK):
        state, logits = cell.chunk(state, xs[start : start + CHUNK])
    return logits[-1]


@jax.jit
def _by_steps(cell, xs):
    return jax.lax.scan(lambda state, x: cell.step(state, x), cell.init(), xs)[1][-1]


def split_logits(model, x):
    """The logits after the last step of each sequence, by the streaming cell."""
    cell = lastax.streaming(model)
    return np.asarray(jax.jit(jax.vmap(_by_steps, in_axes=(None, 0)))(cell, x))


def export_options(numbers, calibration):
    """The arguments of `to_c` and `to_onnx` for one of NUMBERS.

    `calibration` are unlabeled sequences for the activations.
    """
    if numbers == "float32":
        return {}
    activations = {"calibration": calibration} if numbers == NUMBERS[-1] else {}
    return {"quantize": "int8", **activations}


def run_lastax(*words, sound=None):
    """Call the command line; returns what it printed."""
    command = [sys.executable, "-m", "lastax.cmd.main", *map(str, words)]
    return subprocess.run(command, check=True, input=sound, stdout=subprocess.PIPE).stdout


def stablehlo(file, x):
    """Whole sequences in JAX alone."""
    network = jax.export.deserialize(bytearray(file.read_bytes()))
    return jax.jit(network.call)(x)


def stablehlo_step(file, x):
    """Step by step in JAX alone."""
    cell = jax.export.deserialize(bytearray(file.read_bytes()))
    (_, shapes), _ = jax.tree.unflatten(cell.in_tree, cell.in_avals)
    state = {name: np.zeros((len(x), *a.shape[1:]), a.dtype) for name, a in shapes.items()}
    step = jax.jit(cell.call)
    for one in np.swapaxes(x, 0, 1):
        logits, state = step(one, state)
    return logits


def _session(file):
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    # By default, onnxruntime also rounds the inputs of matrices of integers.
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(file, settings)


def onnx(file, x):
    """Step by step in onnxruntime."""
    session = _session(file)
    _, *states = session.get_inputs()
    state = {s.name: np.zeros((len(x), *s.shape[1:]), ONNX_TYPES[s.type]) for s in states}
    for one in np.swapaxes(x, 0, 1):
        logits, *new = session.run(None, {"x": one, **state})
        state = dict(zip(state, new, strict=True))
    return logits


def onnx_sequence(file, x):
    """Whole sequences in onnxruntime."""
    return _session(file).run(None, {"x": x})[0]


def safetensors(file, x):
    """Arrays, read back as a network of lastax."""
    return lastax.predict(lastax.interop.read(file).model, {"x": x})


RUNTIMES = {
    "stablehlo": stablehlo,
    "stablehlo-step": stablehlo_step,
    "onnx": onnx,
    "onnx-sequence": onnx_sequence,
    "safetensors": safetensors,
}


def check_runtimes(run, method, ratio, clips, x, out):
    """Prune a run, export it to all targets, run them and stream a clip; returns Markdown."""
    pruned = out / f"{run.name}-{method}-{100 * ratio:g}"
    if not pruned.exists():
        run_lastax("prune", run, "--method", method, "--ratio", ratio, "--out", pruned)
    config, model = lastax.training.load_run(pruned)
    x = x[:CLIPS]
    whole = np.asarray(lastax.predict(model, {"x": x}))
    rounded = np.asarray(lastax.predict(lastax.deployment.quantized_cell(model), {"x": x}))
    cell = lastax.streaming(model)
    found = {
        f"chunks of {CHUNK} steps": jax.vmap(_by_chunks, in_axes=(None, 0))(cell, x),
        "single steps": split_logits(model, x),
    }
    with tempfile.TemporaryDirectory() as folder:
        for target, logits in RUNTIMES.items():
            found |= _exported(pruned, Path(folder), target, logits, x)
            if target.startswith("onnx"):
                found |= _exported(pruned, Path(folder), target, logits, x, "int8")
        for weights in WEIGHTS:
            code = Path(folder) / weights
            flags = _flags(weights)
            run_lastax("export", pruned, "--to", "c", "--name", "word", "--out", code, *flags)
            found[_label("c", weights)] = Words(code, len(config.labels))(x)
        activations = list(_with_activations(pruned, Path(folder), config, model, x))
        streamed = list(_streamed(pruned, clips[0, :RATE], Path(folder), config.labels))
    lines = ["| output | largest difference |", "| --- | --- |"]
    for name, got in found.items():
        wanted = rounded if name.endswith("int8") else whole
        share = np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max()
        lines.append(f"| {name} | {share:.1g} |")
    expected = np.asarray(jax.nn.softmax(whole[0]))
    change = max(float(np.abs(got - expected).max()) for got in streamed)
    ending = f"`lastax stream` on a clip and through a pipe: probabilities within {change:.1g}."
    return "\n".join([*lines, "", *activations, ending])


def _label(target, weights):
    return f"{target}, int8" if weights == "int8" else target


def _flags(weights):
    """Only weights are rounded: float32 arithmetic may round an activation to another integer."""
    return ("--quantize", weights, "--calibration", 0) if weights == "int8" else ()


def _with_activations(run, folder, config, model, x):
    """Sentences about files whose activations have 8 bits too.

    Single inputs can be rounded to another integer, so that a few logits differ more than others.
    """
    data = lastax.data.reopen_data(config)
    batch = lastax.training.calibration_batch(data, SEQUENCES)
    cell = lastax.deployment.quantized_cell(model, calibration=batch)
    wanted = np.asarray(lastax.predict(cell, {"x": x}))
    run_lastax("export", run, *_INT8, "--to", "c", "--name", "word", "--out", folder / "integers")
    found = {"c": Words(folder / "integers", len(config.labels))(x)}
    if all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        file = folder / "integers.onnx"
        run_lastax("export", run, *_INT8, "--to", "onnx-sequence", "--out", file)
        found["onnx-sequence"] = onnx_sequence(file, x)
    for name, logits in found.items():
        change = np.abs(logits - wanted).max(axis=1) / np.abs(wanted).max()
        same = np.mean(logits.argmax(axis=1) == wanted.argmax(axis=1))
        yield (
            f"Activations in 8 bits, {name} and `quantized_cell`: the median difference is "
            f"{np.median(change):.1g}, the largest {change.max():.1g}; {100 * same:.1f} % with the "
            "same class."
        )


def _exported(run, folder, target, logits, x, weights="float32"):
    """The logits of an exported file, or nothing if its runtime is missing."""
    needed = ("onnx", "onnxruntime") if target.startswith("onnx") else ()
    if not all(map(importlib.util.find_spec, needed)):
        print(f"skipped: {target} needs these packages: pip install onnx onnxruntime")
        return {}
    file = folder / f"{target}-{weights}"
    flags = _flags(weights)
    run_lastax("export", run, "--to", target, "--out", file, *flags)
    return {_label(target, weights): logits(file, x)}


def _streamed(run, samples, folder, labels):
    """Probabilities at the end of a clip, from a file and from a pipe."""
    file = folder / "clip.wav"
    soundfile.write(file, samples, RATE, subtype="PCM_16")
    pcm = np.rint(samples * 2**15).astype("<i2").tobytes()
    sounds = ((file, (), None), ("-", ("--rate", RATE), pcm))
    for place, words, sound in sounds:
        output = run_lastax("stream", run, place, *words, "--json", sound=sound)
        last = json.loads(output.splitlines()[-1])["probabilities"]
        yield np.array([last[name] for name in labels])
