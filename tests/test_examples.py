"""The code of the README, the documentation and the examples runs, and its commands exist."""

import importlib
import itertools
import json
import re
import runpy
import shlex
import shutil
import sys
import types
from pathlib import Path

import click
import jax
import numpy as np
import pytest
from click.testing import CliRunner

import lastax

from .runs import untrained_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Commands are indented by four spaces.
COMMAND = re.compile(r"^ {4}(lastax [^\n]*?(?:\\\n[^\n]*?)*)(?: {2,}#[^\n]*)?$", re.MULTILINE)


def names(page):
    return str(page.relative_to(ROOT))


WITH_PYTHON = [page for page in PAGES if PYTHON.search(page.read_text())]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    methods = dict(lastax.METHODS)
    yield tmp_path
    registry = sys.modules["lastax.pruning._methods"]._METHODS
    registry.clear()
    registry.update(methods)


def train_small_run(folder):
    """A run such as `lastax train --task speech` writes, on other data and much smaller."""
    rng = np.random.default_rng(0)
    label = np.arange(80) % 2
    x = np.sin((0.3 + 0.3 * label[:, None]) * np.arange(24) + rng.uniform(0, 6, (80, 1)))
    np.savez("sines.npz", x_train=x, y_train=label)
    data_config = lastax.training.DataConfig("arrays", data="sines.npz")
    preset = lastax.training.Preset(
        lastax.ModelConfig(layers=1, channels=4, states=4),
        lastax.training.TrainingConfig(epochs=1, batch_size=16),
    )
    data = lastax.data.open_data(data_config)
    config = lastax.training.make_run_config("arrays", data, preset, data_config=data_config)
    lastax.training.train(config, data, folder)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=names)
def test_python_of_a_page_runs(page, folder):
    if page.name == "prune-a-run.md":
        train_small_run("runs/speech/s5-seed0")
    if page.name == "deploy-onnx.md":
        for package in ("flatbuffers", "onnx", "onnxruntime"):
            pytest.importorskip(package, reason=f"the page needs the package {package}")
    variables = {"__name__": "page"}
    for block in PYTHON.findall(page.read_text()):
        exec(compile(block, names(page), "exec"), variables)


def test_every_tutorial_has_python():
    tutorials = set((ROOT / "docs/tutorials").glob("*.md"))
    assert {ROOT / "README.md"} | tutorials <= set(WITH_PYTHON)


def commands():
    found = [line for page in PAGES for line in COMMAND.findall(page.read_text())]
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    for line in re.findall(r"\$\(LASTAX\) ([^|;\n]*)", makefile):
        line = re.sub(r"\$\(STUDY\)", "--seeds 0,1,2 --jobs 2", line)
        line = re.sub(r"\$\((?:RUN|ARGS)\)", "", line)
        line = re.sub(
            r"\$\$\{tuning[^}]*\}|\$\((?:RATIO|tuning)\)|\$\$(?:ratio|seed|states)", "0", line
        )
        line = re.sub(r"\$\((\w+)\)|\$\$(\w+)|\$\$\{[^}]*\}", "last", line)
        found.append("lastax " + line)
    return found


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_options_of_a_shown_command_exist(line):
    words = shlex.split(line.replace("\\\n", " ").replace("...", ""), comments=True)[1:]
    command = importlib.import_module("lastax.cmd.main").cli
    context = click.Context(command, info_name="lastax")
    while isinstance(command, click.Group):
        values, words, _ = command.make_parser(context).parse_args(args=words)
        del values
        if not words:
            return
        name, *words = words
        parent, command = command, command.get_command(context, name)
        assert command is not None, f"{parent.name} has no command {name}"
        context = click.Context(command, info_name=name, parent=context)
    command.make_parser(context).parse_args(args=words)


def packages():
    folders = (ROOT / "src/lastax").glob("*/__init__.py")
    return sorted([folder.parent.name for folder in folders] + ["data"])


def test_every_package_has_a_page_of_the_api_reference():
    pages = {page.stem for page in (ROOT / "docs/api").glob("*.md")} - {"index"}
    assert pages == set(packages())
    navigation = (ROOT / "mkdocs.yml").read_text()
    for package in packages():
        # The page shows the names in `__all__`; `make docs` fails if one of them is missing.
        assert f"::: lastax.{package}\n" in (ROOT / f"docs/api/{package}.md").read_text()
        assert f"api/{package}.md" in navigation
        assert importlib.import_module(f"lastax.{package}").__all__


