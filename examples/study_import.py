"""Prune trained networks of other people's code, and print accuracies, costs and sizes.

Differences to the unpruned network have 95 % intervals of a paired bootstrap over test records.

Usage: python study_import.py FILE... [--data-dir FOLDER] [--task scifar] [--out FOLDER]

Each FILE is a checkpoint that `lastax.interop.read` understands, of a network trained for the task.
Results are kept in the output folder, one line of JSON per pruned network; a study that was
interrupted resumes. `make study-import CHECKPOINTS="a.pth b.pth"` runs this script.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import jax
import numpy as np

import lastax
from lastax.experiments import pack_correct, paired_bootstrap, unpack_correct

RATIOS = (0.5, 0.7, 0.8, 0.9, 0.95)
DATA_FREE = ("last", "last-finite-horizon", "aire", "global-magnitude")
# Method, unlabeled training sequences, ratios, L-BFGS steps of block-wise reconstruction.
REDUCTIONS = (
    *((method, 0, RATIOS, 0) for method in DATA_FREE),
    ("empirical-balanced", 64, RATIOS, 0),
    ("calibrated", 64, RATIOS, 0),
    ("calibrated", 256, RATIOS, 0),
    ("calibrated", 128, (0.8, 0.9, 0.95), 15),
)


class PeakMemory:
    """The largest resident memory of this process since the object was made, in GB; on Linux."""

    def __init__(self):
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._readable = False
        else:
            self._readable = True

    def read(self):
        if not self._readable:
            return None
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def file_size(model):
    with tempfile.TemporaryDirectory() as folder:
        lastax.save(Path(folder) / "model", model)
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def latencies(models, x, repeats=15):
    """Median milliseconds of one sequence: models take turns, so that load affects all alike."""
    compiled = [jax.jit(lambda x, model=model: model(x)) for model in models]
    for function in compiled:
        function(x).block_until_ready()
    times = [[] for _ in models]
    for _ in range(repeats):
        for function, mine in zip(compiled, times, strict=True):
            started = time.perf_counter()
            function(x).block_until_ready()
            mine.append(1e3 * (time.perf_counter() - started))
    return [statistics.median(mine) for mine in times]


def missing_ratios(path, reduction):
    method, sequences, ratios, steps = reduction
    known = {(one["method"], one["sequences"], one["ratio"], one["steps"]) for one in records(path)}
    return [ratio for ratio in ratios if (method, sequences, ratio, steps) not in known]


def measure(file, task, location, images, path, reduction):
    """Measure one entry of `REDUCTIONS` on one network, as far as `path` does not hold it yet."""
    method, sequences, _, steps = reduction
    missing = missing_ratios(path, reduction)
    imported = lastax.interop.read(file)
    model = imported.model
    own, root = location
    config = lastax.interop.foreign_data_config(imported, task, data=own)
    data = lastax.data.open_data(config, root)
    sample = np.asarray(next(iter(data.evaluation_batches("test", limit=1)))["x"][0])

    def add(**record):
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        shown = {name: value for name, value in record.items() if name != "test_correct"}
        print(shown, flush=True)

    def evaluated(network):
        batches = data.evaluation_batches("test", limit=images)
        correct = lastax.training.correct_predictions(network, batches)
        return {"accuracy": float(correct.mean()), **pack_correct(correct)}

    if not any(one["method"] == "unpruned" for one in records(path)):
        add(
            method="unpruned", sequences=0, ratio=0.0, steps=0, **evaluated(model),
            states=sum(lastax.state_counts(model)), bytes=file_size(model),
        )  # fmt: skip
    batch = lastax.training.calibration_batch(data, sequences) if sequences else None
    reducer = lastax.pruning.Reducer(model, batch, length=data.length, reconstruction_steps=steps)
    for number, ratio in enumerate(missing):
        peak, started = PeakMemory(), time.monotonic()
        reduction = reducer.reduce(method, ratio=ratio)
        seconds = time.monotonic() - started
        peak_gb = peak.read() if number == 0 else None
        before, after = latencies([model, reduction.model], sample)
        add(
            method=method, sequences=sequences, ratio=ratio, steps=steps,
            # The first reduction also measures the calibration data.
            first=number == 0, seconds=seconds, peak_gb=peak_gb,
            **evaluated(reduction.model), states=sum(reduction.states_after),
            bytes=file_size(reduction.model), ms_before=before, ms_after=after,
        )  # fmt: skip


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def name(record):
    parts = [f"`{record['method']}`"]
    parts += [f"{record['sequences']} images"] if record["sequences"] else []
    parts += [f"{record['steps']} steps of reconstruction"] if record["steps"] else []
    return ", ".join(parts)


def place(record):
    """Rows of the table in the order of `REDUCTIONS`."""
    order = [(method, sequences, steps) for method, sequences, _, steps in REDUCTIONS]
    key = (record["method"], record["sequences"], record["steps"])
    return order.index(key) if key in order else -1


def difference(unpruned, record):
    """The difference in percentage points, and its interval. Older results have none."""
    if "test_correct" not in unpruned or "test_correct" not in record:
        return ""
    first, second = (unpack_correct(one)[None] for one in (unpruned, record))
    return str(paired_bootstrap(first, second))


def tables(found):
    """Accuracies and costs of one network, differences and sizes, as Markdown tables."""
    found = sorted(found, key=place)
    (unpruned,) = (one for one in found if one["method"] == "unpruned")
    head = [f"unpruned: {100 * unpruned['accuracy']:.1f}", *(f"{100 * r:g} %" for r in RATIOS)]
    head += ["first, s", "next, s", "GB"]
    lines = [head, ["---"] * len(head)]
    differences = [["difference to unpruned, points", *head[1 : 1 + len(RATIOS)]]]
    differences.append(["---"] * len(differences[0]))
    for _, group in itertools.groupby(found, key=name):
        rows = {one["ratio"]: one for one in group}
        if "seconds" not in next(iter(rows.values())):
            continue
        first = [one["seconds"] for one in rows.values() if one["first"]]
        later = [one["seconds"] for one in rows.values() if not one["first"]]
        peaks = [one["peak_gb"] for one in rows.values() if one["peak_gb"] is not None]
        row = name(next(iter(rows.values())))
        differences.append([
            row, *(difference(unpruned, rows[r]) if r in rows else "" for r in RATIOS)
        ])  # fmt: skip
        lines.append([
            row,
            *(f"{100 * rows[r]['accuracy']:.1f}" if r in rows else "" for r in RATIOS),
            f"{max(first):.0f}" if first else "",
            f"{statistics.median(later):.0f}" if later else "",
            f"{max(peaks):.1f}" if peaks else "",
        ])  # fmt: skip
    sizes = ["", "file, kB", "ms per image"]
    lines_of_sizes = [sizes, ["---"] * 3, ["unpruned", f"{unpruned['bytes'] / 1e3:.0f}", "1"]]
    for ratio in RATIOS:
        same = [one for one in found if one["ratio"] == ratio and one["method"] == "calibrated"]
        if same:
            relative = statistics.median(one["ms_after"] / one["ms_before"] for one in same)
            kb = statistics.median(one["bytes"] for one in same) / 1e3
            lines_of_sizes.append([f"{100 * ratio:g} %", f"{kb:.0f}", f"{relative:.2f}"])
    text = ["\n".join(f"| {' | '.join(line)} |" for line in part) for part in
            (lines, differences, lines_of_sizes)]  # fmt: skip
    return "\n\n".join(text)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of all data sets.")
@click.option("--data", help="File or folder of the tasks arrays and audio-folder.")
@click.option("--task", default="scifar", show_default=True)
@click.option("--images", default=2000, show_default=True, help="Test records to evaluate on.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study-import"))
@click.option("--only", type=int, help="Number of one entry of REDUCTIONS, for this process.")
def main(files, data_dir, data, task, images, out, only):
    """Prune the networks of FILES by several methods, and print tables."""
    present = [file for file in files if file.exists()]
    for file in set(files) - set(present):
        print(f"skipped: {file} does not exist")
    if not present:
        print('skipped: pass checkpoints, for example make study-import CHECKPOINTS="a.pth b.pth"')
        return
    out.mkdir(parents=True, exist_ok=True)
    for (number, reduction), file in itertools.product(enumerate(REDUCTIONS), present):
        path = out / f"{file.stem}.jsonl"
        if not missing_ratios(path, reduction):
            continue
        if only is None:
            # A process of its own, so that its peak memory is that of this method.
            settings = {"--data-dir": data_dir, "--data": data, "--task": task, "--images": images}
            settings |= {"--out": out, "--only": number}
            given = [f"{name}={value}" for name, value in settings.items() if value is not None]
            subprocess.run([sys.executable, __file__, file, *given], check=True)
        elif only == number:
            measure(file, task, (data, data_dir), images, path, reduction)
    if only is not None:
        return
    for file in present:
        print(f"\n## {file.stem}\n\n{tables(records(out / f'{file.stem}.jsonl'))}")


if __name__ == "__main__":
    main()
