"""`lastax report`: self-contained pages."""

import dataclasses
import functools
import html
import json
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

import lastax
from lastax.experiments import CalibrationOptions, PruneOptions, prune_run
from lastax.training import _fit_network
from lastax.training._loop import FitResult

VOID = {"meta", "link", "br", "img"}
CHROMIUM = shutil.which("chromium")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--allow-file-access-from-files",
    "--virtual-time-budget=3000",
]


class Checked(HTMLParser):
    """Fails if an element is not closed; collects text and ids."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.ids = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_startendtag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check(page):
    parsed = Checked(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    # XML namespaces are the only addresses.
    content = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "http" not in content
    assert "<script" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("viewBox")
        assert root.get("width") is None
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 30
        for used in re.findall(r'(?:href="|url\()#([\w-]+)', drawing):
            assert used in parsed.ids
    return " ".join(parsed.text), len(drawings)


METHODS = {
    "last": PruneOptions(ratio=0.5),
    "calibrated": PruneOptions(
        method="calibrated", states=5, calibration=CalibrationOptions(7, "uniform"), seed=3
    ),
    "balanced": PruneOptions(method="balanced", ratio=0.5),
}


@pytest.fixture(scope="module")
def pruned(trained, tmp_path_factory):
    """A folder with a trained run, to which tests add pruned runs."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, root / "tiny")
    return root


