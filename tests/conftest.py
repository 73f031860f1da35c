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


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Most of the tests' time is compiling: equal programs of different tests share theirs."""
    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Compiled programs take memory and mappings, of which a process has only so many."""
    yield
    jax.clear_caches()


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
