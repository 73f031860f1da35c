"""Wrong input: one line that names the problem and the remedy, and no partial output."""

import dataclasses
import functools
import json
import shutil
import sys

import pytest

import lastax.data
import lastax.data._open
import lastax.training
from lastax.data import speech


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["train", "--task", "speach"], 2, ["'speach'", "speech"]),
        (["train"], 2, ["--task"]),
        (["train", "--task", "speech", "--epochs", "many"], 2, ["--epochs", "many"]),
        (["train", "--task", "speech", "--epochs", "0"], 1, ["epochs", "at least 1"]),
        (["train", "--task", "speech", "--dropout", "1"], 1, ["dropout", "[0, 1)"]),
        (["train", "--task", "speech", "--learning-rate", "nan"], 1, ["learning_rate", "finite"]),
        (["train", "--task", "speech", "--activation", "relu"], 2, ["relu", "half_glu1"]),
        (["train", "--reduce-method", "foo"], 2, ["--reduce-method", "'foo'", "aire, balanced"]),
        (["train", "--task", "speech", "--hippo-blocks", "5"], 1, ["32 states and 5 blocks"]),
        (["train", "--task", "speech", "--batch-size", "9999"], 1, ["9999", "2839"]),
        (["train", "--task", "speech", "--devices", "64"], 2, ["--devices 64", "choose 1 to"]),
        (["train", "--task", "speech", "--process", "1"], 2, ["--process", "--distributed"]),
        (["train", "--distributed", "--coordinator", "10.0.0.1"], 2, ["HOST:PORT", "10.0.0.1"]),
        (["train", "--distributed", "--processes", "2", "--process", "2"], 2, ["choose 0 to 1"]),
        (["train", "--task", "speech", "--resume"], 1, ["no unfinished run"]),
        (["train", "--task", "speech", "--resume", "--out", "nowhere"], 1, ["no run at nowhere"]),
        (["evaluate", "nowhere"], 1, ["no run at nowhere"]),
        (["evaluate"], 1, ["no run below runs/", "lastax train"]),
        (["evaluate", "RUN", "--split", "exam"], 2, ["exam", "validation"]),
        (["score", "RUN", "--method", "lst"], 2, ["'lst'", "last"]),
        (["prune", "RUN", "--method", "magic"], 2, ["'magic'", "uniform-magnitude"]),
        (["prune", "RUN", "--ratio", "1"], 2, ["--ratio", "below 1, got 1.0"]),
        (["prune", "RUN", "--ratio", "-0.1"], 2, ["--ratio", "at least 0", "-0.1"]),
        (["prune", "RUN", "--ratio", "nan"], 2, ["--ratio", "nan"]),
        (["prune", "RUN", "--ratio", "half"], 2, ["--ratio", "half"]),
        (["prune", "RUN", "--states", "1"], 2, ["--states", "2 (one per layer) to 8", "got 1"]),
        (["prune", "RUN", "--states", "9"], 2, ["--states", "to 8", "got 9"]),
        (["prune", "RUN", "--max-loss", "-1"], 2, ["--max-loss", "-1"]),
        (["prune", "RUN", "--max-loss", "nan"], 2, ["--max-loss", "nan"]),
        (["prune", "RUN", "--finetune", "1", "--finetune-rate", "nan"], 2, ["--finetune-rate"]),
        (["sweep", "RUN", "--finetune", "1", "--finetune-rate", "inf"], 2, ["--finetune-rate"]),
        (["sweep", "RUN", "--paired", "--baseline", "LAST"], 2, ["--baseline LAST", "unpruned"]),
        (["sweep", "RUN", "--baseline", "last"], 2, ["--baseline", "without --paired"]),
        (["prune", "RUN", "--ratio", "0.5", "--states", "4"], 2, ["only one of ratio, states"]),
        (["prune", "RUN", "--out", "RUN"], 1, ["already exists", "another folder"]),
        (["prune", "RUN", "--out", "/dev/null/x"], 1, ["cannot write /dev/null/x"]),
        (["prune", "RUN", "--distill"], 2, ["--distill", "finetune"]),
        (["score", "RUN", "--method", "empirical-energy"], 2, ["'empirical-energy'", "last"]),
        (["sweep", "--task", "speech", "--layer", "s5-one"], 2, ["'s5-one'", "s5-unidirectional"]),
        (["sweep", "RUN", "--methods", "last,magic"], 2, ["'magic'", "lamp"]),
        (["sweep", "RUN", "--ratios", "0.1,1.5"], 2, ["1.5", "below 1"]),
        (["sweep", "RUN", "--ratios", "a"], 2, ["'a'", "0.1,0.3"]),
        (["reconstruct"], 2, ["reconstruct"]),
        (["data", "list", "--data-dir", "~no-such-user/x"], 1, ["~no-such-user/x", "home folder"]),
        (["--import", "./own.py", "data", "list"], 2, ["--import ./own.py", "a name as in Python"]),
        (
            ["train", "--task", "speech", "--out", "RUN", "--if-missing", "--seed", "7"],
            2,
            ["--seed 7", "the run has 0"],
        ),
        (["prune", "RUN", "--rate", "1"], 2, ["--rat"]),
        (["prune", "RUN", "--seed", "9" * 30], 2, ["--seed"]),
        (["prune", "RUN", "--finetune-rate", "1"], 2, ["--finetune-rate", "without --finetune"]),
        (["prune", "RUN", "--calibration", "9"], 2, ["--calibration", "calibration data"]),
        (["prune", "RUN", "--budget", "probe"], 2, ["--budget", "calibrated"]),
        (["prune", "RUN", "--fast"], 2, ["--fast", "calibrated"]),
        (["sweep", "RUN", "--layer", "lru"], 2, ["--layer", "without --task"]),
        (["sweep", "--task", "speech", "--train", "--seed 3"], 2, ["--seed cannot be changed"]),
        (["sweep", "RUN", "--distill"], 2, ["--distill", "without --finetune"]),
        (["train", "--task", "speech", "--eigenvalues", "lin"], 2, ["--eigenvalues", "s5", "s4d"]),
        (["train", "--task", "speech", "--layer", "lru", "--no-conj-sym"], 2, ["--no-conj-sym"]),
        (["train", "--task", "speech", "--norm", "layer", "--norm-momentum", "0.9"], 2, ["--norm"]),
        (
            ["train", "--task", "speech", "--no-anneal", "--minimum-learning-rate", "1"],
            2,
            ["--anneal"],
        ),
        (["train", "--from", "RUN", "--channels", "9"], 2, ["--channels 9", "--channels 8"]),
        (["train", "--from", "RUN", "--task", "text"], 2, ["--task text", "speech"]),
        (["train", "--from", "RUN", "--resume"], 2, ["--from", "--resume"]),
        (["train", "--from", "RUN", "--size", "paper"], 2, ["--size paper", "--from"]),
        (
            ["train", "--task", "speech", "--minimum-learning-rate", "0.005"],
            2,
            ["--minimum-learning-rate 0.005 is above --ssm-learning-rate", "lower it"],
        ),
        (["sweep", "RUN", "--methods", "aire", "--budget", "probe"], 2, ["--budget", "calibrated"]),
        (
            ["sweep", "RUN", "--methods", "aire", "--reconstruct", "last,aire"],
            2,
            ["--reconstruct last", "not among --methods"],
        ),
        (
            ["sweep", "RUN", "--methods", "aire", "--recalibrate-batch-norm", "last"],
            2,
            ["--recalibrate-batch-norm last", "not among --methods"],
        ),
        (
            ["sweep", "RUN", "--methods", "aire", "--calibration", "8"],
            2,
            ["--calibration", "calibration data"],
        ),
        (["score", "RUN", "--seed", "-1"], 2, ["--seed"]),
        (["export", "RUN", "--to", "c", "--out", "x"], 1, ["bidirectional", "--no-bidirectional"]),
        (["export", "RUN", "--to", "c", "--format", "npz", "--out", "x"], 2, ["--to", "--format"]),
        (["export", "RUN", "--to", "c", "--pad", "refuse", "--out", "x"], 2, ["--pad"]),
        (["export", "RUN", "--to", "basic", "--out", "x"], 2, ["'basic'", "safetensors"]),
        (["export", "RUN", "--quantize", "int8", "--out", "x"], 2, ["--quantize", "--to c"]),
        (["export", "none", "--to", "c", "--out", "x"], 1, ["no run at none"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_and_nothing_written(cli, trained, tmp_path, arguments, status, words):
    ended = cli(*(trained if argument == "RUN" else argument for argument in arguments))
    assert ended.status == status
    assert ended.stdout == ""
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("lastax: ")
    for word in words:
        assert word in lines[0]
    assert list(tmp_path.rglob("*")) == []


def damaged_copies():
    def truncate(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])

    def scramble(folder):
        (folder / "model.safetensors").write_bytes(b"no weights at all")

    def remove_weights(folder):
        (folder / "model.safetensors").unlink()

    def break_json(folder):
        (folder / "config.json").write_text('{"task": ')

    def forget_a_field(folder):
        config = json.loads((folder / "config.json").read_text())
        del config["model"]["channels"], config["seed"]
        (folder / "config.json").write_text(json.dumps(config))

    def other_width(folder):
        config = json.loads((folder / "config.json").read_text())
        config["model"]["channels"] = 16
        (folder / "config.json").write_text(json.dumps(config))

    def too_many_states(folder):
        config = json.loads((folder / "config.json").read_text())
        config["states"] = [40, 4]
        (folder / "config.json").write_text(json.dumps(config))

    def width_as_text(folder):
        config = json.loads((folder / "config.json").read_text())
        config["model"]["channels"] = "8"
        (folder / "config.json").write_text(json.dumps(config))

    def seed_as_text(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"seed": "x"}))

    def unknown_data(folder):
        config = json.loads((folder / "config.json").read_text())
        config["data"]["name"] = "opera"
        (folder / "config.json").write_text(json.dumps(config))

    def other_words(folder):
        config = json.loads((folder / "config.json").read_text())
        config["labels"][3] = "sideways"
        (folder / "config.json").write_text(json.dumps(config))

    def missing_word(folder):
        config = json.loads((folder / "config.json").read_text())
        del config["labels"][3]
        (folder / "config.json").write_text(json.dumps(config))

    return {
        truncate: ["model.safetensors is damaged"],
        scramble: ["model.safetensors is damaged"],
        remove_weights: ["has not finished", "--resume"],
        break_json: ["config.json is damaged"],
        forget_a_field: ["config.json is damaged", "seed"],
        other_width: ["model.safetensors is damaged", "should be float32"],
        too_many_states: ["config.json is damaged", "[40, 4]"],
        width_as_text: ["config.json is damaged", "channels"],
        seed_as_text: ["config.json is damaged", "seed"],
        unknown_data: ["opera", "speech"],
        other_words: ["not the data that the run was trained on", "classes", "'sideways'"],
        missing_word: ["config.json is damaged", "9 labels, for 10 classes"],
    }


