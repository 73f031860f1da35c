"""`lastax bench refit`: linear algebra of a calibrated refit, by layer size."""

import dataclasses
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

import click
import jax
import numpy as np
from rich.table import Table

from lastax.calibration import EliminationPath, Moments, eliminate, refit_outputs
from lastax.cmd._console import emit, err
from lastax.cmd._options import debug_option, json_option
from lastax.cmd._tables import print_table
from lastax.cmd.bench._comparison import repeats_option

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class LayerSize:
    """A layer as independent regressions, each with its states and outputs.

    Attributes:
        name: the layer in words.
        regressions: number of independent regressions.
        states: states per regression.
        targets: outputs per regression.
        width: columns per state.
    """

    name: str
    regressions: int
    states: int
    targets: int
    width: int

    def moments(self) -> Moments:
        """Moments of random features and targets, with 1.5 rows per column."""
        rng = np.random.default_rng(0)
        columns = self.states * self.width + 2 * self.targets
        rows = columns + columns // 2
        gram = np.empty((self.regressions, columns, columns))
        for regression in gram:
            z = rng.normal(size=(rows, columns))
            np.matmul(z.T, z / rows, out=regression)
        return Moments(gram, self.width, self.targets, rows)


LAYERS = 6
# Per layer: one order and ten solves at the sizes of the probe, then one of each on the outputs of
# the reduced layers before it.
ORDERS, SOLVES = 2, 11
SIZES = (
    LayerSize("S5, 192 states, 512 channels, unidirectional", 1, 192, 512, 2),
    LayerSize("S5, 192 states, 512 channels, bidirectional", 1, 192, 512, 4),
    LayerSize("S4D, 256 channels of 32 states, unidirectional", 256, 32, 1, 2),
    LayerSize("S4D, 256 channels of 32 states, bidirectional", 256, 32, 1, 4),
)


@click.command()
@repeats_option
@json_option
@debug_option
def refit(repeats: int, as_json: bool) -> None:
    """Time the elimination order, and the solve for half of the states."""
    cases = []
    for size in SIZES:
        with err.status(size.name):
            cases.append(_case(size, repeats))
    if as_json:
        emit({"suite": "refit", "device": str(jax.devices()[0]), "cases": cases})
    else:
        print_table(_table(cases, repeats))


def _case(size: LayerSize, repeats: int) -> dict[str, Any]:
    moments = size.moments()
    path, order_times = _timed(lambda: _eliminate(moments), repeats)
    _, solve_times = _timed(lambda: _solve(moments, path), repeats)
    tracemalloc.start()
    _solve(moments, _eliminate(moments))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    order_seconds, solve_seconds = (float(np.median(x)) for x in (order_times, solve_times))
    return {
        "name": size.name,
        "order_seconds": order_seconds,
        "solve_seconds": solve_seconds,
        "network_seconds": LAYERS * (ORDERS * order_seconds + SOLVES * solve_seconds),
        "moments_bytes": moments.gram.nbytes,
        "temporary_bytes": peak,
    }


def _table(cases: list[dict[str, Any]], repeats: int) -> Table:
    table = Table(
        title=f"linear algebra of the refit of one layer, medians of {repeats} repeats; a network "
        f"has {LAYERS} layers, each with {ORDERS} orders and {SOLVES} solves"
    )
    table.add_column("layer")
    for name in ("order, s", "solve, s", "network, s", "moments, MiB", "temporaries, MiB"):
        table.add_column(name, justify="right")
    for case in cases:
        sizes = (case["moments_bytes"], case["temporary_bytes"])
        table.add_row(
            case["name"],
            f"{case['order_seconds']:.2f}",
            f"{case['solve_seconds']:.2f}",
            f"{case['network_seconds']:.0f}",
            *(f"{number / 2**20:.0f}" for number in sizes),
        )
    return table


def _timed(work: Callable[[], _T], repeats: int) -> tuple[_T, list[float]]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return result, times


def _eliminate(moments: Moments) -> EliminationPath:
    return eliminate(moments.features, moments.with_targets, moments.width)


def _solve(moments: Moments, path: EliminationPath) -> object:
    count, states = path.order.shape
    # The first half of the order is removed.
    keep = np.zeros((count, states), bool)
    np.put_along_axis(keep, path.order[:, states // 2 :], True, axis=1)
    W = np.zeros((count, moments.columns, moments.targets))
    return refit_outputs(moments, keep, W, np.zeros((count, moments.targets, moments.targets)))
