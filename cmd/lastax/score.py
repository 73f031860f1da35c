"""`lastax score`."""

from collections.abc import Callable
from pathlib import Path

import click
import jax
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import debug_option, emit, json_option, out, resolve_run, run_argument


def method_option(command: Callable) -> Callable:
    """`--method`, one of those that the library knows."""
    return click.option(
        "--method",
        type=click.Choice(sorted(lastax.METHODS)),
        default="last",
        help="How states are scored and chosen.",
    )(command)


def seed_option(command: Callable) -> Callable:
    """`--seed`, for the methods that draw."""
    return click.option(
        "--seed", type=click.IntRange(0), default=0, help="Seed of random pruning."
    )(command)


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
    scores = lastax.score_states(systems, method, length=config.length, key=jax.random.key(seed))
    norms = [np.asarray(lastax.hinf_norms(system)) for system in systems]
    unstable = [np.flatnonzero(~np.isfinite(norm)) for norm in norms]
    if as_json:
        layers = [
            {
                "scores": [value if np.isfinite(value) else None for value in layer.tolist()],
                "hinf_norms": [value if np.isfinite(value) else None for value in norm.tolist()],
                "slowest": float(np.abs(system.lam).max()),
                "unstable": index.tolist(),
            }
            for layer, norm, system, index in zip(scores, norms, systems, unstable, strict=True)
        ]
        emit({"method": method, "layers": layers})
        return
    table = Table(title=f"{method}: {lastax.METHODS[method].summary}")
    for name in ("layer", "states", "lowest", "median", "highest", "H-inf norms", "largest |lam|"):
        table.add_column(name, justify="right")
    for index, (layer, norm, system) in enumerate(zip(scores, norms, systems, strict=True)):
        table.add_row(
            str(index),
            str(len(layer)),
            *(f"{value:.3g}" for value in (layer.min(), np.median(layer), layer.max())),
            f"{norm.min():.3g} to {norm.max():.3g}",
            f"{np.abs(system.lam).max():.6f}",
        )
    out.print(table)
    report_unstable(unstable)


def report_unstable(unstable: list[np.ndarray]) -> None:
    """Name the states on or outside the unit circle, if there are any."""
    for layer, states in enumerate(unstable):
        if len(states):
            out.print(
                f"layer {layer}: states {states.tolist()} have |lam| >= 1, no finite norm: kept"
            )
