"""`lastax predict`, and what a run on small data of one's own needs: a batch size, more epochs."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import soundfile

import lastax
from lastax.data import speech

SMALL = ("--layers", 1, "--channels", 4, "--states", 2, "--no-bidirectional", "--epochs", 1)


def test_a_sound_file_has_the_prediction_of_its_record(cli, trained, tmp_path):
    with zipfile.ZipFile(speech.ARCHIVE) as archive:
        listed = next(name for name in archive.namelist() if name.endswith("testing_list.txt"))
        folder = listed.removesuffix("testing_list.txt")
        name = sorted(archive.read(listed).decode().split())[5]
        clip = tmp_path / "clip.flac"
        clip.write_bytes(archive.read(folder + name))
    data = lastax.data.open_data("speech")
    (record,) = data.read_file(clip)
    test = data.sources["test"]
    (row,) = (i for i in range(len(test)) if np.allclose(test[i]["x"], record["x"], atol=1e-3))
    assert name.startswith(data.classes[test[row]["label"]] + "/")
    (answer,) = cli("predict", trained, clip, "--json").result["predictions"]
    _, model = lastax.training.load_run(trained)
    logits = np.asarray(model(test[row]["x"]), np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert answer["class"] == data.classes[expected.argmax()]
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-3)
    shown = cli("predict", trained, clip, clip).stdout.splitlines()
    assert shown == [f"{clip}  {answer['class']}  {100 * answer['probability']:.2f} %"] * 2
    long = tmp_path / "long.wav"
    soundfile.write(long, np.zeros(9000), 8000)
    refused = cli("predict", trained, clip, long)
    assert refused.status == 1
    assert f"{long} has 1.12 s" in refused.stderr


def test_files_are_read_like_records_of_an_audio_folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "clips" / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.9, 0.9, 1000 + 40 * number), 8000)
    settings = {"data": tmp_path / "clips", "features": "raw", "rate": 4000, "every": 3}
    data = lastax.data.open_data("audio-folder", **settings)
    records = [data.sources[split][i] for split in data.sources for i in range(data.records(split))]
    assert len(records) == 24
    for path in (tmp_path / "clips").rglob("*.wav"):
        (one,) = data.read_file(path)
        same = [r for r in records if r["length"] == one["length"] and (r["x"] == one["x"]).all()]
        assert len(same) == 1
        assert data.classes[same[0]["label"]] == path.parent.name


def test_a_small_data_set_trains_predicts_and_trains_further(cli, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(44) % 2
    x = rng.normal(size=(44, 6, 3)) + labels[:, None, None]
    file, run = tmp_path / "x.npz", tmp_path / "run"
    np.savez(file, x_train=x, y_train=labels)
    ended = cli("train", "--task", "arrays", "--data", file, *SMALL, "--out", run, "--json")
    assert ended.status == 0
    assert "a batch of 50" in ended.stderr
    assert "--batch-size" in ended.stderr
    config = lastax.training.load_config(run)
    records = lastax.data.reopen_data(config).records("train")
    assert records < 50
    assert config.training.batch_size == records // 4

    np.save(tmp_path / "new.npy", x[:40].astype(np.float32))
    np.savez(tmp_path / "one.npz", x=x[3])
    answers = cli("predict", run, tmp_path / "new.npy", tmp_path / "one.npz", "--json").result
    rows = [(row["file"][-7:], row["row"]) for row in answers["predictions"]]
    assert rows == [("new.npy", i) for i in range(40)] + [("one.npz", 0)]
    _, model = lastax.training.load_run(run)
    logits = np.asarray(lastax.predict(model, {"x": x[:40].astype(np.float32)}))
    told = [int(row["class"]) for row in answers["predictions"][:40]]
    assert told == list(logits.argmax(axis=1))
    assert answers["predictions"][40]["probability"] == pytest.approx(
        answers["predictions"][3]["probability"], abs=1e-5
    )
    refused = cli("predict", run, file)
    assert refused.status == 1
    assert "(n, L, 3)" in refused.stderr or "npz file with x" in refused.stderr

    refused = cli("train", "--task", "arrays", "--data", file, *SMALL, "--augment")
    assert refused.status == 2
    assert "--augment: arrays has no augmentation" in refused.stderr

    # Seed and settings are those of the run, so only the start can make a difference.
    more = tmp_path / "more"
    assert cli("train", "--from", run, "--out", more, "--json").status == 0
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (run, more, more / "start")
    ]
    assert weights[0] == weights[2] != weights[1]
    assert lastax.training.load_config(more).start == "../run"
    # An interrupted run resumes without the run that it started from.
    for name in ("model.safetensors", "structure.json", "results.json", "metrics.jsonl"):
        (more / name).unlink()
    shutil.rmtree(more / "checkpoints")
    shutil.rmtree(run)
    resumed = cli("train", "--task", "arrays", "--resume", "--out", more, "--json")
    assert resumed.status == 0, resumed.stderr
    assert (more / "model.safetensors").read_bytes() == weights[1]


def test_show_settings_are_those_of_a_new_run(cli, trained):
    settings = cli("train", "--task", "speech", "--layers", 2, "--show-settings", "--json").result
    recorded = json.loads((trained / "config.json").read_text())
    assert settings["network"]["layers"] == recorded["model"]["layers"] == 2
    assert settings["training"]["label_smoothing"] == recorded["training"]["label_smoothing"]
    assert "eigenvalues" not in settings["network"]
    shown = cli("train", "--from", trained, "--show-settings").stdout
    assert "  --channels 8\n" in shown
    assert "  --epochs 2\n" in shown