@pytest.fixture(scope="module")
def small(pruned, cache):
    """Prune the run by a method of `METHODS`, once for all tests of the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTAX_CACHE", str(cache))
        data = lastax.data.reopen_data(lastax.training.load_config(pruned / "tiny"))

    @functools.cache
    def prune(method):
        out = pruned / f"small-{method}"
        return prune_run(pruned / "tiny", data, METHODS[method], folder=out).folder

    return prune


def test_page_of_a_trained_run(cli, pruned):
    (line,) = cli("report", pruned / "tiny").stdout.splitlines()
    assert line == str(pruned / "tiny" / "report.html")
    text, drawings = check((pruned / "tiny" / "report.html").read_text())
    assert drawings == 3
    for words in ("validation", "Learning", "lastax train --task", "--layers 2", "jax", "last"):
        assert words in text
    for words in ("Before and after", "removed", "crosses"):
        assert words not in text


@pytest.mark.parametrize("method", METHODS)
def test_page_of_a_pruned_run(cli, small, method):
    out = small(method)
    results = lastax.training.load_results(out)
    page = out / "own.html"
    # Timing the forward pass compiles two networks.
    speed = "--speed" if method == "last" else "--no-speed"
    assert cli("report", out, "--out", page, "--json", speed).result == {"report": str(page)}
    text, drawings = check(page.read_text())
    assert drawings == 3
    for split in ("validation", "test"):
        assert f"{100 * results[split]['before']:.2f} %" in text
        assert f"{100 * results[split]['after']:.2f} %" in text
    for words in ("Before and after", "Certificates", f"--method {method}", "bound"):
        assert words in text
    assert ("forward pass" in text) == (method == "last")
    assert "same prediction as before" in text
    assert "KL divergence" in text
    # A refit is judged on its data; its worst case is only shown on request.
    assert ("<details>" in page.read_text()) == (method == "calibrated")
    assert ("Errors of the layers" in text) == (method == "calibrated")
    # States of new systems have no scores of the method, and none of them is removed.
    new = method == "balanced"
    assert f"scores: {'last' if new else method}" in text
    assert ("new states" in text) == new
    assert ("crosses: removed states" in text) != new


def test_scores_that_a_run_does_not_hold_are_not_invented(small, tmp_path):
    """Earlier versions did not store the scores, and those of `calibrated` depend on data."""
    run = tmp_path / "run"
    shutil.copytree(small("calibrated"), run)
    config = lastax.training.load_config(run)
    parent = str(small("calibrated").parent / "tiny")
    lastax.training.save_config(run, dataclasses.replace(config, parent=parent))
    results = lastax.training.load_results(run)
    assert [len(layer) for layer in results["scores"]] == [4, 4]
    (run / "results.json").write_text(
        json.dumps({name: value for name, value in results.items() if name != "scores"})
    )
    text, _ = check(lastax.plots.report_page([run], time_forward=False))
    assert "scores: calibrated" not in text
    assert "scores: last" in text
    assert "does not hold the scores of calibrated" in text


def test_commands_of_the_page_reproduce_the_run(cli, pruned, small, tmp_path, monkeypatch):
    def fit(state, *_, folder, **__):
        """Take no step: only the configuration is compared."""
        lastax.save(folder, state.model)
        return FitResult(state.model, 1, 0.0, 0.0)

    out = small("calibrated")
    cli("report", out, "--no-speed")
    page = html.unescape((out / "report.html").read_text())
    commands = re.search(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)[1].splitlines()
    configs = []
    monkeypatch.setattr(_fit_network, "fit", fit)
    for command, folder in zip(commands, ("trained", "again"), strict=True):
        words = shlex.split(command)[1:]
        words[words.index("--out") + 1] = str(tmp_path / folder)
        assert cli(*words).status == 0
        configs.append(lastax.training.load_config(tmp_path / folder))
    ignored = {"git_revision": None, "devices": 1, "parent": None}
    for config, original in zip(configs, (pruned / "tiny", out), strict=True):
        expected = lastax.training.load_config(original)
        assert dataclasses.replace(config, **ignored) == dataclasses.replace(expected, **ignored)


def test_the_command_of_a_run_that_starts_from_another_one_names_it(pruned, tmp_path):
    source = tmp_path / "with space" / "first"
    shutil.copytree(pruned / "tiny", source)
    second = tmp_path / "second"
    shutil.copytree(source, second)
    config = lastax.training.load_config(source)
    training = dataclasses.replace(config.training, epochs=7)
    changed = dataclasses.replace(config, training=training, seed=3, start="../with space/first")
    lastax.training.save_config(second, changed)
    page = html.unescape(lastax.plots.report_page([second], time_forward=False))
    (command,) = re.search(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)[1].splitlines()
    words = ["lastax", "train", "--from", str(source), "--seed", "3", "--epochs", "7"]
    assert shlex.split(command) == [*words, "--out", str(second)]


def test_page_of_a_sweep(cli, pruned):
    folder = pruned / "sweep"
    options = ("--limit", 50, "--methods", "aire,lamp", "--ratios", "0.25,0.5", "--out", folder)
    cli("sweep", pruned / "tiny", *options)
    cli("report", folder)
    text, drawings = check((folder / "report.html").read_text())
    assert drawings == 2
    for words in ("aire", "lamp", "25 %", "50 %", "speech, s5", "lastax sweep"):
        assert words in text
    other = pruned / "other"
    cli(
        "sweep",
        pruned / "tiny",
        "--limit",
        50,
        "--methods",
        "random",
        "--ratios",
        "0.75",
        "--out",
        other,
    )
    both = pruned / "both.html"
    cli("report", folder, other, "--out", both)
    text, drawings = check(both.read_text())
    for words in ("lamp", "random", "75 %", "--methods aire,lamp", "--methods random"):
        assert words in text
    results = json.loads((folder / "sweep.json").read_text())
    for cell in results["cells"]:
        cell["validation_accuracy"] *= cell["method"] == "unpruned"
    (other / "sweep.json").write_text(json.dumps(results))
    text, _ = check(lastax.plots.report_page([other]))
    assert "none by any method" in text
    assert "most states removed" not in text
    assert cli("report", folder, pruned / "tiny").status == 1
    (folder / "sweep.json").write_text('{"cells": 3}')
    ended = cli("report", folder)
    assert ended.status == 1
    assert "is damaged" in ended.stderr


def test_report_page_from_python(pruned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pruned / "tiny", run)
    (run / lastax.training.METRICS_FILE).unlink()
    warnings = []
    _, drawings = check(lastax.plots.report_page([run], on_warning=warnings.append))
    assert drawings == 2
    assert len(warnings) == 1
    assert "no learning curve of run" in warnings[0]
    with pytest.raises(lastax.serialization.RunError, match="needs one run, or finished sweeps"):
        lastax.plots.report_page([run, run])


def test_a_folder_without_a_run_is_rejected(cli, tmp_path):
    ended = cli("report", tmp_path)
    assert ended.status == 1
    assert "neither a run" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no browser `chromium` on the path")
@pytest.mark.parametrize("width", [400, 1600])
def test_page_fits_phones_and_fills_wide_screens(cli, pruned, tmp_path, width):
    page = tmp_path / "report.html"
    cli("report", pruned / "tiny", "--out", page)
    (tmp_path / "frame.html").write_text(
        f'<iframe id="screen" src="report.html" style="width:{width}px;height:800px;border:0">'
        "</iframe><script>onload = () => { const page = document.getElementById('screen')"
        ".contentDocument; const data = document.body.dataset; const root = page.documentElement;"
        "data.width = root.scrollWidth; data.height = root.scrollHeight;"
        "data.right = Math.max(...[...page.querySelectorAll('figure, pre')].map("
        "one => Math.round(one.getBoundingClientRect().right))); };</script>"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *QUIET, profile, "--dump-dom", f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    sizes = {
        name: int(re.search(rf'data-{name}="(\d+)"', done.stdout)[1])
        for name in ("width", "height", "right")
    }
    assert sizes["width"] <= width
    assert sizes["height"] > 1000
    assert 0.85 * width < sizes["right"] < width
    assert "CONSOLE" not in done.stderr