@pytest.mark.parametrize("name", sorted(lastax.__all__))
def test_every_name_of_the_top_level_is_public_in_a_package(name):
    homes = [
        package
        for package in packages()
        if name in importlib.import_module(f"lastax.{package}").__all__
    ]
    assert homes
    home = importlib.import_module(f"lastax.{homes[0]}")
    assert getattr(home, name) is getattr(lastax, name)


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_the_example_prunes_a_network_of_its_own(capsys):
    runpy.run_path(str(ROOT / "examples/prune_your_own.py"))
    states, shape, change = capsys.readouterr().out.splitlines()
    before, after = re.findall(r"\[(\d+), (\d+)\]", states)
    assert before == ("32", "32")
    assert sum(map(int, after)) == 32
    assert shape == f"shape of B: (32, 8, 2) -> ({after[0]}, 8, 2)"
    assert 0 < float(change.split()[-1]) < 0.1


@pytest.mark.slow
def test_drift_is_measured_on_runs(capsys, monkeypatch, folder):
    untrained_run(folder, lastax.ModelConfig(layers=2, channels=8, states=4))
    monkeypatch.setattr(sys, "argv", ["calibration_drift.py", str(folder)])
    runpy.run_path(str(ROOT / "examples/calibration_drift.py"))
    title, _, *rows = capsys.readouterr().out.splitlines()
    columns = ["calibrated on", "70 % removed", "difference", "90 % removed", "difference"]
    assert title.strip("| ").split(" | ") == columns
    assert len(rows) == 9
    reference, *others = (row.strip("|").split("|") for row in rows)
    assert reference[2].strip() == reference[4].strip() == ""
    for row in others:
        for accuracy, shown in ((1, 2), (3, 4)):
            difference, low, high = map(float, re.findall(r"-?\d+\.\d", row[shown]))
            assert low <= difference <= high
            expected = float(row[accuracy]) - float(reference[accuracy])
            assert difference == pytest.approx(expected, abs=0.11)


def test_study_refit_measures_what_is_missing_and_prints_differences(folder):
    rng = np.random.default_rng(0)
    np.savez("own.npz", x_train=rng.normal(size=(200, 9, 1)), y_train=np.arange(200) % 2)
    data = lastax.training.DataConfig("arrays", data="own.npz")
    model = lastax.ModelConfig(layer="s4d", layers=1, channels=4, states=8)
    sizes = {"input_size": 1, "classes": 2, "length": 9, "labels": ("0", "1")}
    for run in ("one", "other"):
        untrained_run(folder / run, model, task="arrays", data=data, **sizes)
    study = runpy.run_path(str(ROOT / "examples/study_refit.py"))
    grid = lastax.experiments.Grid
    study["PARTS"].clear()
    study["PARTS"]["s5"] = ("s5", [grid(("last",), (0.5,))])
    few, more = (
        grid(("calibrated",), (0.5, 0.75), calibration=lastax.experiments.CalibrationOptions(count))
        for count in (4, 8)
    )
    study["PARTS"]["s4d"] = ("s4d", [few, more])
    arguments = ["one", "other", "--parts=s5,s4d", "--out=study"]
    shown = CliRunner().invoke(study["main"], arguments, catch_exceptions=False).output
    title, _, unpruned, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in shown.splitlines()
        if line.startswith("|")
    )
    assert title == ["arrays, s4d, bidirectional", "0 %", "50 % removed", "75 % removed"]
    assert [row[0] for row in rows] == ["calibrated (sequences 4)", "calibrated (sequences 8)"]
    number = r"-?\d+\.\d"
    before, spread = map(float, re.findall(number, unpruned[1]))
    cells = map(json.loads, Path("study/s4d/cells.jsonl").read_text().splitlines())
    accuracies = [100 * cell["test_accuracy"] for cell in cells if cell["method"] == "unpruned"]
    assert len(accuracies) == 2
    assert spread == pytest.approx(np.std(accuracies, ddof=1), abs=0.051)
    for cell in itertools.chain.from_iterable(row[2:] for row in rows):
        accuracy, _, difference, low, high = map(float, re.findall(number, cell))
        assert low <= difference <= high
        assert difference == pytest.approx(accuracy - before, abs=0.11)
    assert "skipped: s5 needs networks with s5 layers" in shown
    # Another run measures nothing again.
    lines = Path("study/s4d/cells.jsonl").read_text()
    again = CliRunner().invoke(study["main"], arguments, catch_exceptions=False).output
    assert again.splitlines()[1:] == shown[shown.index("\ns4d\n") :].splitlines()
    assert Path("study/s4d/cells.jsonl").read_text() == lines
    assert not Path("study/s5").exists()
    refused = CliRunner().invoke(study["main"], ["one", "--parts=s4d,lru"])
    assert refused.exit_code == 2
    assert "'lru' is not one of 's5', 's4d'" in refused.output


