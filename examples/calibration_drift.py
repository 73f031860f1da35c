"""Measure how the accuracy after a refit depends on the calibration data.

Usage: python calibration_drift.py RUN...

Each RUN is a folder of a network trained on the speech task. The script refits the network on
clips that differ more and more from the test clips. It prints the mean test accuracy of all runs,
and the difference to a refit on 64 clips with the 95 % interval of a paired bootstrap.
"""

import sys

import numpy as np

import lastax
from lastax.experiments import paired_bootstrap

RATIOS = (0.7, 0.9)
REFERENCE = "64 clips"


def stacked(source, positions):
    records = [source[int(position)] for position in positions]
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def calibration_sets(train, rng):
    order = rng.permutation(len(train))
    clips = stacked(train, order[:64])
    x = clips["x"]
    mean, spread = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
    yield REFERENCE, clips
    for count in (8, 16, 256):
        yield f"{count} clips", stacked(train, order[:count])
    one_word = [position for position in order if train[int(position)]["label"] == 0]
    yield "64 clips of one word", stacked(train, one_word[:64])
    for level in (0.5, 1.0):
        noise = level * spread * rng.normal(size=x.shape)
        yield f"noise of {level:g} standard deviations added", {**clips, "x": x + noise}
    yield "clips played backward", {**clips, "x": x[:, ::-1]}
    noise = mean + spread * rng.normal(size=x.shape)
    yield "noise with the mean and spread of the clips", {**clips, "x": noise}


def outcomes(folder):
    """Calibration sets by name, and which test clips are classified correctly at each ratio."""
    config, model = lastax.training.load_run(folder)
    speech = lastax.data.open_data(config.data)
    rng = np.random.default_rng(config.seed)
    for name, batch in calibration_sets(speech.sources["train"], rng):
        batch = {**batch, "x": batch["x"].astype(np.float32)}
        calibration = lastax.calibrate(model, batch)
        correct = []
        for ratio in RATIOS:
            small, report = lastax.refit(model, calibration, ratio=ratio)
            # At the original shapes, so that all models share one compiled program.
            full = lastax.surgery.expand_to_original(model, small, report.keep)
            test = speech.evaluation_batches("test")
            correct.append(lastax.training.correct_predictions(full, test))
        yield name, np.stack(correct)


def main(folders):
    of_runs = [dict(outcomes(folder)) for folder in folders]
    columns = [f"{100 * ratio:g} % removed" for ratio in RATIOS]
    print("| calibrated on |", " | ".join(f"{name} | difference" for name in columns), "|")
    print("| --- |" + " --- |" * 2 * len(RATIOS))
    for name in of_runs[0]:
        # Runs, ratios, examples.
        found, reference = (np.stack([one[key] for one in of_runs]) for key in (name, REFERENCE))
        shown = []
        for i in range(len(RATIOS)):
            shown.append(f"{100 * found[:, i].mean():.1f}")
            difference = paired_bootstrap(reference[:, i], found[:, i])
            shown.append("" if name == REFERENCE else str(difference))
        print("|", " | ".join([name, *shown]), "|")


if len(sys.argv) < 2:
    sys.exit(__doc__)
main(sys.argv[1:])
