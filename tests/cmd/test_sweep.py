"""`lastax sweep`: every cell is measured once, and the summary is right."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import click
import jax
import numpy as np
import pytest
from PIL import Image

import lastax
from lastax._errors import RunError
from lastax.cmd.sweep import sweep
from lastax.experiments._cells import identity_key, run_settings


def test_sweep_covers_methods_and_ratios(cli, trained, tmp_path):
    methods = "last,empirical-energy,random,balanced,calibrated"
    options = ("--methods", methods, "--ratios", "0,0.5", "--out", tmp_path, "--json")
    answer = cli("sweep", trained, *options).result
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    # LAST has another row with BatchNorm recalibrated.
    assert len(rows) == len(answer["cells"]) == 1 + 5 * 2 + 2
    assert {cell["run_settings"]["channels"] for cell in answer["cells"]} == {8}
    unpruned = rows[0]["test_accuracy"]
    assert rows[0]["method"] == "unpruned"
    assert {
        row["test_accuracy"]
        for row in rows
        if float(row["ratio"]) == 0 and row["post_processing"] == "none"
    } == {unpruned}
    assert {row["states"] for row in rows[1:] if float(row["ratio"]) == 0.5} <= {"4", "3", "2"}
    with Image.open(tmp_path / "sweep.png") as picture:
        assert min(picture.size) > 300
    assert json.loads((tmp_path / "sweep.json").read_text())["cells"] == answer["cells"]


def test_paired_differences_are_those_of_the_accuracies(cli, trained, tmp_path):
    options = ("--methods", "lamp,random", "--ratios", "0.5,0.75", "--out", tmp_path, "--paired")
    answer = cli("sweep", trained, *options, "--json").result
    accuracy = {(cell["method"], cell["ratio"]): cell["test_accuracy"] for cell in answer["cells"]}
    assert [(row["ratio"], row["method"]) for row in answer["paired"]] == [
        (0.5, "unpruned"),
        (0.5, "random"),
        (0.75, "unpruned"),
        (0.75, "random"),
    ]
    for row in answer["paired"]:
        ratio = 0 if row["method"] == "unpruned" else row["ratio"]
        difference = accuracy[row["method"], ratio] - accuracy["lamp", row["ratio"]]
        assert row["difference"] == pytest.approx(difference, abs=1e-6)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["examples"] == answer["cells"][0]["test_examples"] > 0
    (gained,) = (
        row for row in answer["paired"] if (row["ratio"], row["method"]) == (0.75, "unpruned")
    )
    (row,) = (row for row in answer["paired"] if (row["ratio"], row["method"]) == (0.75, "random"))
    shown = cli("sweep", trained, *options).stdout
    interval = f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
    assert f"{100 * row['difference']:+.2f}" in shown
    assert interval in shown
    # The other way round, the differences have the opposite sign.
    lost = cli("sweep", trained, *options, "--baseline", "unpruned", "--json").result["paired"]
    (other,) = (row for row in lost if (row["ratio"], row["method"]) == (0.75, "lamp"))
    assert (other["baseline"], other["examples"]) == ("unpruned", row["examples"])
    assert other["difference"] == pytest.approx(-gained["difference"])
    # Cells of older versions have no single examples.
    path = tmp_path / "cells.jsonl"
    cells = [json.loads(line) for line in path.read_text().splitlines()]
    del cells[-1]["test_correct"]
    path.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    ended = cli("sweep", trained, *options)
    assert ended.status == 1
    assert "random at 0.75" in ended.stderr


def test_cells_are_those_of_pruned_networks(cli, trained, tmp_path):
    options = ("--methods", "lamp", "--ratios", "0.5")
    answer = cli("sweep", trained, *options, "--out", tmp_path / "s", "--json").result
    alone = cli(
        "prune", trained, "--method", "lamp", "--ratio", 0.5, "--out", tmp_path / "p", "--json"
    ).result
    (cell,) = (cell for cell in answer["cells"] if cell["method"] == "lamp")
    assert cell["layers"] == [row["states_after"] for row in alone["layers"]]
    for split in ("validation", "test"):
        assert cell[f"{split}_accuracy"] == pytest.approx(alone[split]["after"], abs=0.003)


def test_an_interrupted_sweep_resumes(cli, trained, tmp_path):
    options = ("--methods", "lamp,aire", "--ratios", "0.25,0.5", "--out", tmp_path, "--json")
    whole = cli("sweep", trained, *options).result
    path = tmp_path / "cells.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    first = json.loads(lines[1]) | {"seconds": -1.0}
    # The last lines are lost, one in part; the remaining cells are not measured again.
    path.write_bytes(lines[0] + json.dumps(first).encode() + b"\n" + lines[2][:20])
    again = cli("sweep", trained, *options).result
    assert again["cells"][1]["seconds"] == -1
    for one, other in zip(whole["cells"], again["cells"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    # Other cells are added to the same folder.
    more = cli("sweep", trained, "--methods", "lamp", "--ratios", "0.75", *options[4:]).result
    assert len(path.read_text().splitlines()) == 6
    assert [cell["ratio"] for cell in more["cells"]] == [0, 0.75]
    path.write_text("damaged\n" + path.read_text())
    ended = cli("sweep", trained, *options)
    assert ended.status == 1
    assert "line 1 is damaged" in ended.stderr


def test_other_settings_are_other_cells(cli, trained, tmp_path):
    options = ("--methods", "random,calibrated", "--ratios", "0.5", "--out", tmp_path, "--json")
    first = cli("sweep", trained, *options, "--calibration", 3).result
    assert cli("sweep", trained, *options, "--calibration", 3).result["cells"] == first["cells"]
    other = cli("sweep", trained, *options, "--calibration", 4, "--seed", 1).result
    assert [cell["method"] for cell in other["cells"]] == ["unpruned", "random", "calibrated"]
    assert other["cells"][0] == first["cells"][0]
    assert other["cells"][1]["settings"] == {"pruning_seed": 1}
    assert other["cells"][2]["settings"]["sequences"] == 4
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(("method", "different"), [("calibrated", 5), ("last", 2)])
def test_cells_of_other_calibration_are_not_skipped(trained, method, different):
    """For `last`, only reconstruction uses calibration data."""
    changes = (
        {},
        {"sequences": 8},
        {"budget": "uniform"},
        {"reconstruct": 5},
        {"dense_feedthrough": True},
    )
    keys = set()
    for some in changes:
        calibration = lastax.experiments.CalibrationOptions(**some)
        grid = lastax.experiments.Grid((method,), (0.5,), calibration=calibration)
        unpruned, cell = (identity_key(grid.identity(trained, cell)) for cell in grid.cells())
        keys |= {unpruned, cell}
    assert len(keys) == 1 + different


def without_seconds(cells):
    """Cells in one order, without what differs between two measurements of the same cell."""
    cells = [{**cell, "seconds": 0} for cell in cells]
    names = ("run", "method", "ratio", "post_processing")
    return sorted(cells, key=lambda cell: [cell[name] for name in names])


def test_an_executor_measures_the_same(trained, tmp_path, monkeypatch):
    grid = lastax.experiments.Grid(methods=("last", "lamp"), ratios=(0.5,), recalibrate=("last",))
    monkeypatch.chdir(trained.parent)
    run = Path(trained.name)
    here, elsewhere = [], []
    options = (grid, tmp_path / "here", lastax.data.reopen_data)
    cells = lastax.experiments.sweep([run], *options, on_cell=here.append)
    options = (grid, tmp_path / "elsewhere", lastax.data.reopen_data)
    with ThreadPoolExecutor(2) as executor:
        lastax.experiments.sweep([run], *options, executor=executor, on_cell=elsewhere.append)
    assert len(cells) == 4
    assert without_seconds(here) == without_seconds(elsewhere) == without_seconds(cells)


def test_compiled_programs_do_not_accumulate(trained, tmp_path, monkeypatch):
    """Linux allows a process 65,530 memory maps, which the programs of a long sweep would use."""
    grid = lastax.experiments.Grid(methods=("calibrated",), ratios=(0.3, 0.5, 0.7))
    programs = {}
    for cells in (1, 1000):
        monkeypatch.setattr(lastax.experiments._sweep, "CELLS_PER_CACHE", cells)
        counts = programs.setdefault(cells, [])

        def count(cell, counts=counts):
            counts.append(len(jax.devices()[0].client.live_executables()))

        folder = tmp_path / str(cells)
        lastax.experiments.sweep([trained], grid, folder, lastax.data.reopen_data, on_cell=count)
    # The first cell is the unpruned network.
    assert programs[1][-1] <= programs[1][1]
    assert programs[1000][-1] > programs[1000][1]


class DyingWorkers(ThreadPoolExecutor):
    """An executor whose workers die."""

    def submit(self, *call, **options):
        future = Future()
        future.set_exception(BrokenProcessPool("terminated abruptly"))
        return future


def test_a_worker_that_dies_each_time_is_named_with_its_cell(trained, tmp_path):
    grid = lastax.experiments.Grid(ratios=(0.5,))
    with DyingWorkers() as executor, pytest.raises(RunError, match=": the worker died each time"):
        lastax.experiments.sweep(
            [trained], grid, tmp_path, lastax.data.reopen_data, executor=executor
        )
    assert not lastax.experiments.read_cells(tmp_path)


@pytest.mark.slow
def test_workers_of_this_machine_measure_the_same(cli, trained, tmp_path):
    pytest.importorskip("distributed")
    runs = [trained, tmp_path / "pruned"]
    cli("prune", trained, "--ratio", 0.25, "--out", runs[1])
    options = ("--methods", "last,calibrated", "--ratios", "0.5", "--json")
    one, two = (
        cli("sweep", *runs, *options, "--jobs", jobs, "--out", tmp_path / str(jobs)).result
        for jobs in (1, 2)
    )
    assert without_seconds(one["cells"]) == without_seconds(two["cells"])


@pytest.fixture
def scheduler(tmp_path):
    """A Dask scheduler with two workers: its address, and the workers."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    address = ["--scheduler-file", str(file)]

    def start(name, *options):
        command = [sys.executable, "-m", f"distributed.cli.{name}", *address, *options]
        return subprocess.Popen(command)

    own = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
    processes = [start("dask_scheduler", *own)]
    # Without a nanny a killed worker stays dead.
    for name in "ab":
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name)
        folder = ("--local-directory", str(tmp_path / name))
        processes.append(start("dask_worker", *options, *folder))
    try:
        # The scheduler creates the file before it writes it.
        while not (file.exists() and file.read_text()):
            assert processes[0].poll() is None
        yield json.loads(file.read_text())["address"], processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_the_work_of_a_killed_worker_is_repeated(trained, tmp_path, scheduler):
    address, workers = scheduler
    grid = lastax.experiments.Grid(methods=("last", "aire"), ratios=(0.25, 0.5))

    def kill_one(cell):
        if workers[0].poll() is None:
            os.kill(workers[0].pid, signal.SIGKILL)
            workers[0].wait()

    cells = lastax.experiments.sweep([trained], grid, tmp_path / "h", lastax.data.reopen_data)
    with lastax.experiments.scheduler_cluster(address) as executor:
        again = lastax.experiments.sweep(
            [trained],
            grid,
            tmp_path / "cluster",
            lastax.data.reopen_data,
            executor=executor,
            on_cell=kill_one,
        )
    assert workers[0].returncode == -signal.SIGKILL
    assert len(cells) == 5
    assert without_seconds(cells) == without_seconds(again)


