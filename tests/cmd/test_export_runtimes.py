"""`lastax export --to`: files for runtimes, or one line that tells why there is none."""

import jax
import pytest

import lastax

from ..runs import untrained_run


@pytest.fixture
def run(tmp_path):
    """An untrained run."""

    def make(**settings):
        model = lastax.ModelConfig(layers=1, channels=4, states=2, **settings)
        folder = tmp_path / "run"
        untrained_run(folder, model, classes=2, labels=("no", "yes"))
        return folder

    return make


@pytest.mark.parametrize("target", ["onnx", "onnx-sequence", "stablehlo", "stablehlo-step"])
def test_every_target_writes_a_file(cli, run, tmp_path, target):
    pytest.importorskip(target.partition("-")[0].replace("stablehlo", "flatbuffers"))
    file = tmp_path / "net"
    ended = cli("export", run(bidirectional=False), "--to", target, "--out", file, "--json")
    assert ended.result == {"file": str(file), "notes": []}
    content = file.read_bytes()
    if target.startswith("onnx"):
        assert b'["no", "yes"]' in content
    else:
        jax.export.deserialize(bytearray(content))


@pytest.mark.parametrize(
    ("options", "settings", "status", "words"),
    [
        (["--to", "tflite"], {}, 2, ["'tflite'", "onnx, onnx-sequence, stablehlo"]),
        (["--to", "onnx"], {}, 1, ["streaming", "bidirectional", "--no-bidirectional"]),
        (["--to", "stablehlo-step"], {}, 1, ["streaming", "bidirectional"]),
        (["--to", "onnx", "--format", "s5-npz"], {}, 2, ["--to", "--format", "only one"]),
        (["--to", "onnx", "--pad", "layer"], {}, 2, ["--pad", "--format"]),
    ],
)
def test_what_cannot_be_written_is_one_line(cli, run, tmp_path, options, settings, status, words):
    ended = cli("export", run(**settings), *options, "--out", tmp_path / "net")
    assert ended.status == status
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert all(word in ended.stderr for word in words), ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_folder_is_one_line(cli, run, tmp_path):
    pytest.importorskip("flatbuffers")
    ended = cli("export", run(), "--to", "stablehlo", "--out", tmp_path / "no" / "net")
    assert ended.status == 1
    assert "cannot write" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
