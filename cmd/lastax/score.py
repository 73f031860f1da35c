"""`lastax score`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table

import lastax
from lastax.cmd._console import emit, finite, report_unstable, resolve_run
from lastax.cmd._options import (
    MethodName,
    debug_option,
    json_option,
    run_argument,
    seed_option,
)
from lastax.cmd._tables import print_table


@click.command()
@run_argument
@click.option(
    "--method",
    type=MethodName(scores_parameters=True),
    default="last",
    help="How states are scored.",
)
@click.option("--compare", is_flag=True, help="Show the rank correlation with other methods.")
@seed_option
@json_option
@debug_option
def score(run: Path | None, method: str, compare: bool, seed: int, as_json: bool) -> None:
    """Score every state of RUN (default: the newest trained run), and change nothing."""
    import numpy as np  # takes 0.1 s

    config, model = lastax.training.load_run(resolve_run(run))
    systems = lastax.systems(model)
    if compare:
        _compare(systems, method, config, as_json)
        return
    scores = lastax.score_states(
        systems, method, length=config.length, key=lastax.experiments.pruning_key(config, seed)
    )
    norms = [np.asarray(lastax.hinf_norms(system)) for system in systems]
    unstable = [np.abs(np.asarray(system.lam)) >= 1 for system in systems]
    if as_json:
        layers = [
            {
                "scores": [finite(score) for score in layer],
                "hinf_norms": [finite(value) for value in norm],
                "largest_modulus": float(np.abs(system.lam).max()),
                "unstable": np.flatnonzero(mask).tolist(),
            }
            for layer, norm, system, mask in zip(scores, norms, systems, unstable, strict=True)
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
    print_table(table)
    report_unstable(unstable)


def _compare(
    systems: Sequence[lastax.ssm.AnySystem],
    method: str,
    config: lastax.training.RunConfig,
    as_json: bool,
) -> None:
    names = [
        name for name, one in lastax.METHODS.items() if one.scores_parameters and not one.uses_key
    ]
    if method not in names:
        raise click.UsageError(f"--method {method} with --compare: choose of {', '.join(names)}")
    scores = {name: lastax.score_states(systems, name, length=config.length) for name in names}
    tables = lastax.pruning.rank_agreement(scores)
    if as_json:
        emit({"methods": names, "layers": tables})
        return
    table = Table(title=f"rank correlation with {method} (Spearman; 1 is the same order)")
    table.add_column("method")
    for index in range(len(systems)):
        table.add_column(f"layer {index}", justify="right")
    for name in names:
        if name != method:
            values = [layer[method][name] for layer in tables]
            table.add_row(name, *("-" if value is None else f"{value:.2f}" for value in values))
    print_table(table)
