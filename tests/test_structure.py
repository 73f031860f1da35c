"""Packages import in one direction; public names are listed, documented and annotated."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lastax

ROOT = Path(__file__).parents[1]

# Each package imports only from itself and those before it.
ORDER = (
    *("ssm", "analysis", "nn", "surgery", "calibration", "pruning"),
    *("serialization", "training", "experiments", "interop", "deployment", "plots"),
    *("data", "cmd"),
)
FOLDERS = {name: ROOT / "src/lastax" / name for name in ORDER[:-2]}
FOLDERS |= {"data": ROOT / "data", "cmd": ROOT / "cmd/lastax"}
MODULES = {
    f"{package}/{path.relative_to(folder)}": (package, path)
    for package, folder in FOLDERS.items()
    for path in sorted(folder.rglob("*.py"))
}
PACKAGES = ORDER[:-1]
# What the library leaves to the packages above it.
APPLICATION_PACKAGES = {"absl", "click", "grain", "librosa", "rich", "soundfile", "soxr"}


def imported(path):
    """Modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "lastax":
            yield from (f"lastax.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_order_of_the_packages(name):
    package, path = MODULES[name]
    for module in imported(path):
        top, _, rest = module.partition(".")
        target = rest.split(".")[0]
        if top == "lastax" and target in ORDER:
            assert ORDER.index(target) <= ORDER.index(package), f"{name} imports {module}"
        if package not in ("data", "cmd"):
            assert top not in APPLICATION_PACKAGES, f"{name} imports {module}"
        if package == "data":
            assert top not in {"click", "rich"}, f"{name} imports {module}"


def test_every_package_is_in_the_order():
    found = {path.parent.name for path in (ROOT / "src/lastax").glob("*/__init__.py")}
    assert found == set(ORDER[:-2])


def test_importing_lastax_loads_no_heavy_package():
    heavy = ("jax", "numpy", "matplotlib", "orbax", "rich", "grain", "librosa", "click")
    code = f"import sys, lastax; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_top_level_is_small():
    assert 25 <= len(lastax.__all__) <= 40


@pytest.mark.parametrize("package", ["", *PACKAGES])
def test_public_names_are_those_that_are_listed(package):
    module = importlib.import_module(f"lastax.{package}".removesuffix("."))
    public = {
        name
        for name, value in inspect.getmembers(module)
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    # Names that `__init__` imports for its own use.
    public -= {"TYPE_CHECKING"}
    assert public == set(module.__all__)


@pytest.mark.parametrize(
    "name",
    sorted(
        f"{package}.{name}"
        for package in PACKAGES
        for name in importlib.import_module(f"lastax.{package}").__all__
    ),
)
def test_public_names_are_documented_and_annotated(name):
    package, _, attribute = name.partition(".")
    thing = getattr(importlib.import_module(f"lastax.{package}"), attribute)
    if not (inspect.isfunction(thing) or inspect.isclass(thing)):
        return
    assert thing.__doc__, f"{name} has no docstring"
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {parameter}"


@pytest.mark.parametrize(("value", "checked"), [("1", True), ("0", False), ("", False)])
def test_a_variable_switches_checks_of_types_on(value, checked):
    code = "import lastax; print(hasattr(lastax.keep_count, '__wrapped__'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LASTAX_TYPECHECK": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(checked)
