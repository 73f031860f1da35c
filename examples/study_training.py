"""Compare ways to get a small network: train and prune, reduce while training, or train it small.

Usage: python study_training.py [--task speech] [--layer s5] [--seeds 0,1,2] [--out FOLDER]

Networks are trained with the small preset by `lastax train`. The script prints accuracies, training
times, and differences to the unpruned network with intervals of a paired bootstrap. A study that
was interrupted resumes; finished networks are kept. `make study-training` runs this script.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

import lastax
from lastax.experiments import pack_correct, paired_bootstrap, unpack_correct

PLAIN = "plain"
# Options of `lastax train`, for networks that are pruned after training.
TRAININGS = {
    PLAIN: [],
    "modal": ["--state-penalty", "modal"],
    "constant": ["--state-penalty", "modal", "--penalty-warmup", "0"],
    "hankel": ["--state-penalty", "hankel"],
}
# How these networks are pruned, without labels.
METHODS = ("last", "aire", "calibrated")
CLIPS = 256
# Ways to a network that is small when training ends, with their names in the tables.
REDUCED = "reduced"
REDUCED_CALIBRATED = "reduced-calibrated"
SCRATCH = "scratch"
DISTILLED = "distilled"
WAYS = {
    REDUCED: "reduced during training",
    REDUCED_CALIBRATED: "reduced during training with calibrated",
    SCRATCH: "from scratch",
    DISTILLED: "distilled from scratch",
}
DEFAULT_WAYS = (REDUCED, SCRATCH, DISTILLED)
# Options of `lastax train` for networks whose states are removed during training.
REDUCTIONS = {REDUCED: [], REDUCED_CALIBRATED: ["--reduce-method", "calibrated"]}
SMALL_ROWS = tuple(WAYS.values())


class Study:
    """The networks of one task and kind of layer, and what was measured on them."""

    def __init__(self, task, layer, folder, limit=None):
        self.folder = folder
        self.limit = limit
        self._preset = ["--task", task, "--layer", layer]
        self._path = folder / "networks.jsonl"

    def records(self):
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [json.loads(line) for line in lines]

    def train(self, name, seed, options):
        """The folder of a trained run."""
        run = self.folder / f"{name}-seed{seed}"
        if not (run / "results.json").is_file():
            command = [sys.executable, "-m", "lastax.cmd.main", "train", *self._preset]
            command += [*options, "--seed", str(seed), "--out", str(run)]
            command += ["--resume"] if run.exists() else []
            try:
                subprocess.run(command, check=True)
            except subprocess.CalledProcessError as error:
                sys.exit(error.returncode)  # The command has said what is wrong.
        return run

    def prune(self, name, seed, ratios):
        """Train a large network, and prune it in several ways at all ratios."""
        run = self.train(name.replace(":", "-"), seed, train_options(name))
        grid = lastax.experiments.Grid(
            methods=METHODS,
            ratios=ratios,
            reconstruct=("calibrated",),
            calibration=lastax.experiments.CalibrationOptions(CLIPS),
            limit=self.limit,
        )
        cells = lastax.experiments.sweep(
            [run], grid, run / "sweep", lastax.data.reopen_data, on_cell=show
        )
        for cell in cells:
            yield {
                **cell,
                "seed": seed,
                "row": f"{name}, {row_name(cell)}",
                "training_seconds": training_seconds(run),
            }

    def measure_small(self, way, seed, ratio):
        """Train a network that is small when training ends, unless this was done before."""
        way, _, epochs = way.partition(":")
        row = f"{WAYS[way]}, {epochs} epochs" if epochs else WAYS[way]
        identity = {"row": row, "seed": seed, "ratio": ratio, "limit": self.limit}
        for record in self.records():
            if identity.items() <= record.items():
                return record
        plain = self.train(PLAIN, seed, TRAININGS[PLAIN])
        config = lastax.training.load_config(plain)
        states = max(1, round((1 - ratio) * config.model.states))
        name = f"{row.replace(',', '').replace(' ', '-')}-{ratio:g}"
        if way in REDUCTIONS:
            options = ["--reduce-during-training", str(ratio), *REDUCTIONS[way]]
            options += ["--epochs", epochs] if epochs else []
            run = self.train(name, seed, options)
            _, model = lastax.training.load_run(run)
        elif way == SCRATCH:
            run = self.train(name, seed, ["--states", str(states)])
            _, model = lastax.training.load_run(run)
        else:
            run = self.folder / f"{name}-seed{seed}"
            model = distill(plain, states, run)
        test = lastax.data.reopen_data(config).evaluation_batches("test", limit=self.limit)
        correct = lastax.training.correct_predictions(model, test)
        record = {
            **identity,
            "states": sum(lastax.state_counts(model)),
            "test_accuracy": float(correct.mean()),
            "training_seconds": training_seconds(run),
            **pack_correct(correct),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return show(record)


def train_options(name):
    """The options of `lastax train` for a training, for example `modal`, or `modal:0.1`."""
    name, _, weight = name.partition(":")
    return [*TRAININGS[name], "--penalty-weight", weight] if weight else TRAININGS[name]


def distill(run, states, folder):
    """Train a network with `states` states per layer on the outputs of a run, without labels."""
    config, teacher = lastax.training.load_run(run)
    model = dataclasses.replace(config.model, states=states)
    small = dataclasses.replace(config, model=model, states=lastax.training.untrained_counts(model))
    network = lastax.training.build_from_config(small)
    data = lastax.data.reopen_data(config)
    resume = any((folder / "checkpoints").glob("*"))
    folder.mkdir(exist_ok=True)
    return lastax.training.fit_network(
        network, small, data, folder, teacher=teacher, resume=resume, on_epoch=print
    ).model


def training_seconds(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line)["seconds"] for line in lines)


def row_name(cell):
    if cell["method"] == lastax.experiments.UNPRUNED:
        return "unpruned"
    post_processing = lastax.experiments.PostProcessing(cell["post_processing"])
    return post_processing.label(cell["method"], cell["finetune"])


def show(record):
    print({name: value for name, value in record.items() if name != "test_correct"}, flush=True)
    return record


def by_row(found):
    """Records by row, then ratio, then seed. Networks that are not pruned have the ratio 0."""
    rows = {}
    for record in found:
        row = rows.setdefault(record["row"], {})
        row.setdefault(record["ratio"], {})[record["seed"]] = record
    return rows


def markdown(lines):
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(found, ratios):
    """Accuracies, and differences to the unpruned network of plain training, as Markdown."""
    rows = by_row(found)
    columns = ["0 %", *(f"{100 * ratio:g} %" for ratio in ratios)]
    accuracies, differences = [["network", "training, s", *columns]], [["network", *columns]]
    for lines in (accuracies, differences):
        lines.append(["---"] * len(lines[0]))
    (unpruned,) = rows[f"{PLAIN}, unpruned"].values()
    for name, row in rows.items():
        seconds = [one["training_seconds"] for cell in row.values() for one in cell.values()]
        cells = [row.get(ratio, {}) for ratio in (0.0, *ratios)]
        entries = [accuracy(cell, with_states=name.startswith(SMALL_ROWS)) for cell in cells]
        accuracies.append([name, f"{statistics.mean(seconds):.0f}", *entries])
        differences.append([name, *(difference(unpruned, cell) for cell in cells)])
    return f"{markdown(accuracies)}\n\n{markdown(differences)}"


def accuracy(cell, *, with_states):
    """Mean, and standard deviation over seeds; the number of states, if asked for."""
    if not cell:
        return ""
    values = [100 * one["test_accuracy"] for one in cell.values()]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    if not with_states:
        return f"{statistics.mean(values):.1f}{spread}"
    counts = {one["states"] for one in cell.values()}
    states = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else min(counts)
    return f"{statistics.mean(values):.1f}{spread} ({states} states)"


def difference(unpruned, cell):
    """The difference in percentage points, and its interval."""
    seeds = sorted(set(unpruned) & set(cell))
    if not seeds:
        return ""
    first, second = (
        np.stack([unpack_correct(one[seed]) for seed in seeds]) for one in (unpruned, cell)
    )
    found = paired_bootstrap(first, second)
    return f"{found}{', within noise' if found.within_noise else ''}"


def several(kind):
    """A callback for an option with several values of a kind, separated by commas."""
    return lambda context, option, text: [
        kind.convert(part, option, context) for part in text.split(",") if part
    ]


SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


class NameWithNumber(click.ParamType):
    """One of several names; for some of them, a number may follow after a colon."""

    def __init__(self, kind, names, number, without):
        self.name = kind
        self._names = names
        self._number = number
        self._without = without

    def convert(self, value, param, ctx):
        name, colon, number = value.partition(":")
        click.Choice(list(self._names)).convert(name, param, ctx)
        if not colon:
            return name
        if name in self._without:
            self.fail(f"{name!r} takes no number: {value!r}", param, ctx)
        return f"{name}:{self._number.convert(number, param, ctx):g}"


TRAINING = NameWithNumber("training", TRAININGS, click.FloatRange(min=0), [PLAIN])
WAY = NameWithNumber("way", WAYS, click.IntRange(min=1), [SCRATCH, DISTILLED])


@click.command()
@click.option("--task", default="speech", show_default=True)
@click.option("--layer", default="s5", show_default=True)
@click.option("--seeds", default="0", show_default=True, callback=several(click.INT))
@click.option(
    "--trainings", default="plain,modal", show_default=True, callback=several(TRAINING),
    help=f"Networks that are pruned after training: {', '.join(TRAININGS)}. modal:0.1 sets the "
    "weight of the penalty.",
)  # fmt: skip
@click.option(
    "--ratios", default="0.5,0.7,0.8,0.9,0.95", show_default=True, callback=several(SHARE),
    help="Shares of states to remove after training.",
)  # fmt: skip
@click.option(
    "--sizes", default="0.8,0.9", show_default=True, callback=several(SHARE),
    help="Shares of states that are gone when training ends; one training per way and share.",
)  # fmt: skip
@click.option(
    "--ways", default=",".join(DEFAULT_WAYS), show_default=True, callback=several(WAY),
    help=f"Ways to a network that is small when training ends: {', '.join(WAYS)}. reduced:44 sets "
    "the epochs.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Number of test examples.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study-training"))
def main(task, layer, seeds, trainings, ratios, sizes, ways, limit, out):
    """Train, prune and measure what is missing, and print the tables."""
    study = Study(task, layer, out / f"{task}-{layer}", limit)
    found = [
        cell
        for name in dict.fromkeys([PLAIN, *trainings])
        for seed in seeds
        for cell in study.prune(name, seed, tuple(ratios))
    ]
    found += [
        study.measure_small(way, seed, ratio) for way in ways for ratio in sizes for seed in seeds
    ]
    examples = found[0]["test_examples"]
    print(f"\n{task}, {layer}: {len(seeds)} seeds, {examples} test examples\n")
    print(tables(found, sorted({*ratios, *sizes})))


if __name__ == "__main__":
    main()