def prepared(calls=[]):  # noqa: B006
    calls.append(1)
    return calls


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("jax", "worker tcp://a has jax 0.0, but this sweep has 1.0: install the same versions"),
        ("lastax", "worker tcp://a has lastax 0.0, but this sweep has 1.0"),
        (None, None),
    ],
)
def test_a_worker_that_joins_with_another_version_closes(monkeypatch, package, words):
    """Also if it cannot import lastax."""
    pytest.importorskip("distributed")
    from distributed.protocol.pickle import dumps, loads

    from lastax.experiments._worker_plugin import worker_plugin

    packed = dumps(worker_plugin(prepared, None, {"jax": "1.0", "lastax": "1.0"}))
    before = len(prepared())
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == package else "1.0")
    if package is not None:
        for name in [name for name in sys.modules if name.split(".")[0] == "lastax"]:
            monkeypatch.setitem(sys.modules, name, None)
    events, scheduled = [], []
    worker = SimpleNamespace(
        address="tcp://a",
        log_event=lambda topic, message: events.append(message["args"][0]),
        loop=SimpleNamespace(add_callback=lambda call, **options: scheduled.append(call)),
        close_gracefully="close",
    )
    loads(packed).setup(worker)
    monkeypatch.undo()
    if package is None:
        assert (events, scheduled, len(prepared())) == ([], [], before + 2)
    else:
        (line,) = events
        assert words in line
        assert (scheduled, len(prepared())) == (["close"], before + 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--jobs", 2, "--scheduler", "tcp://127.0.0.1:1"), "exclude each other"),
        (("--scheduler", "127.0.0.1:x"), "no Dask scheduler answers at 127.0.0.1:x"),
    ],
)
def test_a_scheduler_that_is_none(cli, trained, options, words):
    pytest.importorskip("distributed")
    ended = cli("sweep", trained, *options)
    assert ended.status in (1, 2)
    assert words in ended.stderr