def test_study_import_skips_resumes_and_prints_tables(folder):
    path = ROOT / "examples/study_import.py"
    study = runpy.run_path(str(path))
    run = CliRunner().invoke
    missing = run(study["main"], ["absent.pth"])
    assert missing.exit_code == 0
    assert "skipped: absent.pth does not exist" in missing.output
    config = lastax.ModelConfig(layer="s4d", bidirectional=False, layers=1, channels=4, states=8,
                                norm="layer", activation="full_glu", prenorm=False)  # fmt: skip
    model = lastax.build_network(config, input_size=2, classes=2, key=jax.random.key(0))
    lastax.interop.write("net.pth", model, format="s4-pth")
    x = np.random.default_rng(0).normal(size=(2000, 16, 2))
    np.savez("own.npz", x_train=x, y_train=np.arange(2000) % 2)
    # The globals of the script's functions.
    settings = study["measure"].__globals__
    settings["RATIOS"] = (0.75,)
    settings["REDUCTIONS"] = (("last", 0, (0.75,), 0), ("calibrated", 4, (0.75,), 0))
    arguments = ["net.pth", "--task", "arrays", "--data", "own.npz", "--out", "study"]
    for number in range(2):
        only = [f"--only={number}"]
        assert run(study["main"], [*arguments, *only], catch_exceptions=False).exit_code == 0
    lines = Path("study/net.jsonl").read_text().splitlines()
    assert [json.loads(line)["states"] for line in lines] == [32, 8, 8]
    # Another run measures nothing again, and prints the tables.
    tables = run(study["main"], arguments, catch_exceptions=False)
    assert Path("study/net.jsonl").read_text().splitlines() == lines
    assert "| `calibrated`, 4 images |" in tables.output
    # The difference of two accuracies, within its interval.
    unpruned, last, _ = (json.loads(line)["accuracy"] for line in lines)
    accuracies, differences = (
        re.search(rf"^\| {head} .*\n.*\n\| `last` \|(.*)", tables.output, re.M)
        for head in ("unpruned:", "difference")
    )
    assert accuracies[1].split("|")[0].strip() == f"{100 * last:.1f}"
    point, low, high = map(float, re.findall(r"-?\d+\.\d", differences[1]))
    assert point == pytest.approx(100 * (last - unpruned), abs=0.051)
    assert low <= point <= high
    assert last != unpruned


