"""Help texts, shell completion, and what the program loads before a command runs."""

import importlib
import subprocess
import sys
from importlib import metadata

import click
import equinox as eqx
import jax
import pytest

import lastax
from lastax.cmd import prune, sweep
from lastax.cmd.main import COMMANDS, cli
from lastax.nn._configuration import LAYERS


@pytest.mark.parametrize(
    "arguments", [["--help"], ["prune", "-h"], ["sweep", "-h"], ["score", "-h"]]
)
def test_help_loads_no_jax(arguments):
    code = (
        "import atexit, sys; from lastax.cmd.main import main; "
        "atexit.register(lambda: print('loaded', {'jax', 'numpy', 'grain'} & set(sys.modules))); "
        f"sys.argv = ['lastax', *{arguments!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: lastax" in done.stdout
    assert done.stdout.endswith("loaded set()\n")


BLOCKED = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {"click", "grain", "librosa", "matplotlib", "orbax", "PIL", "rich"}:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

sys.meta_path.insert(0, Blocked())
import lastax, lastax.training, lastax.experiments
assert lastax.training.installed_versions()["jax"]
lastax.prune
for use in (lambda: lastax.data, lambda: lastax.plots, lambda: lastax.training.Checkpoints(".")):
    try:
        use()
    except ModuleNotFoundError as error:
        print(error)
from lastax.cmd import start
start()
"""


def test_the_library_works_without_the_packages_of_the_program():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    users = [line.partition(": run pip install 'lastax[cli]'") for line in done.stdout.splitlines()]
    assert [line[0] for line in users if line[1]] == [
        "lastax.data needs grain",
        "lastax.plots needs matplotlib",
        "training with checkpoints needs orbax",
    ]
    assert done.stderr == "lastax: the program lastax needs click: run pip install 'lastax[cli]'\n"
    assert done.returncode == 1


def test_the_version_is_that_of_the_package():
    assert lastax.__version__ == metadata.version("lastax")
    assert {"prune", "training", "__version__"} <= set(dir(lastax))
    with pytest.raises(AttributeError, match="no attribute 'pruen'"):
        _ = lastax.pruen


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_fits(name):
    context = click.Context(cli, info_name="lastax", **cli.context_settings)
    command = cli.get_command(context, name)
    assert command.name == name
    inner = click.Context(command, parent=context, info_name=name, terminal_width=80)
    for line in command.get_help(inner).splitlines():
        assert len(line) <= 80, line


def test_commands_are_completed_without_loading_them(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"loads {name}"))
    found = cli.shell_complete(click.Context(cli), "pr")
    assert [item.value for item in found] == ["predict", "prune"]


def test_help_texts_say_what_the_library_has():
    (budget,) = (option for option in prune.prune.params if option.name == "budget")
    assert all(name in budget.help for name in lastax.calibration.BUDGETS)
    assert prune.AUTO == lastax.experiments.AUTO
    assert prune.DEFAULT_MAX_LOSS == lastax.experiments.DEFAULT_MAX_LOSS
    assert sweep.RECONSTRUCTION_STEPS == lastax.experiments.RECONSTRUCTION_STEPS
    assert sweep.UNPRUNED == lastax.experiments.UNPRUNED


@pytest.mark.parametrize("kind", LAYERS)
def test_settings_name_the_layers_that_read_them(kind):
    read = set()

    class Recorder(lastax.ModelConfig):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    config = Recorder(layer=kind, channels=2, states=2)
    read.clear()
    eqx.filter_eval_shape(lambda key: LAYERS[kind](config, key), jax.random.key(0))
    for name, field in lastax.ModelConfig.__dataclass_fields__.items():
        layers = field.metadata["layers"]
        if layers:
            assert (name in read) == (kind in layers), name
