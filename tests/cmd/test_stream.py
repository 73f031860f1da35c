"""`lastax stream`: on a file, on a pipe, on a terminal, and what can be wrong."""

import dataclasses
import functools
import io
import json
import os
import re
import types
import zipfile

import jax
import numpy as np
import pytest
import soundfile
from rich.console import Console

import lastax
import lastax.data._open
from lastax.cmd import stream
from lastax.data import speech

from ..data import sound_fixtures as fixtures
from ..runs import untrained_run


def write_run(folder, task, *, bidirectional, input_size=40, classes=speech.CLASSES):
    """A run that was not trained, with a small network."""
    model = lastax.ModelConfig(layers=1, channels=4, states=4, bidirectional=bidirectional)
    data = lastax.training.DataConfig(task, features="log-mel" if task == "speech" else None)
    untrained_run(
        folder,
        model,
        task=task,
        data=data,
        input_size=input_size,
        classes=len(classes),
        labels=classes,
    )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    fixtures.small_speech_archive(folder / "clips.zip")
    with zipfile.ZipFile(folder / "clips.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".flac"))
        (folder / "clip.flac").write_bytes(archive.read(name))
    write_run(folder / "run", "speech", bidirectional=False)
    write_run(folder / "both", "speech", bidirectional=True)
    write_run(folder / "numbers", "smnist", bidirectional=False, input_size=1)
    return folder


@pytest.fixture
def call(cli, runs, monkeypatch):
    """Call the program on a few of the bundled clips, with some bytes on stdin."""
    opening = functools.partial(speech.open_speech, archive=runs / "clips.zip")
    small = dataclasses.replace(speech.DATA_SET, open=opening)
    monkeypatch.setattr(lastax.data._open, "DATASETS", {"speech": small})

    def call(*arguments, stdin=b""):
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin)))
        return cli(*arguments)

    return call


def test_the_final_prediction_is_that_of_predict(call, runs):
    clip = runs / "clip.flac"
    (expected,) = call("predict", runs / "run", clip, "--json").result["predictions"]
    ended = call("stream", runs / "run", clip)
    assert ended.status == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[:11]] == [
        *(f"{number / 10 - 0.01:.2f}" for number in range(1, 11)),
        "1.00",
    ]
    shown = f"{expected['class']}  {100 * expected['probability']:.2f} %"
    assert lines[11] == f"final class: {shown}, after 1.00 s of sound"
    factor, latency, lookahead, state = lines[12:]
    assert lookahead == "lookahead of the features: 16.0 ms"
    assert float(factor.removeprefix("real-time factor: ")) > 0
    times = re.fullmatch(
        r"latency per chunk of 10 steps: (.+) ms \(50 %\), (.+) ms \(95 %\), (.+) ms \(99 %\)",
        latency,
    )
    assert sorted(times.groups(), key=float) == list(times.groups())
    # Per layer 4 values and their rounding errors, for real and imaginary parts; sum, error, count.
    numbers = sum(
        leaf.size
        for leaf in jax.tree.leaves(
            lastax.streaming(lastax.training.load_run(runs / "run")[1]).init()
        )
    )
    assert state.startswith(f"state: {4 * numbers} bytes; buffers: ")


def test_json_lines_from_a_pipe(call, runs):
    samples, _ = soundfile.read(runs / "clip.flac", dtype="int16")
    half = samples[:4000]
    soundfile.write("half.wav", half, 8000)
    (expected,) = call("predict", runs / "run", "half.wav", "--json").result["predictions"]
    pipes = (half.astype("<i2").tobytes(), fixtures.wav(half, 8000))
    for content in pipes:
        ended = call("stream", runs / "run", "-", "--every", 250, "--json", stdin=content)
        assert ended.status == 0, ended.stderr
        *predictions, final = map(json.loads, ended.stdout.splitlines())
        assert [prediction["seconds"] for prediction in predictions] == [0.24, 0.49, 0.5, 0.5, 0.5]
        assert final["final"]
        assert final["class"] == expected["class"]
        for found in (predictions[-1], final):
            assert found["probabilities"] == pytest.approx(expected["probabilities"], rel=1e-4)
        assert final["seconds"] == 0.5
        assert set(final["latency_ms"]) == {"50", "95", "99"}
    slower = call("stream", runs / "run", "-", "--rate", 4000, "--json", stdin=pipes[0])
    assert json.loads(slower.stdout.splitlines()[-1])["seconds"] == 1


def test_a_terminal_shows_one_line(call, runs, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(stream, "out", Console(file=shown, force_terminal=True, width=80))
    ended = call("stream", runs / "run", runs / "clip.flac")
    assert ended.stdout.startswith("final class: ")
    assert shown.getvalue().count("\r\x1b[2K") >= 10  # the line is written again
    assert "0.99 s" in shown.getvalue()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere", "clip.flac"], 1, ["no run at nowhere"]),
        (["both", "clip.flac"], 1, ["bidirectional", "--no-bidirectional"]),
        (["numbers", "clip.flac"], 1, ["reads sounds", "smnist"]),
        (["run", "nothing.wav"], 1, ["cannot read", "nothing.wav"]),
        (["run", "run"], 1, ["cannot read", "directory"]),
        (["run", "clips.zip"], 1, ["clips.zip cannot be decoded"]),
        (["run", "-"], 1, ["the stream is empty"]),
        (["run", "clip.flac", "--rate", "8000"], 2, ["--rate", "file"]),
        (["run", "clip.flac", "--every", "0"], 2, ["--every"]),
        (["run", "nan.wav"], 1, ["sample 3 ", "--on-nan continue"]),
        (["run", "loud.wav"], 1, ["samples up to 32,000", "like those of the training data"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong(call, runs, arguments, status, words):
    samples = np.zeros(100, np.float32)
    samples[3] = np.nan
    soundfile.write(runs / "nan.wav", samples, 8000, subtype="FLOAT")
    soundfile.write(runs / "loud.wav", np.full(100, 32_000.0), 8000, subtype="FLOAT")
    places = [runs / a if (runs / a).exists() else a for a in arguments]
    ended = call("stream", *places)
    assert ended.status == status
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("lastax: ")
    for word in words:
        assert word in line


def test_a_stream_goes_on_after_a_sample_that_is_not_finite(call, runs):
    samples = np.full(8000, 0.1, np.float32)
    samples[[900, 901, 5000]] = np.nan
    soundfile.write("nan.wav", samples, 8000, subtype="FLOAT")
    ended = call("stream", runs / "run", "nan.wav", "--on-nan", "continue")
    assert ended.status == 0
    (line,) = ended.stderr.splitlines()
    assert "sample 900 (0.113 s) is not finite" in line
    assert ended.stdout.splitlines()[-1] == "samples that were not finite: 3"
    wrong = call("stream", runs / "run", "-", "--rate", 9000, stdin=fixtures.wav(np.zeros(9), 8000))
    assert wrong.status == 1
    assert "8000 Hz" in wrong.stderr


def test_a_reader_that_has_enough_is_no_failure(call, runs, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        ended = call("stream", runs / "run", runs / "clip.flac", "--every", 10)
        monkeypatch.undo()
    assert ended.status == 0
    assert ended.stderr == ""
