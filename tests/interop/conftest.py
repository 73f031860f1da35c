"""Parametrize tests with the reference outputs of foreign code."""

from pathlib import Path

import pytest

from .cases import BUNDLED, cases


def _folder(config: pytest.Config) -> Path:
    return Path(config.getoption("--golden-import") or BUNDLED).resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that ask for `case` once per case of the folder."""
    if "case" in metafunc.fixturenames:
        found = cases(_folder(metafunc.config))
        metafunc.parametrize("case", list(found.values()), ids=list(found))


@pytest.fixture(scope="session")
def golden_import(request: pytest.FixtureRequest) -> Path:
    """The folder of reference outputs."""
    return _folder(request.config)