def test_study_training_measures_what_is_missing_and_prints_tables(folder, monkeypatch):
    """With untrained networks, which `lastax train` and distillation would train."""
    study = runpy.run_path(str(ROOT / "examples/study_training.py"))
    rng = np.random.default_rng(0)
    np.savez("own.npz", x_train=rng.normal(size=(60, 9, 1)), y_train=np.arange(60) % 2)
    trained = []

    def network(run, states):
        data = lastax.training.DataConfig("arrays", data="own.npz")
        model = lastax.ModelConfig(layers=1, channels=4, states=states)
        sizes = {"input_size": 1, "classes": 2, "length": 9, "labels": ("0", "1")}
        made = untrained_run(run, model, task="arrays", data=data, **sizes)
        (run / "metrics.jsonl").write_text('{"seconds": 1.5}\n{"seconds": 2}\n')
        (run / "results.json").write_text("{}")
        trained.append(run.name)
        return made

    weights, reductions = set(), set()

    def train(command, check):
        options = dict(itertools.pairwise(map(str, command)))
        weights.add(options.get("--penalty-weight"))
        names = ("--reduce-during-training", "--reduce-method", "--epochs")
        reductions.add(tuple(map(options.get, names)))
        network(Path(options["--out"]), int(options.get("--states", 8)))

    def sweep(runs, grid, *_, on_cell):
        """Half of the examples are correct, and one of six fewer after pruning."""
        correct = np.arange(6) % 2 == 0
        for cell in grid.cells():
            found = correct & (np.arange(6) != 4) if cell.ratio else correct
            identity = grid.identity(runs[0], cell)
            accuracy = {"test_accuracy": float(found.mean())}
            yield identity | accuracy | lastax.experiments.pack_correct(found)

    # The globals of the script's functions.
    settings = study["main"].callback.__globals__
    monkeypatch.setattr(settings["subprocess"], "run", train)
    monkeypatch.setattr(lastax.experiments, "sweep", sweep)
    correct = iter([[1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0]] * 5)
    monkeypatch.setattr(
        lastax.training, "correct_predictions", lambda *_: np.array(next(correct), bool)
    )
    settings["distill"] = lambda run, states, out: network(out, states)
    arguments = ["--task=arrays", "--seeds=0,1", "--trainings=modal:0.10", "--ratios=0.5"]
    arguments += ["--ways=reduced,reduced-calibrated,reduced:44,scratch,distilled"]
    arguments += ["--sizes=0.75", "--limit=6", "--out=study"]
    shown = CliRunner().invoke(study["main"], arguments, catch_exceptions=False).output
    assert len(trained) == 2 * (2 + 5)
    assert weights == {None, "0.1"}
    assert reductions == {
        (None, None, None),
        ("0.75", None, None),
        ("0.75", None, "44"),
        ("0.75", "calibrated", None),
    }
    states = {
        record["row"]: record["states"]
        for record in map(
            json.loads, Path("study/arrays-s5/networks.jsonl").read_text().splitlines()
        )
    }
    reduced = [
        "reduced during training",
        "reduced during training with calibrated",
        "reduced during training, 44 epochs",
    ]
    assert states == dict.fromkeys(reduced, 8) | {"from scratch": 2, "distilled from scratch": 2}
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("|")]
    accuracies, differences = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    names = [f"plain, {name}" for name in ("unpruned", "last", "aire", "calibrated")]
    names += ["plain, calibrated, reconstructed"]
    names += [name.replace("plain", "modal:0.1") for name in names]
    names += [*reduced, "from scratch", "distilled from scratch"]
    for table in (accuracies, differences):
        assert [row[0] for row in table[2:]] == names
    assert accuracies[0] == ["network", "training, s", "0 %", "50 %", "75 %"]
    assert accuracies[2][:3] == ["plain, unpruned", "4", "50.0 ± 0.0"]
    assert accuracies[3][3] == "33.3 ± 0.0"
    assert accuracies[-1][4] == "50.0 ± 23.6 (2 states)"
    assert differences[2][1] == "0.0 (0.0 to 0.0), within noise"
    assert differences[3][2].startswith("-16.7 (-")
    assert differences[-1][3].startswith("0.0 (-")
    wrong = CliRunner().invoke(study["main"], ["--trainings=plain:1"])
    assert wrong.exit_code == 2
    assert "takes no number" in wrong.output
    # Another run trains and measures nothing again.
    again = CliRunner().invoke(study["main"], arguments, catch_exceptions=False).output
    assert len(trained) == 2 * (2 + 5)
    assert again.splitlines() == shown.splitlines()[-len(again.splitlines()) :]


