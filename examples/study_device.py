"""Export pruned networks as C code, and print accuracies, sizes, work and times per step.

Differences of accuracies have 95 % intervals of a paired bootstrap over test clips and runs.

Usage: python study_device.py RUN... [--out FOLDER]

Each RUN is a unidirectional network for the task `speech`; runs that differ only in their seed give
means and deviations. Results are kept in the output folder, one line of JSON per exported network;
a study that was interrupted resumes. `make study-device` trains the runs and calls this script.
"""

import itertools
import json
import statistics
import tempfile
from pathlib import Path

import click
import numpy as np
from device_checks import NUMBERS, SEQUENCES, check_runtimes, export_options, split_logits
from device_code import STEPS, Features, Words, microseconds, test_clips

import lastax
from lastax.experiments import pack_correct, paired_bootstrap, unpack_correct

METHODS = ("last", "calibrated")
RATIOS = (0.5, 0.7, 0.8, 0.9)
# Which numbers have 8 bits.
WEIGHTS = NUMBERS
# The network whose outputs all runtimes compute.
CHECKED = ("calibrated", 0.8)
FIGURES = {
    "parameters": "parameters",
    "flash_bytes": "flash, bytes",
    "state_bytes": "state, bytes",
    "work": "multiply-adds per second",
    "microseconds": "µs per step",
}


def networks():
    """Methods and ratios of all networks, the unpruned one first."""
    return [("unpruned", 0.0), *itertools.product(METHODS, RATIOS)]


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Study:
    """The test split as samples, and their features by the C code."""

    def __init__(self, folder):
        self.data = lastax.data.open_data("speech")
        source = self.data.sources["test"]
        self.features = Features(folder, source.mean, source.std)
        self.clips = test_clips()
        self.x = self.features(self.clips)
        examples = [source[number] for number in range(len(source))]
        self.label = np.array([example["label"] for example in examples])
        offline = np.stack([example["x"] for example in examples])
        self.difference = float(np.abs(self.x - offline).max())
        self.cost = {**self.features.cost._asdict()}
        self.cost["microseconds"] = microseconds(self.features, self.clips)

    def measure(self, model, cell, weights, calibration):
        """What the C code of a network computes and needs, features included.

        `cell` are the logits of the test split by the streaming cell, in float32.
        """
        options = export_options(weights, calibration)
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / "word"
            sizes = lastax.deployment.to_c(model, code, name="word", **options)
            words = Words(code, len(self.data.classes))
            logits = words(self.x)
            time = microseconds(words, self.x)
        correct = logits.argmax(axis=1) == self.label
        return {
            "accuracy": float(np.mean(correct)),
            **pack_correct(correct),
            "cell_accuracy": float(np.mean(cell.argmax(axis=1) == self.label)),
            "same": float(np.mean(logits.argmax(axis=1) == cell.argmax(axis=1))),
            "difference": float(np.abs(logits - cell).max() / np.abs(cell).max()),
            "parameters": sizes.parameters,
            "flash_bytes": sizes.flash_bytes + self.cost["flash_bytes"],
            "state_bytes": sizes.state_bytes + self.cost["state_bytes"],
            "work": (STEPS - 1) * (sizes.multiply_adds + self.cost["multiply_adds"]),
            "microseconds": time + self.cost["microseconds"],
        }


def measure_run(study, run, path):
    """Measure every network of a run that `path` does not hold yet."""
    _, model = lastax.training.load_run(run)
    known = {tuple(one[name] for name in ("run", "method", "ratio", "weights"))
             for one in records(path)}  # fmt: skip
    batch = lastax.training.calibration_batch(study.data, SEQUENCES)
    reducer = lastax.pruning.Reducer(model, batch, length=study.data.length)
    for method, ratio in networks():
        missing = [one for one in WEIGHTS if (str(run), method, ratio, one) not in known]
        if not missing:
            continue
        small = model if method == "unpruned" else reducer.reduce(method, ratio=ratio).model
        cell = split_logits(small, study.x)
        for weights in missing:
            identity = {"run": str(run), "method": method, "ratio": ratio, "weights": weights}
            record = identity | study.measure(small, cell, weights, batch)
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print({name: one for name, one in record.items() if name != "test_correct"}, flush=True)


