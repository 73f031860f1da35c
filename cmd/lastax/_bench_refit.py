"""`lastax bench refit`: what the algebra of a refit costs, by the size of a layer."""

import dataclasses
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import emit, err, out


@dataclasses.dataclass(frozen=True)
class Size:
    """A layer: `regressions` independent ones, each of `states` states and `targets` outputs."""

    name: str
    regressions: int
    states: int
    targets: int
    width: int

    def moments(self) -> lastax.calibration.Moments:
        """Of random features and targets, as many rows as columns and half as many again."""
        rng = np.random.default_rng(0)
        columns = self.states * self.width + 2 * self.targets
        rows = columns + columns // 2
        gram = np.empty((self.regressions, columns, columns))
        for regression in gram:
            z = rng.normal(size=(rows, columns))
            np.matmul(z.T, z / rows, out=regression)
        return lastax.calibration.Moments(gram, self.width, self.targets, rows)


LAYERS = 6
# Of each layer: its own order and sizes for the probe, then both on what the reduced layers give.
PATHS, SOLVES = 2, 11
SIZES = (
    Size("S5, 192 states, 512 channels, one way", 1, 192, 512, 2),
    Size("S5, 192 states, 512 channels, both ways", 1, 192, 512, 4),
    Size("S4D, 256 channels of 32 states, one way", 256, 32, 1, 2),
    Size("S4D, 256 channels of 32 states, both ways", 256, 32, 1, 4),
)


def bench_refit(*, repeats: int, as_json: bool) -> None:
    """Time the removal order and the solve for half the states, and print a table or an object."""
    cases: list[dict[str, Any]] = []
    for size in SIZES:
        moments = size.moments()
        with err.status(size.name):
            path, path_times = _timed(lambda: _path(moments), repeats)  # noqa: B023
            _, solve_times = _timed(lambda: _solve(moments, path), repeats)  # noqa: B023
            tracemalloc.start()
            _solve(moments, _path(moments))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        path_seconds, solve_seconds = (float(np.median(x)) for x in (path_times, solve_times))
        cases.append(
            {
                "name": size.name,
                "path_seconds": path_seconds,
                "solve_seconds": solve_seconds,
                "network_seconds": LAYERS * (PATHS * path_seconds + SOLVES * solve_seconds),
                "moments_bytes": moments.gram.nbytes,
                "temporary_bytes": peak,
            }
        )
    if as_json:
        emit({"suite": "refit", "device": str(jax.devices()[0]), "cases": cases})
        return
    table = Table(
        title=f"algebra of one layer's refit, medians of {repeats}; a network has {LAYERS} layers, "
        f"each with {PATHS} orders and {SOLVES} solves"
    )
    table.add_column("layer")
    for name in ("order, s", "solve, s", "network, s", "moments, MiB", "temporaries, MiB"):
        table.add_column(name, justify="right")
    for case in cases:
        sizes = (case["moments_bytes"], case["temporary_bytes"])
        table.add_row(
            case["name"],
            f"{case['path_seconds']:.2f}",
            f"{case['solve_seconds']:.2f}",
            f"{case['network_seconds']:.0f}",
            *(f"{number / 2**20:.0f}" for number in sizes),
        )
    out.print(table)


def _timed(work: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    answer, times = None, []
    for _ in range(repeats):
        started = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - started)
    return answer, times


def _path(moments: lastax.calibration.Moments) -> lastax.calibration.EliminationPath:
    return lastax.calibration.eliminate(moments.features, moments.with_targets, moments.width)


def _solve(moments: lastax.calibration.Moments, path: lastax.calibration.EliminationPath) -> Any:
    count, states = path.order.shape
    # The second half of the order stays.
    keep = np.zeros((count, states), bool)
    np.put_along_axis(keep, path.order[:, states // 2 :], True, axis=1)
    W = np.zeros((count, moments.columns, moments.targets))
    return lastax.calibration.refit_outputs(
        moments, keep, W, np.zeros((count, moments.targets, moments.targets))
    )
