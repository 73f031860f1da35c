"""`lastax prune`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from rich.table import Table

import lastax
from lastax.cmd._console import (
    EVALUATION_BATCH,
    debug_option,
    emit,
    err,
    json_option,
    open_data,
    out,
    percent,
    resolve_run,
    run_argument,
)
from lastax.cmd.score import method_option, report_unstable, seed_option
from lastax.data import evaluation_batches

SPLITS = ("validation", "test")

Plan = Callable[[int], lastax.PruningPlan]


@click.command()
@run_argument
@method_option
@click.option(
    "--ratio", type=float, help="Share of all states to remove, in [0, 1).  [default: 0.3]"
)
@click.option("--states", type=click.IntRange(1), help="Or: how many states to keep in all.")
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 100),
    help="Or: remove as many as lose at most so many points of validation accuracy.",
)
@seed_option
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the new run.  [default: beside RUN, replaced if there]",
)
@json_option
@debug_option
def prune(
    run: Path | None,
    method: str,
    ratio: float | None,
    states: int | None,
    max_loss: float | None,
    seed: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Remove the least important states of RUN and write the smaller network as a run of its own.

    RUN defaults to the newest trained run. What is left, and what it cost on the validation and
    test splits, is printed and drawn into the new run: poles.png, states.png.
    """
    if sum(value is not None for value in (ratio, states, max_loss)) > 1:
        raise click.UsageError("give one of --ratio, --states and --max-loss")
    run = resolve_run(run)
    config, model = lastax.load_run(run)
    total = sum(config.states)
    if states is not None and not len(config.states) <= states <= total:
        raise click.UsageError(
            f"--states {states}: this run allows {len(config.states)} to {total}"
        )
    if ratio is not None and not 0 <= ratio < 1:
        raise click.UsageError(f"--ratio {ratio}: must be at least 0 and below 1")

    def plan_for(count: int) -> lastax.PruningPlan:
        return lastax.plan_pruning(
            model, states=count, method=method, length=config.length, key=jax.random.key(seed)
        )

    data = open_data(config)
    sources = {split: data.source(split) for split in SPLITS}

    def accuracy(model: lastax.Network, split: str) -> float:
        batches = evaluation_batches(sources[split], batch_size=EVALUATION_BATCH)
        return lastax.evaluate(model, batches).accuracy

    before = {split: accuracy(model, split) for split in SPLITS}
    if max_loss is not None:
        floor = before["validation"] - max_loss / 100

        def acceptable(count: int) -> bool:
            reached = accuracy(lastax.keep_states(model, plan_for(count).keep), "validation")
            err.print(f"{count} of {total} states: validation {percent(reached)}")
            # Accuracies are ratios of counts: the margin is for their rounding alone.
            return reached >= floor - 1e-9

        count, label = _fewest(len(config.states), total, acceptable), f"loss{max_loss:g}"
    elif states is not None:
        count, label = states, f"states{states}"
    else:
        share = 0.3 if ratio is None else ratio
        count = lastax.keep_count(total, share, at_least=len(config.states))
        label = f"{100 * share:g}"
    plan = plan_for(count)
    small = lastax.keep_states(model, plan.keep)
    after = {split: accuracy(small, split) for split in SPLITS}
    pruning = {
        "method": method,
        "seed": seed,
        "ratio": ratio,
        "states": states,
        "max_loss": max_loss,
    }
    answer = {
        "method": method,
        "states_before": total,
        "states_after": count,
        "layers": _layers(model, small, plan),
        **{split: {"before": before[split], "after": after[split]} for split in SPLITS},
    }
    target = folder or run.with_name(f"{run.name}-{method}-{label}")
    smaller = dataclasses.replace(
        config, states=tuple(plan.states_after), parent=str(run), pruning=pruning
    )
    with lastax.folder_written_at_once(target, replace=folder is None) as fresh:
        lastax.save_config(fresh, smaller)
        lastax.save_model(fresh, small)
        lastax.save_results(fresh, answer)
        _draw(fresh, model, plan, title=f"{run.name}, {method}")
    if as_json:
        emit({**answer, "run": str(target)})
    else:
        _show(answer, plan, target)


def _fewest(low: int, high: int, acceptable: Callable[[int], bool]) -> int:
    """The smallest acceptable count by bisection; `high`, where nothing is removed, always is."""
    while low < high:
        middle = (low + high) // 2
        if acceptable(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _layers(
    model: lastax.Network, small: lastax.Network, plan: lastax.PruningPlan
) -> list[dict[str, Any]]:
    rows = []
    for states, kept, before, after in zip(
        plan.states_before,
        plan.states_after,
        lastax.layer_sizes(model),
        lastax.layer_sizes(small),
        strict=True,
    ):
        rows.append(
            {
                "states_before": states,
                "states_after": kept,
                "parameters_before": before[0],
                "parameters_after": after[0],
                "bytes_before": before[1],
                "bytes_after": after[1],
            }
        )
    return rows


def _draw(folder: Path, model: lastax.Network, plan: lastax.PruningPlan, title: str) -> None:
    poles = [np.asarray(system.lam) for system in lastax.systems(model)]
    lastax.draw_poles(poles, plan.scores, plan.keep, title=title).savefig(
        folder / "poles.png", dpi=110
    )
    lastax.draw_states(plan.states_before, plan.states_after, title=title).savefig(
        folder / "states.png", dpi=110
    )


def _show(answer: dict[str, Any], plan: lastax.PruningPlan, target: Path) -> None:
    table = Table(title=f"{answer['method']}: {lastax.METHODS[answer['method']].summary}")
    for name in ("layer", "states", "left", "parameters", "left", "bytes", "left"):
        table.add_column(name, justify="right")
    kinds = ("states", "parameters", "bytes")
    for index, row in enumerate(answer["layers"]):
        cells = [f"{row[f'{kind}_{when}']:,}" for kind in kinds for when in ("before", "after")]
        table.add_row(str(index), *cells)
    table.add_section()
    totals = [
        f"{sum(row[f'{kind}_{when}'] for row in answer['layers']):,}"
        for kind in kinds
        for when in ("before", "after")
    ]
    table.add_row("all", *totals)
    out.print(table)
    for split in SPLITS:
        before, after = answer[split]["before"], answer[split]["after"]
        out.print(
            f"{split + ':':<11} {percent(before)} before, {percent(after)} after "
            f"({100 * (after - before):+.2f} points)"
        )
    report_unstable([np.flatnonzero(mask) for mask in plan.unstable])
    out.print(f"run: {target}  (poles.png, states.png)", soft_wrap=True)