@pytest.fixture
def device(monkeypatch):
    """The scripts of the study of small devices."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc); install one")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    code = importlib.import_module("device_code")
    monkeypatch.setattr(code, "REPEATS", 2)
    return types.SimpleNamespace(code=code, study=importlib.import_module("study_device"))


def unidirectional_run(folder, **settings):
    """An untrained network for the task `speech`, as a run."""
    model = lastax.ModelConfig(bidirectional=False, **settings)
    return untrained_run(folder, model, labels=lastax.data.speech.CLASSES)


def test_features_in_C_are_those_of_records(device, tmp_path):
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(2, 8000)).astype(np.float32) * np.array([[0.1], [1e-4]], np.float32)
    mean, deviation = rng.normal(size=40), rng.uniform(1, 2, 40)
    features = device.code.Features(tmp_path, mean, deviation)
    found = features(np.pad(sound, ((0, 0), (0, 128))))
    frames = lastax.data._audio.log_mel(sound, rate=8000, hop=80)
    np.testing.assert_allclose(found, (frames - mean) / deviation, atol=1e-4)


def test_study_device_measures_what_is_missing(device, folder, monkeypatch, capsys):
    network = unidirectional_run(folder / "run", layers=1, channels=4, states=4)
    cost = {"flash_bytes": 100, "state_bytes": 10, "multiply_adds": 1000, "microseconds": 1.5}
    x = np.random.default_rng(0).normal(size=(8, 101, 40)).astype(np.float32)
    predicted = np.asarray(lastax.predict(network, {"x": x})).argmax(axis=1)
    study = types.SimpleNamespace(
        data=types.SimpleNamespace(classes=lastax.data.speech.CLASSES, length=101),
        x=x,
        # The network is right about six of the eight clips.
        label=np.where(np.arange(8) < 6, predicted, predicted + 1),
        cost=cost,
        difference=0.0,
    )
    study.measure = device.study.Study.measure.__get__(study)
    monkeypatch.setattr(lastax.training, "calibration_batch", lambda data, sequences: None)
    monkeypatch.setattr(device.study, "METHODS", ())
    monkeypatch.setattr(device.study, "WEIGHTS", ("float32",))
    path = folder / "networks.jsonl"
    device.study.measure_run(study, folder / "run", path)
    (found,) = device.study.records(path)
    sizes = lastax.deployment.footprint(network)
    assert found["flash_bytes"] == sizes.flash_bytes + 100
    assert found["work"] == 100 * (sizes.multiply_adds + 1000)
    assert found["microseconds"] > 1.5
    assert found["difference"] < 1e-6
    assert found["accuracy"] == 0.75
    device.study.measure_run(study, folder / "run", path)
    assert device.study.records(path) == [found]
    correct = lastax.experiments.unpack_correct(found)
    np.testing.assert_array_equal(correct, np.arange(8) < 6)
    pruned = {**found, "method": "last", "ratio": 0.5}
    monkeypatch.setattr(device.study, "METHODS", ("last",))
    _, _, unpruned, *rows = device.study.table(
        [found, {**found, "accuracy": 1}, pruned]
    ).splitlines()
    assert re.match(r"\| 0 % \|  \| float32 \| [\d.]+ ± [\d.]+ \|", unpruned)
    assert [row.split(" | ")[:4] for row in rows] == [["| 50 %", "`last`", "float32", "75.0"]]
    opposite = {**pruned, **lastax.experiments.pack_correct(~correct)}
    *_, unpruned, row = device.study.differences([found, opposite]).splitlines()
    assert unpruned == "| 0 % |  | float32 |  |  |"
    point, low, high = map(float, re.findall(r"-?\d+\.\d", row))
    assert low < point == -50 < high


@pytest.mark.slow
def test_study_device_checks_all_runtimes(device, folder, monkeypatch):
    """The whole command, on an untrained network."""
    pytest.importorskip("flatbuffers")
    unidirectional_run(folder / "run", layers=1, channels=8, states=8)
    monkeypatch.setattr(device.study, "METHODS", ("calibrated",))
    monkeypatch.setattr(device.study, "RATIOS", (0.5,))
    monkeypatch.setattr(device.study, "CHECKED", ("calibrated", 0.5))
    ended = CliRunner().invoke(device.study.main, ["run"], catch_exceptions=False)
    assert ended.exit_code == 0
    table = ended.output.partition("largest difference |")[2]
    differences = dict(re.findall(r"^\| (\w[\w ,-]+|c) \| (\S+) \|$", table, re.MULTILINE))
    expected = {"chunks of 37 steps", "single steps", "stablehlo", "stablehlo-step", "safetensors"}
    expected |= {"c", "c, int8"}
    if importlib.util.find_spec("onnxruntime"):
        expected |= {"onnx", "onnx, int8", "onnx-sequence", "onnx-sequence, int8"}
    assert set(differences) == expected
    assert max(map(float, differences.values())) < 1e-5
    within = re.search(r"through a pipe: probabilities within (\S+)\.$", ended.output, re.MULTILINE)
    assert float(within[1]) < 1e-4
