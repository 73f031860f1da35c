"""Shared by all tests: strict shapes, keys, x64 where a test asks for it."""

import itertools
from collections.abc import Callable, Iterator

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register what only the first `conftest.py` that pytest reads may register."""
    parser.addoption(
        "--golden", metavar="FOLDER", help="golden files to test against instead of the bundled"
    )


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A new key at every call, the same ones in every run of a test."""
    seeds = itertools.count()
    return lambda: jax.random.key(next(seeds))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision inside the test."""
    with jax.enable_x64(True):
        yield
