"""`lastax data`, and runs on data that are not bundled."""

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import shutil
import sys
import threading
import zipfile

import numpy as np
import pytest
import soundfile
from PIL import Image

import lastax
import lastax.cmd.bench._data
import lastax.cmd.data._fetch
import lastax.data
from lastax.cmd.main import main

from .conftest import TINY

ROWS = ("--train", 60, "--validation", 20, "--test", 24)
SHORT = ("--min-length", 5, "--max-length", 40)
TRAIN = ("--epochs", 2, "--epoch-batches", 20, "--batch-size", 20, "--length", 48, *TINY)


@pytest.fixture(scope="module")
def lastax_in_process(cache):
    """Call the program in this process, for fixtures of the module; it must succeed."""

    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LASTAX_CACHE", str(cache))
            patch.setattr(sys, "argv", ["lastax", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        assert not ended.value.code

    return call


@pytest.fixture(scope="module")
def root(lastax_in_process, tmp_path_factory):
    """A folder with ListOps files of short expressions. Tests must not write to it."""
    root = tmp_path_factory.mktemp("data")
    lastax_in_process("data", "make", "listops", *ROWS, *SHORT, "--data-dir", root)
    return root


@pytest.fixture(scope="module")
def run(lastax_in_process, root, tmp_path_factory):
    """A run on these data. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("runs") / "listops"
    lastax_in_process("train", "--task", "listops", *TRAIN, "--data-dir", root, "--out", folder)
    return folder


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}


def test_list_tells_which_data_are_present(cli, root, tmp_path):
    for folder, here in ((root, True), (tmp_path, False)):
        answer = cli("data", "list", "--data-dir", folder, "--json").result
        assert answer["root"] == str(folder)
        tasks = {task["task"]: task for task in answer["tasks"]}
        assert tasks.keys() == lastax.training.TASKS.keys()
        assert tasks["listops"]["present"] is here
        assert tasks["text"]["present"] is False
        assert tasks["arrays"]["present"] is None
        assert tasks["listops"]["get_it_with"] == "make"
        assert tasks["text"]["get_it_with"] == "fetch"
        assert tasks["text"]["records"]["test"] == 25000
        assert all(task["needs"] and task["license"] for task in tasks.values())
    shown = cli("data", "list", "--data-dir", tmp_path)
    assert "text: aclImdb/" in shown.stdout
    assert "listops: listops-1000/" in shown.stdout


def test_make_is_deterministic(cli, root, tmp_path):
    answer = cli(
        "data", "make", "listops", *ROWS, *SHORT, "--workers", 2, "--data-dir", tmp_path, "--json"
    ).result
    assert answer["train"] == 60
    assert digests(tmp_path / "listops-1000") == digests(root / "listops-1000")
    other = cli("data", "make", "listops", *ROWS, *SHORT, "--seed", 1, "--data-dir", tmp_path)
    assert other.status == 1
    assert "exists" in other.stderr


def test_the_root_can_be_an_environment_variable(cli, root, monkeypatch):
    monkeypatch.setenv("LASTAX_DATA", str(root))
    assert cli("data", "check", "listops", "--any-size").status == 0


def test_check_compares_with_the_published_numbers(cli, root):
    right = cli("data", "check", "listops", "--any-size", "--data-dir", root, "--json")
    assert right.status == 0
    splits = right.result["splits"]
    assert {name: split["records"] for name, split in splits.items()} == {
        "train": 60,
        "validation": 20,
        "test": 24,
    }
    # The end token adds one step.
    assert 6 <= splits["train"]["lengths"][0] <= splits["train"]["lengths"][2] <= 41
    assert sum(splits["train"]["shares"].values()) == pytest.approx(1)
    wrong = cli("data", "check", "listops", "--data-dir", root, "--json")
    assert wrong.status == 1
    assert wrong.stderr == ""
    assert not wrong.result["ok"]
    problems = wrong.result["splits"]["train"]["problems"]
    assert problems[0] == "60 records instead of the published 96,000"
    shown = cli("data", "check", "listops", "--data-dir", root)
    assert shown.status == 1
    assert "train: 60 records instead of the published 96,000" in shown.stdout
    assert "--any-size" in shown.stderr
    assert shown.stdout.splitlines()[-1] == "problems found"


def test_check_counts_damaged_items_and_describes_the_first(cli, root, tmp_path):
    shutil.copytree(root / "listops-1000", tmp_path / "listops-1000")
    file = tmp_path / "listops-1000" / "basic_test.tsv"
    lines = file.read_bytes().split(b"\r\n")
    lines[3] = b"( ( [MIN 1 ) ]"
    lines[7] = lines[7][:-1] + b"10"
    file.write_bytes(b"\r\n".join(lines))
    ended = cli("data", "check", "listops", "--any-size", "--data-dir", tmp_path, "--json")
    assert ended.status == 1
    assert ended.result["damaged"] == 2
    assert str(file) in ended.result["first_damage"]
    assert ended.result["splits"]["test"]["records"] == 22
    trained = cli("train", "--task", "listops", *TRAIN, "--data-dir", tmp_path, "--out", "run")
    assert trained.status == 1
    assert str(file) in trained.stderr
    assert not (tmp_path / "run").exists()


def test_show_draws_tokens(cli, root, tmp_path):
    ended = cli("data", "show", "listops", "--data-dir", root, "--count", 5, "--json")
    assert ended.result["picture"] == "listops.png"
    assert len(set(ended.result["records"])) == 5
    with Image.open(tmp_path / "listops.png") as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(10**7)) > 20
    again = cli("data", "show", "listops", "--data-dir", root)
    assert again.status == 1
    assert "exists" in again.stderr


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder of two classes of tones, 0.1 s at 4 kHz."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, frequency in (("low", 300), ("high", 900)):
        (folder / name).mkdir()
        for number in range(10):
            times = np.arange(400) / 4000
            tone = np.sin(2 * np.pi * (frequency + 10 * number) * times)
            soundfile.write(folder / name / f"{number}.wav", tone, 4000)
    return folder


def test_check_and_train_tell_how_files_were_read(cli, sounds, tmp_path):
    folder = shutil.copytree(sounds, tmp_path / "sounds")
    (folder / "low" / "more.m4a").write_bytes(b"not readable")
    for name, number in (("testing", 1), ("validation", 2)):
        (folder / f"{name}_list.txt").write_text(f"low/{number}.wav\nhigh/{number}.wav\n")
    own = ("--data", folder, "--rate", 4000, "--features", "raw")
    notes = [
        "left out, because they are not read: 1 .m4a",
        "validation_list.txt: 2 clips listed, 2 found",
        "testing_list.txt: 2 clips listed, 2 found",
    ]
    shown = cli("data", "check", "audio-folder", *own)
    assert (shown.status, shown.stdout.splitlines()[-4:]) == (0, [*notes, "no problems"])
    result = cli("data", "check", "audio-folder", *own, "--json").result
    assert (result["skipped"], result["left_out"]) == (1, {".m4a": 1})
    assert result["notes"] == notes
    large = cli("train", "--task", "audio-folder", *own, "--batch-size", 17, *TINY, "--out", "run")
    assert large.status == 1
    *told, error = large.stderr.splitlines()
    assert told == [f"audio-folder: {note}" for note in notes]
    assert "17" in error
    assert "16 records" in error
    assert "--batch-size" in error
    for path in folder.glob("*/*.wav"):
        path.write_bytes(b"RIFF")
    damaged = cli("data", "check", "audio-folder", *own)
    assert damaged.status == 1
    assert "high/0.wav" in damaged.stderr
    assert "cannot be decoded" in damaged.stderr


def test_show_draws_the_tokens_of_arrays(cli, tmp_path):
    x = np.arange(60).reshape(20, 3) % 7
    np.savez(tmp_path / "own.npz", x_train=x, y_train=np.arange(20) % 2)
    ended = cli("data", "show", "arrays", "--data", "own.npz")
    assert ended.status == 0, ended.stderr


@pytest.mark.parametrize("features", ["raw", "log-mel", "mfcc"])
def test_show_draws_sound(cli, sounds, features, tmp_path):
    options = ("--data", sounds, "--rate", 4000, "--features", features)
    ended = cli("data", "show", "audio-folder", *options, "--count", 2)
    assert ended.status == 0, ended.stderr
    with Image.open(tmp_path / "audio-folder.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**7)) > 100


@pytest.fixture
def server(tmp_path_factory):
    """A folder, and the URL that serves it."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_fetch_downloads_verifies_and_unpacks(cli, root, server, tmp_path, monkeypatch):
    folder, address = server
    with zipfile.ZipFile(folder / "lists.zip", "w") as archive:
        for path in (root / "listops-1000").iterdir():
            archive.write(path, f"listops-1000/{path.name}")
    packed = (folder / "lists.zip").read_bytes()
    remote = lastax.data.Remote(
        url=f"{address}/lists.zip",
        size=len(packed),
        sha256=hashlib.sha256(packed).hexdigest(),
        unpacks_to="listops-1000",
    )
    listops = lastax.data.DATASETS["listops"]
    monkeypatch.setattr(
        lastax.cmd.data._fetch,
        "DATASETS",
        {"listops": dataclasses.replace(listops, remotes=(remote,))},
    )
    answer = cli("data", "fetch", "listops", "--data-dir", tmp_path / "new", "--json").result
    assert answer["files"] == [str(tmp_path / "new" / "listops-1000")]
    assert digests(tmp_path / "new" / "listops-1000") == digests(root / "listops-1000")
    false = dataclasses.replace(remote, sha256="0" * 64)
    monkeypatch.setitem(
        lastax.cmd.data._fetch.DATASETS, "listops", dataclasses.replace(listops, remotes=(false,))
    )
    ended = cli("data", "fetch", "listops", "--data-dir", tmp_path / "other")
    assert ended.status == 1
    assert "sha256" in ended.stderr
    assert not (tmp_path / "other" / "listops-1000").exists()


def test_a_run_records_labels_and_vocabulary(run):
    config = lastax.training.load_config(run)
    assert config.labels == tuple("0123456789")
    assert config.vocabulary[0] == "<pad>"
    assert config.input_size == len(config.vocabulary)
    assert config.data == lastax.training.DataConfig("listops", length=48)
    assert config.length == 48


def test_commands_find_the_data_of_a_run(cli, root, run, tmp_path):
    there = ("--data-dir", root)
    recorded = json.loads((run / "results.json").read_text())["test"]
    answer = cli("evaluate", run, *there, "--json").result
    assert answer["accuracy"] == pytest.approx(recorded["accuracy"])
    assert answer["examples"] == 24
    pruned = cli("prune", run, "--ratio", 0.5, *there, "--out", "small", "--json").result
    assert pruned["states_after"] == 4
    assert cli("evaluate", "small", *there, "--json").result["examples"] == 24
    swept = cli("sweep", run, "--methods", "lamp", "--ratios", "0.5", *there, "--out", "swept")
    assert swept.status == 0, swept.stderr
    assert cli("score", run).status == 0


def test_evaluation_at_a_lower_rate(cli, root, run):
    answer = cli("evaluate", run, "--data-dir", root, "--every", 3, "--json").result
    assert answer["every"] == 3
    _, model = lastax.training.load_run(run)
    source = lastax.data.DATASETS["listops"].open(root).sources["test"]
    right, loss = 0, 0.0
    for index in range(len(source)):
        record = source[index]
        x, length = record["x"][:48:3], -(-int(record["length"]) // 3)
        logits = np.asarray(model(x, length, step_rescale=3.0), np.float64)
        right += int(np.argmax(logits)) == int(record["label"])
        loss += np.log(np.exp(logits).sum()) - logits[record["label"]]
    assert answer["at_every"]["accuracy"] == pytest.approx(right / len(source))
    assert answer["at_every"]["loss"] == pytest.approx(loss / len(source), rel=1e-4)
    assert answer["at_every"]["loss"] != pytest.approx(answer["loss"], rel=1e-3)
    shown = cli("evaluate", run, "--data-dir", root, "--every", 3).stdout
    assert "test, every 3 steps: accuracy" in shown


def test_an_error_about_missing_data_tells_how_to_get_them(cli, run, tmp_path):
    ended = cli("evaluate", run, "--data-dir", tmp_path / "nowhere")
    assert ended.status == 1
    (line,) = ended.stderr.strip().splitlines()
    assert "lastax data make listops" in line


def npz(path, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", 40), ("validation", 10), ("test", 12)):
        labels = np.arange(count) % classes
        arrays[f"y_{split}"] = labels
        arrays[f"x_{split}"] = rng.normal(size=(count, 9, 2)) + labels[:, None, None]
    np.savez(path, **arrays)


def test_a_run_finds_your_own_arrays(cli, tmp_path, monkeypatch):
    npz(tmp_path / "mine.npz")
    small = ("--epochs", 2, "--epoch-batches", 0, "--batch-size", 10, *TINY)
    ended = cli("train", "--task", "arrays", "--data", "mine.npz", *small, "--out", "run")
    assert ended.status == 0, ended.stderr
    run = tmp_path / "run"
    assert lastax.training.load_config(run).data.data == str(tmp_path / "mine.npz")
    monkeypatch.chdir("/")
    accuracy = cli("evaluate", run, "--json").result["accuracy"]
    os.rename(tmp_path / "mine.npz", tmp_path / "moved.npz")
    lost = cli("evaluate", run)
    assert lost.status == 1
    assert "mine.npz" in lost.stderr
    moved = cli("evaluate", run, "--data", tmp_path / "moved.npz", "--json").result
    assert moved["accuracy"] == accuracy
    npz(tmp_path / "other.npz", classes=4)
    other = cli("evaluate", run, "--data", tmp_path / "other.npz")
    assert other.status == 1
    (line,) = other.stderr.strip().splitlines()
    assert "not the data that the run was trained on: classes: 4" in line


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--task", "listops", "--level", "hard"], 2, ["--level", "listops", "none"]),
        (["--task", "text", "--features", "mfcc"], 2, ["--features", "text", "validation"]),
        (["--task", "text", "--data", "x"], 2, ["--data", "text"]),
        (["--task", "arrays"], 2, ["--data", "arrays", ".npz"]),
        (["--task", "audio-folder"], 2, ["--data", "audio-folder", ".flac"]),
        (["--task", "arrays", "--data", "gone.npz"], 1, ["gone.npz"]),
        (["--task", "speech", "--size", "paper"], 2, ["--size paper", "speech", "small"]),
        (["--task", "speech", "--length", "102"], 1, ["length", "101", "102"]),
        (["--task", "speech", "--every", "0"], 1, ["every", "at least 1"]),
        (["--task", "text"], 1, ["lastax data fetch text"]),
        (["--task", "pathx"], 1, ["lastax data make pathx"]),
        (["--task", "retrieval", "--data-dir", "gone"], 1, ["tsv_data", "gone"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_train_reports_data_errors_in_one_line(cli, tmp_path, arguments, status, words):
    ended = cli("train", *arguments)
    assert ended.status == status
    (line,) = ended.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["data", "fetch", "listops"], 2, ["listops", "lastax data make listops"]),
        (["data", "fetch", "opera"], 2, ["opera"]),
        (["data", "make", "text"], 2, ["text"]),
        (["data", "make", "listops", "--train", "-1"], 1, ["train", "-1"]),
        (["data", "check", "text"], 1, ["lastax data fetch text"]),
        (["data", "check", "speech", "--rate", "8000"], 2, ["--rate", "features"]),
        (["data", "show", "arrays"], 2, ["--data"]),
        (["bench", "data"], 2, ["lastax data list"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_of_data_commands_are_one_line(cli, tmp_path, monkeypatch, arguments, status, words):
    if arguments[0] == "bench":
        # The bundled sample is always there.
        gone = dataclasses.replace(lastax.data.DATASETS["speech"], present=lambda root: False)
        data_sets = dict(lastax.data.DATASETS) | {"speech": gone}
        monkeypatch.setattr(lastax.cmd.bench._data, "DATASETS", data_sets)
    ended = cli(*arguments)
    assert ended.status == status
    (line,) = ended.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert list(tmp_path.rglob("*.*")) == []


def test_bench_data_compares_loading_with_training(cli, monkeypatch):
    monkeypatch.setattr(lastax.cmd.bench._data, "_SECONDS", 0.05)
    monkeypatch.setattr(lastax.cmd.bench._data, "WORKERS", (0, 1))
    (case,) = cli("bench", "data", "--task", "speech", "--repeats", 1, "--json").result["cases"]
    assert case["task"] == "speech"
    assert case["samples_per_second"].keys() == {"0", "1"}
    assert min(case["samples_per_second"].values()) > 0
    assert case["training_samples_per_second"] == pytest.approx(
        case["batch_size"] / case["step_seconds"]
    )