def test_post_processing_has_rows_of_its_own(cli, trained, tmp_path):
    options = ("--methods", "last", "--ratios", "0.5", "--finetune", 1, "--finetune-rate", 1)
    options += ("--distill", "--reconstruct", "last", "--calibration", 16)
    options += ("--out", tmp_path, "--json")
    answer = cli("sweep", trained, *options).result
    cells = answer["cells"][1:]
    assert [cell["post_processing"] for cell in cells] == [
        "none",
        "recalibrated",
        "reconstructed",
        "fine-tuned",
        "distilled",
    ]
    assert [cell["finetune"] for cell in cells] == [0, 0, 0, 1, 1]
    assert len({tuple(cell["layers"]) for cell in cells}) == 1
    assert len({cell["validation_accuracy"] for cell in cells}) >= 3
    assert [row["method"] for row in sorted(answer["summary"], key=lambda row: row["method"])] == [
        "last",
        "last + 1 epochs",
        "last + 1 epochs, distilled",
        "last, BatchNorm recalibrated",
        "last, reconstructed",
    ]


@pytest.mark.parametrize("flag", ["--recalibrate-batch-norm", "--reconstruct"])
def test_a_list_of_optional_steps_may_be_empty(flag):
    params = sweep.make_context("sweep", [flag, "last,aire", flag, ""]).params
    assert params["recalibrate" if "norm" in flag else "reconstruct"] == []
    with pytest.raises(click.BadParameter, match="is no list of methods"):
        sweep.make_context("sweep", ["--methods", ""])


