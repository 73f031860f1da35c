"""`lastax score`."""

from pathlib import Path

import click
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import (
    debug_option,
    emit,
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
@seed_option
@json_option
@debug_option
def score(run: Path | None, method: str, seed: int, as_json: bool) -> None:
    """Score every state of RUN (default: the newest trained run). Touches nothing."""
    config, model = lastax.load_run(resolve_run(run))
    systems = lastax.systems(model)
    scores = lastax.score_states(
        systems, method, length=config.length, key=pruning_key(seed, config)
    )
    norms = [np.asarray(lastax.hinf_norms(system)) for system in systems]
    if as_json:
        layers = [
            {
                "scores": _without_infinities(layer),
                "hinf_norms": _without_infinities(norm),
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


def _without_infinities(values: np.ndarray) -> list[float | None]:
    """JSON knows no infinity: null stands for it."""
    return [float(value) if np.isfinite(value) else None for value in values]
