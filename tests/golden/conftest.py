"""Parametrize tests with the cases of a folder of golden files, which is read at collection."""

from pathlib import Path

import pytest

from .reading import FILES, Kind, read_kind


def _folder(config: pytest.Config) -> Path:
    return Path(config.getoption("--golden") or FILES).resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each argument of a test that the module's `parameters(kind)` has an entry for."""
    name = getattr(metafunc.module, "KIND", None)
    if name is None:
        return
    try:
        kind = read_kind(_folder(metafunc.config), name)
    except FileNotFoundError:
        return  # Without `kind` or its cases, every test of the module fails.
    for fixture, values in metafunc.module.parameters(kind).items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, list(values.values()), ids=list(values))


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    return _folder(request.config)


@pytest.fixture
def kind(request: pytest.FixtureRequest, folder: Path) -> Kind:
    """The golden files of the kind that the test module names in `KIND`."""
    return read_kind(folder, request.module.KIND)
