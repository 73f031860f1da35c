"""How much a refit depends on the data that it is calibrated on: python calibration_drift.py RUN..

Networks trained on the bundled speech task are refitted on clips that are more and more unlike
those that they are tested on; mean test accuracy over the runs.
"""

import sys
from pathlib import Path

import numpy as np

import lastax
from lastax.data import DATASETS, data_folder, evaluation_batches

RATIOS = (0.7, 0.9)


def stacked(source, positions):
    records = [source[int(i)] for i in positions]
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def calibration_sets(train, rng):
    drawn = rng.permutation(len(train))
    clips = stacked(train, drawn[:64])
    x = clips["x"]
    mean, spread = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
    yield "64 clips", clips
    for count in (8, 16, 256):
        yield f"{count} clips", stacked(train, drawn[:count])
    of_one_word = [i for i in drawn if train[int(i)]["label"] == 0]
    yield "64 clips of one word", stacked(train, of_one_word[:64])
    for level in (0.5, 1.0):
        noise = level * spread * rng.normal(size=x.shape)
        yield f"noise of {level:g} standard deviations added", {**clips, "x": x + noise}
    yield "clips played backward", {**clips, "x": x[:, ::-1]}
    yield (
        "noise alone, of the clips' mean and spread",
        {
            **clips,
            "x": mean + spread * rng.normal(size=x.shape),
        },
    )


runs = [lastax.training.load_run(Path(folder)) for folder in sys.argv[1:]]
if not runs:
    sys.exit(__doc__)
speech = DATASETS["speech"].open(data_folder(None), features="log-mel")
accuracies: dict[str, list[list[float]]] = {}
for config, model in runs:
    rng = np.random.default_rng(config.seed)
    for name, batch in calibration_sets(speech.sources["train"], rng):
        batch = {**batch, "x": batch["x"].astype(np.float32)}
        calibration = lastax.calibrate(model, batch)
        reached = []
        for ratio in RATIOS:
            small, report = calibration.refit(ratio=ratio)
            at_old_size = lastax.surgery.expand_to_original(small, model, report.keep)
            batches = evaluation_batches(speech.sources["test"], batch_size=128)
            reached.append(lastax.training.evaluate(at_old_size, batches).accuracy)
        accuracies.setdefault(name, []).append(reached)
print("removed".ljust(44), *(f"{100 * ratio:6.0f} %" for ratio in RATIOS))
for name, reached in accuracies.items():
    print(name.ljust(44), *(f"{100 * value:8.1f}" for value in np.mean(reached, axis=0)))
