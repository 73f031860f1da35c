"""Parametrizes tests by the cases of a folder of golden files, read at collection time."""

from pathlib import Path

import pytest

from .reading import FILES, Kind, read_kind


def _folder(config: pytest.Config) -> Path:
    return Path(config.getoption("--golden") or FILES).resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test the cases that its module's `parameters(kind)` lists under the same name."""
    name = getattr(metafunc.module, "KIND", None)
    if name is None:
        return
    try:
        kind = read_kind(_folder(metafunc.config), name)
    except FileNotFoundError:
        return  # Every test of the module fails for want of `kind` or of its cases.
    for fixture, values in metafunc.module.parameters(kind).items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, list(values.values()), ids=list(values))


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    return _folder(request.config)


@pytest.fixture
def kind(request: pytest.FixtureRequest, folder: Path) -> Kind:
    """The golden files of the kind that the test's module names in `KIND`."""
    return read_kind(folder, request.module.KIND)
