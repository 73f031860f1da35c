"""Training by several processes equals training by one, and failures are explained everywhere."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

TINY = ["train", "--task", "speech", "--channels", "8", "--states", "4", "--layers", "2"]
TINY += ["--dropout", "0.1", "--batch-size", "16", "--epochs", "2", "--epoch-batches", "5"]
DEVICES = "--xla_force_host_platform_device_count"


@pytest.fixture
def start(cache, tmp_path):
    """A function that starts `lastax` with some number of virtual devices."""
    started = []

    def run(*words, devices=1):
        flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}={devices}"
        process = subprocess.Popen(
            [sys.executable, "-m", "lastax.cmd.main", *map(str, words)],
            env={**os.environ, "LASTAX_CACHE": str(cache), "XLA_FLAGS": flags},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def together(number, of=2, port=None):
    return ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", of,
            "--process", number]  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def losses(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records for name in ("train_loss", "validation_loss")]


def ended(process):
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def test_two_processes_and_eight_devices_train_like_one_device(start, tmp_path):
    """Ten steps with batch norm and dropout; then the checkpoint is read by fewer devices."""
    alone = start(*TINY, "--out", "alone")
    port = free_port()
    pair = [
        start(*TINY, "--out", "pair", "--json", *together(i, port=port), devices=4) for i in (0, 1)
    ]
    assert ended(alone)[0] == 0
    (status, out, err), (other_status, other_out, other_err) = map(ended, pair)
    assert (status, other_status) == (0, 0), err + other_err
    assert losses(tmp_path / "pair") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    # One process reports, and it writes one folder.
    assert set(json.loads(out)) == {"run", "best_epoch", "validation", "test"}
    assert other_out == ""
    assert (
        json.loads(out)["test"] == json.loads((tmp_path / "pair/results.json").read_text())["test"]
    )
    names = {path.name for path in (tmp_path / "pair").iterdir()}
    assert names == {path.name for path in (tmp_path / "alone").iterdir()}


def test_a_killed_process_ends_all_and_the_run_resumes_on_one(start, tmp_path):
    more = [*TINY, "--epochs", "40", "--out", "run"]
    port = free_port()
    first, second = (start(*more, *together(i, port=port)) for i in (0, 1))
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(second.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    status, _, err = ended(second)
    assert status == 1
    assert "process 1: killed by SIGKILL" in err
    status, _, err = ended(first)
    assert status == 1
    assert err.splitlines()[-1].startswith("lastax: process 0: another process ended")
    resumed = start("train", "--task", "speech", "--out", "run", "--resume")
    status, _, err = ended(resumed)
    assert status == 0, err
    assert "the run began on 2 devices and continues on 1" in err
    assert log.read_text().count("\n") == 40


def test_processes_that_disagree_say_so_on_each(start, tmp_path):
    port = free_port()
    commands = [[*TINY, "--seed", seed, "--out", "run"] for seed in (0, 1)]
    pair = [start(*words, *together(i, port=port)) for i, words in enumerate(commands)]
    for number, process in enumerate(pair):
        status, _, err = ended(process)
        assert status == 1
        assert err.splitlines()[-1].startswith(
            f"lastax: process {number} of 2: processes 0 and 1 differ in the setting seed: 0 and 1;"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_waits_in_vain_says_so(start, number):
    words = [*TINY, *together(number, port=free_port()), "--join-timeout", 5]
    status, _, err = ended(start(*words))
    assert status == 1
    (line,) = err.splitlines()
    assert "not all 2 processes reached 127.0.0.1:" in line
