"""Accuracy of networks with weights and activations in 8 bits, by the ranges of activations.

Usage: python device_activations.py RUN...

Each RUN is a unidirectional S5 network for the task `speech`. The range of an activation is its
largest value on the calibration clips, as in `lastax export --quantize int8`, or it is smaller and
larger values are clipped. The last case also rounds the states where `C` reads them. Differences of
accuracy have 95 % intervals of a paired bootstrap.
"""

from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np

import lastax
from lastax.experiments import paired_bootstrap

RATIOS = (0.0, 0.8, 0.9)
CLIPS = 64
SMALLEST, LARGEST = -128, 127


def keep(name, value):
    """Round nothing."""
    del name
    return value


def logits_and_inputs(cell, x, rounded):
    """The logits of sequences, and the inputs of each matrix in all steps.

    `rounded(name, value)` is what a matrix reads. Names of states begin with "states".
    """

    def read(inputs, name, value):
        inputs[name] = value
        return rounded(name, value)

    def step(carry, x):
        states, inputs = [], {}
        h = cell.embed(read(inputs, "input", x))
        for number, (block, state) in enumerate(zip(cell.blocks, carry[0], strict=True)):
            recurrence, u = block.recurrence, block.norm(h)
            re, im = jnp.split(state, 2, axis=1)
            lam_re, lam_im = recurrence.lam_re, recurrence.lam_im
            turned = jnp.concatenate([lam_re * re - lam_im * im, lam_re * im + lam_im * re], axis=1)
            state = turned + read(inputs, f"u{number}", u) @ recurrence.B
            y = read(inputs, f"states{number}", state) @ recurrence.C + recurrence.D * u
            g = jax.nn.gelu(y)
            h = h + g * jax.nn.sigmoid(block.gate.gate(read(inputs, f"gate{number}", g)))
            states.append(state)
        total, steps = carry[1] + h, carry[2] + 1
        logits = cell.head(read(inputs, "head", total / steps))
        return (states, total, steps), (logits, inputs)

    sizes = [2 * len(block.recurrence.lam_re) for block in cell.blocks]
    states = [jnp.zeros((len(x), size)) for size in sizes]
    start = (states, jnp.zeros((len(x), len(cell.embed.bias))), 0.0)
    _, (logits, inputs) = jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))
    return logits[-1], inputs


def rounding(scales, *, states):
    """Round to 8 bits, states only if `states` is true."""

    def rounded(name, value):
        if name.startswith("states") and not states:
            return value
        return jnp.clip(jnp.round(value / scales[name]), SMALLEST, LARGEST) * scales[name]

    return rounded


def largest(values):
    """The scale of the largest value."""
    return np.abs(values).max() / LARGEST


def percentile(values):
    """The scale that clips one of 10,000 values."""
    return np.quantile(np.abs(values), 0.9999) / LARGEST


def least_squares(values):
    """The scale with the smallest squared error, of 29."""
    scales = largest(values) * np.linspace(0.3, 1, 29)
    rounded = (np.clip(np.rint(values / scale), SMALLEST, LARGEST) * scale for scale in scales)
    return scales[np.argmin([np.mean((one - values) ** 2) for one in rounded])]


NOTHING = "nothing"
# The range of an activation, and whether states are rounded too.
CASES = {
    "weights and activations, largest value": (largest, False),
    "weights and activations, percentile": (percentile, False),
    "weights and activations, least squares": (least_squares, False),
    "weights, activations and states, largest value": (largest, True),
}


def measure(model, calibration, x, label):
    """What is rounded, which sequences are classified correctly, and changes of the logits.

    Changes are the root mean square, and the largest one, relative to the unrounded logits.
    """
    plain = lastax.streaming(model, compensated=False)
    rounded = lastax.deployment.quantized_cell(model, compensated=False)
    _, inputs = jax.jit(lambda cell, x: logits_and_inputs(cell, x, keep))(rounded, calibration)
    inputs = {name: np.asarray(values).ravel() for name, values in inputs.items()}
    cases = {NOTHING: (plain, keep), "weights": (rounded, keep)}
    for name, (scale, states) in CASES.items():
        scales = {key: scale(values) for key, values in inputs.items()}
        cases[name] = (rounded, rounding(scales, states=states))
    wanted = None
    for name, (cell, how) in cases.items():
        logits = jax.jit(lambda cell, x, how=how: logits_and_inputs(cell, x, how)[0])(cell, x)
        logits = np.asarray(logits)
        wanted = logits if wanted is None else wanted
        change = np.sqrt(np.mean((logits - wanted) ** 2) / np.mean(wanted**2))
        largest_change = np.abs(logits - wanted).max() / np.abs(wanted).max()
        yield name, logits.argmax(axis=1) == label, (change, largest_change)


def show(ratio, of_runs):
    """One line per case: means over runs, the largest change of all, and differences."""
    unrounded = np.stack([correct for correct, _ in of_runs[NOTHING]])
    for name, found in of_runs.items():
        correct = np.stack([one for one, _ in found])
        difference = "" if name == NOTHING else str(paired_bootstrap(unrounded, correct))
        changes = np.array([change for _, change in found])
        mean, worst = 100 * changes[:, 0].mean(), 100 * changes[:, 1].max()
        line = [f"{100 * ratio:g} %", name, f"{100 * correct.mean():.1f}", difference]
        print("|", " | ".join([*line, f"{mean:.1f} %", f"{worst:.1f} %"]), "|", flush=True)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(runs):
    """Measure the networks of RUNS, and pruned by `calibrated`."""
    data = lastax.data.open_data("speech")
    examples = list(data.sources["test"])
    x, label = (np.stack([example[name] for example in examples]) for name in ("x", "label"))
    batch = lastax.training.calibration_batch(data, CLIPS)
    found = {ratio: {} for ratio in RATIOS}
    for run in runs:
        _, model = lastax.training.load_run(run)
        reducer = lastax.pruning.Reducer(model, batch, length=data.length)
        for ratio, of_runs in found.items():
            small = reducer.reduce("calibrated", ratio=ratio).model if ratio else model
            for name, *measured in measure(small, np.asarray(batch["x"]), x, label):
                of_runs.setdefault(name, []).append(measured)
    columns = ("removed", "rounded to 8 bits", "accuracy, %", "difference", "RMS change")
    print("|", " | ".join([*columns, "largest change"]), "|")
    print("|" + " --- |" * (1 + len(columns)))
    for ratio, of_runs in found.items():
        show(ratio, of_runs)


if __name__ == "__main__":
    main()
