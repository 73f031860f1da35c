"""Accuracy of networks with weights in 8 bits, if activations are rounded to 8 bits as well.

Usage: python device_activations.py RUN...

Each RUN is a unidirectional S5 network for the task `speech`. The inputs of all matrices are
scaled by their largest values on the calibration clips. lastax does not export such networks;
docs/device.md tells why.
"""

from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np

import lastax

RATIOS = (0.0, 0.8, 0.9)
CLIPS = 64
LARGEST = 127


def keep(name, value):
    """Round nothing."""
    del name
    return value


def logits_and_peaks(cell, x, rounded):
    """The logits of sequences, and the largest input of each matrix.

    `rounded(name, value)` is what a matrix reads. Names of states begin with "states".
    """

    def read(peaks, name, value):
        peaks[name] = jnp.abs(value).max()
        return rounded(name, value)

    def step(carry, x):
        states, total, peaks = [], carry[1], {}
        h = cell.embed(read(peaks, "input", x))
        for number, (block, state) in enumerate(zip(cell.blocks, carry[0], strict=True)):
            recurrence, u = block.recurrence, block.norm(h)
            re, im = jnp.split(state, 2, axis=1)
            lam_re, lam_im = recurrence.lam_re, recurrence.lam_im
            turned = jnp.concatenate([lam_re * re - lam_im * im, lam_re * im + lam_im * re], axis=1)
            state = turned + read(peaks, f"u{number}", u) @ recurrence.B
            y = read(peaks, f"states{number}", state) @ recurrence.C + recurrence.D * u
            g = jax.nn.gelu(y)
            h = h + g * jax.nn.sigmoid(block.gate.gate(read(peaks, f"gate{number}", g)))
            states.append(state)
        return (states, total + h), peaks

    sizes = [2 * len(block.recurrence.lam_re) for block in cell.blocks]
    states = [jnp.zeros((len(x), size)) for size in sizes]
    start = (states, jnp.zeros((len(x), len(cell.embed.bias))))
    (_, total), peaks = jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))
    peaks = {name: peak.max() for name, peak in peaks.items()}
    return cell.head(read(peaks, "head", total / x.shape[1])), peaks


def rounding(peaks, *, states):
    """Round to 8 bits, states only if `states` is true."""

    def rounded(name, value):
        if name.startswith("states") and not states:
            return value
        scale = peaks[name] / LARGEST
        return jnp.clip(jnp.round(value / scale), -LARGEST, LARGEST) * scale

    return rounded


def measure(model, calibration, x, label):
    """Accuracies in percent and largest changes of logits, by what is rounded."""
    plain = lastax.streaming(model, compensated=False)
    rounded = lastax.deployment.quantized_cell(model, compensated=False)
    _, peaks = logits_and_peaks(plain, calibration, keep)
    cases = {
        "float32": (plain, keep),
        "weights": (rounded, keep),
        "weights and activations, states in float32": (rounded, rounding(peaks, states=False)),
        "weights, activations and states": (rounded, rounding(peaks, states=True)),
    }
    found = {}
    for name, (cell, how) in cases.items():
        logits = jax.jit(lambda cell, x, how=how: logits_and_peaks(cell, x, how)[0])(cell, x)
        found[name] = np.asarray(logits)
    wanted = found["float32"]
    for name, logits in found.items():
        accuracy = 100 * np.mean(logits.argmax(axis=1) == label)
        change = 100 * np.abs(logits - wanted).max() / np.abs(wanted).max()
        print(f"  {name}: {accuracy:.1f} %, logits change by up to {change:.1f} %", flush=True)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(runs):
    """Measure the networks of RUNS, and pruned by `calibrated`."""
    data = lastax.data.open_data("speech")
    examples = list(data.sources["test"])
    x, label = (np.stack([example[name] for example in examples]) for name in ("x", "label"))
    batch = lastax.training.calibration_batch(data, CLIPS)
    for run in runs:
        _, model = lastax.training.load_run(run)
        reducer = lastax.pruning.Reducer(model, batch, length=data.length)
        for ratio in RATIOS:
            small = reducer.reduce("calibrated", ratio=ratio).model if ratio else model
            print(f"{run}, {100 * ratio:g} % of the states removed", flush=True)
            measure(small, np.asarray(batch["x"]), x, label)


if __name__ == "__main__":
    main()
