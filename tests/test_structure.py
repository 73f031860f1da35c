"""The house: imports run downward, public names are documented, annotated and listed."""

import ast
import inspect
from pathlib import Path

import pytest

import lastax

ROOT = Path(__file__).parents[1]

FLOORS = (
    {
        "_typecheck",
        "_typing",
        "_balance",
        "_budgets",
        "_certificates",
        "_convolution",
        "_data_free",
        "_discretize",
        "_elimination",
        "_features",
        "_hippo",
        "_initialize",
        "_multi_siso",
        "_norms",
        "_products",
        "_recurrence",
        "_refit",
        "_scores",
        "_selection",
        "_sweep",
        "_system",
    },
    {
        "_blocks",
        "_calibrate",
        "_lru",
        "_networks",
        "_normalize",
        "_polish",
        "_prune",
        "_reduce",
        "_s4d",
        "_s5",
        "_stages",
        "_surgery",
    },
    {
        "_checkpoints",
        "_errors",
        "_files",
        "_fit",
        "_optimize",
        "_pages",
        "_presets",
        "_reports",
        "_runs",
        "_settings",
        "_sweeps",
        "_tasks",
        "_train",
    },
)
FLOOR = {module: number for number, floor in enumerate(FLOORS) for module in floor}
UPSTAIRS = {"absl", "click", "grain", "librosa", "rich", "soundfile", "lastax.cmd", "lastax.data"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def within(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


MODULES = sorted((ROOT / "src/lastax").glob("_[a-z]*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_library_imports_run_downward(path):
    for name in imported(path):
        assert not within(name, UPSTAIRS), f"{path.name} imports {name}"
        module = name.removeprefix("lastax.")
        if name.startswith("lastax."):
            assert FLOOR[module] <= FLOOR[path.stem], f"{path.name} imports {name} from above"


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*.py")), ids=lambda path: path.stem)
def test_data_knows_neither_the_program_nor_the_library(path):
    for name in imported(path):
        assert not within(name, {"click", "rich", "lastax.cmd"}), f"{path.name} imports {name}"
        assert name != "lastax"
        assert not name.startswith("lastax._")


def test_every_module_stands_on_a_floor():
    assert {path.stem for path in MODULES} == set(FLOOR)


def test_public_names_are_those_that_are_imported():
    public = {name for name in vars(lastax) if not name.startswith("_")} - {"cmd", "data"}
    assert public == set(lastax.__all__)


@pytest.mark.parametrize("name", sorted(lastax.__all__))
def test_public_functions_are_documented_and_annotated(name):
    thing = getattr(lastax, name)
    if not (inspect.isfunction(thing) or inspect.isclass(thing)):
        return
    assert thing.__doc__, f"{name} has no docstring"
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {parameter}"