def test_a_limit_selects_the_same_records_every_time(cli, trained, tmp_path):
    options = ("--methods", "lamp", "--ratios", "0.5", "--json")
    first, again = (
        cli("sweep", trained, *options, "--limit", 10, "--out", tmp_path / name).result["cells"]
        for name in ("a", "b")
    )
    for one, other in zip(first, again, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
        assert one["settings"]["limit"] == 10
        for split in ("validation", "test"):
            assert 10 * one[f"{split}_accuracy"] == pytest.approx(
                round(10 * one[f"{split}_accuracy"])
            )


def test_missing_presets_are_trained(cli, tmp_path, monkeypatch):
    """Only the call of `lastax train`, and the report of its failure."""
    called = []

    def run(command, cwd, stdout, check):
        assert cwd == Path.cwd()
        # Only the results of the sweep go to the standard output.
        assert stdout == 2
        called.append(command[3:])
        return type("Done", (), {"returncode": 3})()

    monkeypatch.setattr("lastax.cmd._sweep_training.subprocess.run", run)
    for layer, more in (("lru", ""), ("lru-unidirectional", "--no-bidirectional ")):
        ended = cli("sweep", "--task", "speech", "--layer", layer, "--seeds", "4,5")
        assert ended.status == 1
        assert "ended with status 3" in ended.stderr
        command = called.pop()
        assert not called
        assert " ".join(command) == (
            f"train --task speech --layer lru --size small --seed 4 {more}"
            f"--out runs/speech/{layer}-seed4"
        )
    cli("sweep", "--task", "speech", "--train", "--reduce-during-training 0.7 --no-anneal")
    assert " ".join(called.pop()) == (
        "train --task speech --layer s5 --size small --seed 0 --reduce-during-training 0.7 "
        "--no-anneal --out runs/speech/s5-reduce-during-training-0.7-no-anneal-seed0"
    )
    cli("sweep", "--task", "speech", "--skip-bad")
    assert " ".join(called.pop()) == (
        "train --task speech --layer s5 --size small --seed 0 --skip-bad "
        "--out runs/speech/s5-skip-bad-seed0"
    )


def cells(task, method, accuracies, layer="s5"):
    """Validation and test accuracies by ratio; ratio 0 is the unpruned network."""
    return [
        {
            "run": f"{task}-{seed}",
            "task": task,
            "layer": layer,
            "bidirectional": True,
            "method": method if ratio else "unpruned",
            "ratio": ratio,
            "post_processing": "none",
            "finetune": 0,
            "validation_accuracy": validation + 0.001 * seed,
            "test_accuracy": test - 0.001 * seed,
        }
        for ratio, (validation, test) in accuracies.items()
        for seed in (-1, 1)
    ]


def test_summary_by_hand():
    rows = cells("a", "m", {0: (0.9, 0.8), 0.3: (0.895, 0.77), 0.5: (0.88, 0.8), 0.7: (0.89, 0.79)})
    # 70 % costs one point and 50 % more: the largest qualifying ratio, chosen on validation.
    rows += cells("b", "m", {0: (0.9, 0.8), 0.3: (0.85, 0.8)})
    rows += [
        {**row, "validation_accuracy": None, "test_accuracy": None}
        for row in cells("b", "other", {0.3: (0, 0)})
    ]
    (row,) = lastax.experiments.sweep_summary(rows)
    assert row["method"] == "m"
    assert row["ratio"] == pytest.approx(0.35)
    assert row["loss"] == pytest.approx(0.5)
    assert (row["groups"], row["compressible"]) == (2, 1)
    assert row["ratio_compressible"] == pytest.approx(0.7)
    assert row["loss_compressible"] == pytest.approx(1)
    groups = lastax.experiments.sweep_groups(rows)
    assert list(groups) == ["a, s5, bidirectional", "b, s5, bidirectional"]
    assert (
        lastax.experiments.compressible_ratio(groups["a, s5, bidirectional"], "m", most=0.6) == 0.3
    )


def with_settings(rows, **settings):
    return [{**row, "run_settings": {"channels": 64, "anneal": True} | settings} for row in rows]


def test_only_runs_of_the_same_settings_share_a_mean():
    wide = with_settings(cells("a", "m", {0: (0.9, 0.8), 0.5: (0.8, 0.7)}))
    narrow = with_settings(
        cells("a", "m", {0: (0.7, 0.6), 0.5: (0.6, 0.5)}), channels=32, state_penalty="modal"
    )
    groups = lastax.experiments.sweep_groups(wide + narrow)
    base = "a, s5, bidirectional"
    assert list(groups) == [f"{base}, channels 64", f"{base}, channels 32, state penalty modal"]
    for curves, unpruned, pruned in zip(groups.values(), (0.8, 0.6), (0.7, 0.5), strict=True):
        assert np.mean(curves.unpruned) == pytest.approx(unpruned)
        assert np.mean(curves.test["m"][0.5]) == pytest.approx(pruned)
    (row,) = lastax.experiments.sweep_summary(wide + narrow)
    assert row["groups"] == 2
    constant = with_settings(cells("a", "m", {0: (0.7, 0.6)}), anneal=False)
    names = list(lastax.experiments.sweep_groups(wide + constant))
    assert names == [f"{base}, anneal", f"{base}, no anneal"]
    # One configuration needs no settings in its name, and cells of older versions have none.
    older = cells("a", "m", {0: (0.9, 0.8)})
    assert list(lastax.experiments.sweep_groups(wide + older)) == [base]


def test_settings_of_a_run_are_those_that_do_not_depend_on_its_seed(trained):
    config = lastax.training.load_config(trained)
    pruning = {"method": "random", "ratio": 0.5, "seed": 1, "states": None}
    pruned = dataclasses.replace(
        config, kept=("f0",) * 2, states=(4, 4), parent="../tiny", pruning=pruning
    )
    other = dataclasses.replace(
        pruned, seed=5, kept=("c0", "fc"), states=(2, 6), pruning=pruning | {"seed": 2}
    )
    assert run_settings(pruned) == run_settings(other)
    model = dataclasses.replace(config.model, channels=9)
    training = dataclasses.replace(config.training, state_penalty="modal")
    changed = (
        config,
        pruned,
        dataclasses.replace(config, model=model),
        dataclasses.replace(config, training=training),
        dataclasses.replace(config, start="../other"),
    )
    assert len({frozenset(run_settings(one).items()) for one in changed}) == len(changed)
