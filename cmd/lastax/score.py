"""`lastax score`."""

from pathlib import Path

import click
import numpy as np
import scipy.stats
from rich.table import Table

import lastax
from lastax.cmd._console import (
    debug_option,
    emit,
    finite,
    json_option,
    method_option,
    out,
    pruning_key,
    report_unstable,
    resolve_run,
    run_argument,
    seed_option,
    unstable_states,
)


@click.command()
@run_argument
@method_option
@click.option(
    "--compare", is_flag=True, help="Rank agreement of all methods with this one, layer by layer."
)
@seed_option
@json_option
@debug_option
def score(run: Path | None, method: str, compare: bool, seed: int, as_json: bool) -> None:
    """Score every state of RUN (default: the newest trained run). Touches nothing."""
    config, model = lastax.training.load_run(resolve_run(run))
    systems = lastax.systems(model)
    if compare:
        _compare(systems, method, config, as_json)
        return
    scores = lastax.score_states(
        systems, method, length=config.length, key=pruning_key(seed, config)
    )
    norms = [np.asarray(lastax.hinf_norms(system)) for system in systems]
    if as_json:
        layers = [
            {
                "scores": [finite(score) for score in layer],
                "hinf_norms": [finite(value) for value in norm],
                "largest_modulus": float(np.abs(system.lam).max()),
                "unstable": unstable,
            }
            for layer, norm, system, unstable in zip(
                scores, norms, systems, unstable_states(systems), strict=True
            )
        ]
        emit({"method": method, "layers": layers})
        return
    table = Table(title=f"{method}: {lastax.METHODS[method].summary}")
    for name in ("layer", "states", "lowest", "median", "highest", "largest H-inf", "1 - |lam|"):
        table.add_column(name, justify="right")
    for index, (layer, norm, system) in enumerate(zip(scores, norms, systems, strict=True)):
        scored = (layer.min(), np.median(layer), layer.max())
        slowest = 1 - np.abs(system.lam).max()
        numbers = [f"{value:.2g}" for value in (*scored, norm.max(), slowest)]
        table.add_row(str(index), str(len(layer)), *numbers)
    out.print(table)
    report_unstable(systems)


def _compare(
    systems: list[lastax.ssm.AnySystem], method: str, config: lastax.training.RunConfig, as_json: bool
) -> None:
    """Spearman's correlation of the scores of every two methods, in each layer."""
    # Those that make new states have no score of the old ones.
    names = [
        name for name, one in lastax.METHODS.items() if one.reduce is None and not one.measured
    ]
    names.remove("random")
    if method not in names:
        raise click.UsageError(f"--method {method} with --compare: choose of {', '.join(names)}")
    scores = {name: lastax.score_states(systems, name, length=config.length) for name in names}
    matrices = [
        {
            one: {other: _agreement(scores[one][i], scores[other][i]) for other in names}
            for one in names
        }
        for i in range(len(systems))
    ]
    if as_json:
        emit({"methods": names, "layers": matrices})
        return
    table = Table(title=f"rank agreement with {method} (Spearman; 1: the same order)")
    table.add_column("method")
    for index in range(len(systems)):
        table.add_column(f"layer {index}", justify="right")
    for name in names:
        if name != method:
            table.add_row(name, *(_told(matrix[method][name]) for matrix in matrices))
    out.print(table)


def _agreement(one: np.ndarray, other: np.ndarray) -> float | None:
    """None where all scores of a method are the same: there is no order to compare."""
    if len(one) < 2 or np.ptp(_ranks(one)) == 0 or np.ptp(_ranks(other)) == 0:
        return None
    return float(scipy.stats.spearmanr(_ranks(one), _ranks(other)).statistic)


def _ranks(scores: np.ndarray) -> np.ndarray:
    # Infinity ranks highest, and ties share a rank.
    return scipy.stats.rankdata(scores)


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