def spread(values, digits):
    """Mean ± standard deviation, without the latter if all values are equal."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    if len(set(values)) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def markdown(lines):
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_network(found):
    """The records of each network, one per run, in the order of the tables."""
    groups = {}
    for one in found:
        groups.setdefault((one["method"], one["ratio"], one["weights"]), []).append(one)
    order = [(*network, weights) for network, weights in itertools.product(networks(), WEIGHTS)]
    return {network: groups[network] for network in order if network in groups}


def identity_cells(network):
    method, ratio, weights = network
    return [f"{100 * ratio:g} %", "" if method == "unpruned" else f"`{method}`", weights]


def table(found):
    """One row per network as a Markdown table."""
    head = ["removed", "method", "weights", "accuracy, %", *FIGURES.values()]
    lines = [head, ["---"] * len(head)]
    for network, same in by_network(found).items():
        lines.append([
            *identity_cells(network),
            spread([100 * one["accuracy"] for one in same], 1),
            *(spread([one[name] for one in same], 1 if name == "microseconds" else 0)
              for name in FIGURES),
        ])  # fmt: skip
    return markdown(lines)


def differences(found):
    """Differences of accuracies in percentage points, and their intervals, as a Markdown table.

    Results of older versions do not say which clips are correct, and are left out.
    """
    groups = by_network(one for one in found if "test_correct" in one)
    correct = {
        network: {one["run"]: unpack_correct(one) for one in same}
        for network, same in groups.items()
    }

    def difference(first, second):
        runs = [run for run in correct.get(first, ()) if run in correct[second]]
        if first == second or not runs:
            return ""
        outcomes = (np.stack([correct[one][run] for run in runs]) for one in (first, second))
        return str(paired_bootstrap(*outcomes))

    reference = WEIGHTS[0]
    head = ["removed", "method", "weights", f"to unpruned, {reference}", f"to {reference}"]
    lines = [head, ["---"] * len(head)]
    for network in correct:
        method, ratio, _ = network
        lines.append([
            *identity_cells(network),
            difference(("unpruned", 0.0, reference), network),
            difference((method, ratio, reference), network),
        ])  # fmt: skip
    return markdown(lines)


def summary(study, found):
    """What the table does not show, as sentences."""
    changes = {weights: [one for one in found if one["weights"] == weights] for weights in WEIGHTS}
    changed = "; ".join(
        f"{weights}: {max(one['difference'] for one in same):.2g} of the largest logit, "
        f"{100 * min(one['same'] for one in same):.1f} % with the same class"
        for weights, same in changes.items() if same
    )  # fmt: skip
    (unpruned,) = ([100 * one["cell_accuracy"] for one in found if one["ratio"] == 0
                    and one["weights"] == "float32"],)  # fmt: skip
    cost = study.cost
    return "\n".join([
        f"- Accuracy of the unpruned networks by the streaming cell: {spread(unpruned, 1)} %.",
        f"- Features: {cost['flash_bytes']:,} bytes of flash, {cost['state_bytes']:,} bytes of "
        f"state, {cost['multiply_adds']:,} multiply-adds and {cost['microseconds']:.2f} µs per "
        f"step.",
        f"- Largest difference of a standardized feature between C and lastax: "
        f"{study.difference:.1g}.",
        f"- Largest difference of a logit between C and the cell in float32, and the smallest "
        f"share of clips with the same class, over all networks: {changed}.",
    ])  # fmt: skip


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study-device"))
def main(runs, out):
    """Measure the networks of RUNS and pruned ones as C code, and check all runtimes."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "networks.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder))
        for run in runs:
            measure_run(study, run, path)
    names = set(map(str, runs))
    found = [one for one in records(path) if one["run"] in names]
    print(f"\n{table(found)}\n\n{differences(found)}\n\n{summary(study, found)}\n")
    method, ratio = CHECKED
    print(check_runtimes(runs[0], method, ratio, study.clips, study.x, out))


if __name__ == "__main__":
    main()
