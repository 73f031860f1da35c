"""Shared by all tests: strict rank promotion, keys, and double precision on request."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

# Workers of pytest-xdist inherit this variable. They share the cores, and threads that wait for
# each other would only waste time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests compile thousands of small programs once each, so compiling fast matters more than fast
# programs. Pass XLA_FLAGS="" to test with XLA's default optimizations.
FLAGS = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):
    # Later versions refuse this flag, and the process ends.
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options, which only the first `conftest.py` that pytest reads may do."""
    parser.addoption(
        "--golden", metavar="FOLDER", help="golden files to test against instead of the bundled"
    )
    parser.addoption(
        "--golden-import",
        metavar="FOLDER",
        help="parameters and outputs of foreign code to test against instead of the bundled",
    )


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def compile_once(shared: Path) -> None:
    """Share compiled programs between all tests of a run, which spend most of their time compiling.

    The folder is that of the program when tests run it with `LASTAX_CACHE`.
    """
    jax.config.update("jax_compilation_cache_dir", str(shared / "cache" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Free compiled programs: a process has a limited number of memory mappings."""
    yield
    jax.clear_caches()


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A new key for every call, the same keys in every run of a test."""
    seeds = itertools.count()
    return lambda: jax.random.key(next(seeds))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision inside the test."""
    with jax.enable_x64(True):
        yield
