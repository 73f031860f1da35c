"""`lastax report`: self-contained pages."""

import dataclasses
import html
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

import lastax

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
        for used in re.findall(r'(?:href="|url\()#([\w-]+)', drawing):
            assert used in parsed.ids
    return " ".join(parsed.text), len(drawings)


@pytest.fixture(scope="module")
def pruned(trained, tmp_path_factory):
    """A folder with a trained run, to which tests add pruned runs."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, root / "tiny")
    return root


def test_page_of_a_trained_run(cli, pruned):
    (line,) = cli("report", pruned / "tiny").stdout.splitlines()
    assert line == str(pruned / "tiny" / "report.html")
    text, drawings = check((pruned / "tiny" / "report.html").read_text())
    assert drawings == 3
    for words in ("validation", "Learning", "lastax train --task", "--layers 2", "jax"):
        assert words in text
    assert "Before and after" not in text


@pytest.mark.parametrize("method", ["last", "calibrated", "balanced"])
def test_page_of_a_pruned_run(cli, pruned, method):
    out = pruned / f"small-{method}"
    answer = cli(
        "prune", pruned / "tiny", "--method", method, "--ratio", 0.5, "--out", out, "--json"
    ).result
    page = out / "own.html"
    assert cli("report", out, "--out", page, "--json").result == {"report": str(page)}
    text, drawings = check(page.read_text())
    assert drawings == 3
    for split in ("validation", "test"):
        assert f"{100 * answer[split]['before']:.2f} %" in text
        assert f"{100 * answer[split]['after']:.2f} %" in text
    for words in (
        "Before and after",
        "forward pass",
        "Certificates",
        f"--method {method}",
        "bound",
    ):
        assert words in text
    assert "same prediction as before" in text
    assert "KL divergence" in text
    # A refit is judged on its data; its worst case is only shown on request.
    assert ("<details>" in page.read_text()) == (method == "calibrated")
    assert ("Errors of the layers" in text) == (method == "calibrated")


def test_commands_of_the_page_reproduce_the_run(cli, pruned, tmp_path):
    out = tmp_path / "cut"
    options = ("--method", "calibrated", "--calibration", 7, "--budget", "uniform", "--seed", 3)
    shown = cli("prune", pruned / "tiny", *options, "--states", 5, "--out", out).stdout
    assert "on the calibration data" in shown
    assert "H-infinity" not in shown
    cli("report", out, "--no-speed")
    page = html.unescape((out / "report.html").read_text())
    commands = re.search(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)[1].splitlines()
    configs = []
    for command, folder in zip(commands, ("trained", "again"), strict=True):
        words = shlex.split(command)[1:]
        words[words.index("--out") + 1] = str(tmp_path / folder)
        assert cli(*words).status == 0
        configs.append(lastax.training.load_config(tmp_path / folder))
    ignored = {"git_revision": None, "devices": 1, "parent": None}
    for config, original in zip(configs, (pruned / "tiny", out), strict=True):
        expected = lastax.training.load_config(original)
        assert dataclasses.replace(config, **ignored) == dataclasses.replace(expected, **ignored)


def test_page_of_a_sweep(cli, pruned):
    folder = pruned / "sweep"
    options = ("--methods", "last,lamp", "--ratios", "0.25,0.5", "--out", folder)
    cli("sweep", pruned / "tiny", *options)
    cli("report", folder)
    text, drawings = check((folder / "report.html").read_text())
    assert drawings == 2
    for words in ("last", "lamp", "25 %", "50 %", "speech, s5", "lastax sweep"):
        assert words in text
    other = pruned / "other"
    cli("sweep", pruned / "tiny", "--methods", "aire", "--ratios", "0.75", "--out", other)
    both = pruned / "both.html"
    cli("report", folder, other, "--out", both)
    text, drawings = check(both.read_text())
    for words in ("lamp", "aire", "75 %", "--methods last,lamp", "--methods aire"):
        assert words in text
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
def test_page_fits_a_phone(cli, pruned, tmp_path):
    page = tmp_path / "report.html"
    cli("report", pruned / "tiny", "--out", page)
    (tmp_path / "frame.html").write_text(
        '<iframe id="phone" src="report.html" style="width:400px;height:800px;border:0"></iframe>'
        "<script>onload = () => { const root = document.getElementById('phone')"
        ".contentDocument.documentElement; document.body.dataset.width = root.scrollWidth; "
        "document.body.dataset.height = root.scrollHeight; };</script>"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *QUIET, profile, "--dump-dom", f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(re.search(r'data-width="(\d+)"', done.stdout)[1]) <= 400
    assert int(re.search(r'data-height="(\d+)"', done.stdout)[1]) > 1000
    assert "CONSOLE" not in done.stderr