@pytest.mark.parametrize(
    ("damage", "words"), damaged_copies().items(), ids=lambda value: getattr(value, "__name__", "")
)
@pytest.mark.parametrize("command", ["evaluate", "prune"])
def test_damaged_runs(cli, trained, tmp_path, damage, words, command):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    damage(copy)
    ended = cli(command, copy)
    assert ended.status == 1
    (line,) = ended.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_damaged_checkpoint_is_named(cli, trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "model.safetensors").unlink()
    newest = max(copy.glob("checkpoints/*"), key=lambda path: int(path.name))
    for file in newest.rglob("*"):
        if file.is_file() and file.parent != newest:
            file.write_bytes(b"")
    ended = cli("train", "--task", "speech", "--out", copy, "--resume")
    assert ended.status == 1
    line = ended.stderr.strip().splitlines()[-1]
    assert str(newest) in line
    assert "remove that folder" in line
    shutil.rmtree(newest)
    assert cli("train", "--task", "speech", "--out", copy, "--resume").status == 0


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_missing_or_damaged_audio(cli, tmp_path, monkeypatch, fault):
    archive = tmp_path / "clips.zip"
    if fault == "damaged":
        archive.write_bytes(speech.ARCHIVE.read_bytes()[:1_000_000])
    broken = dataclasses.replace(
        lastax.data.DATASETS["speech"], open=functools.partial(speech.open_speech, archive=archive)
    )
    monkeypatch.setattr(lastax.data._open, "DATASETS", {"speech": broken})
    ended = cli("train", "--task", "speech", "--out", tmp_path / "run")
    assert ended.status == 1
    (line,) = ended.stderr.strip().splitlines()
    assert str(archive) in line
    assert "make_speech_sample.py" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_pruning_did_not_write_is_not_replaced(cli, trained, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(trained, copy)
    other = tmp_path / "tiny-last-50"
    shutil.copytree(trained, other)
    ended = cli("prune", copy, "--ratio", 0.5)
    assert ended.status == 1
    assert "already exists" in ended.stderr
    assert (other / "metrics.jsonl").exists()
    shutil.rmtree(other)
    assert cli("prune", copy, "--ratio", 0.5).status == 0
    written = (other / "model.safetensors").stat()
    again = cli("prune", copy, "--ratio", 0.5)
    assert again.status == 1
    assert "--overwrite" in again.stderr
    assert (other / "model.safetensors").stat() == written
    assert cli("prune", copy, "--ratio", 0.5, "--overwrite").status == 0
    assert (other / "model.safetensors").stat() != written
    (other / "report.html").touch()  # As `lastax report` writes it.
    assert cli("prune", copy, "--ratio", 0.5, "--overwrite").status == 0
    (other / "sweep").mkdir()
    ended = cli("prune", copy, "--ratio", 0.5, "--overwrite")
    assert ended.status == 1
    assert "is not only an earlier pruning" in ended.stderr


def test_a_module_that_fails_is_named(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "failing_module.py").write_text("undefined\n")
    ended = cli("--import", "failing_module", "data", "list")
    assert ended.status == 2
    assert "--import failing_module: NameError" in ended.stderr


def test_a_run_below_a_link_finds_its_parent(cli, trained, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    small = tmp_path / "link" / "small"
    assert cli("prune", trained, "--ratio", 0.5, "--out", small).status == 0
    parent = lastax.training.load_config(small).parent
    assert (small.resolve() / parent).resolve() == trained.resolve()
    assert cli("prune", trained, "--ratio", 0.5, "--out", small, "--overwrite").status == 0


def test_names_with_dollar_signs_are_no_formulas(cli, trained, tmp_path):
    folder = tmp_path / "a$^$b"
    shutil.copytree(trained, folder)
    assert cli("prune", folder, "--ratio", 0.5).status == 0
    assert (tmp_path / "a$^$b-last-50" / "states.png").is_file()
    assert cli("report", folder, "--no-speed").status == 0


def test_a_level_that_is_there_is_named(cli, tmp_path):
    (tmp_path / "pathfinder32" / "curv_baseline").mkdir(parents=True)
    ended = cli("train", "--task", "pathfinder", "--data-dir", tmp_path)
    assert ended.status == 1
    assert "pass --level easy, or run `lastax data make pathfinder`" in ended.stderr


def test_debug_shows_the_traceback(cli, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lastax", "evaluate", "nowhere", "--debug"])
    with pytest.raises(lastax.serialization.RunError, match="no run at nowhere"):
        lastax.cmd.main.main()
