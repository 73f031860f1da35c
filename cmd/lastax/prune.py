"""`lastax prune`."""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

import lastax
from lastax._files import folder_written_at_once
from lastax.cmd._console import (
    SPLITS,
    debug_option,
    emit,
    err,
    json_option,
    out,
    percent,
    report_unstable,
    resolve_run,
    run_argument,
    seed_option,
    unstable_states,
)
from lastax.cmd._open import Place, evaluate_on, place_options, reopen_data
from lastax.cmd._pruning import (
    CALIBRATED,
    SUMMARIES,
    Calibration,
    Pruned,
    calibration_options,
    makes_new_states,
    reducer,
)

KINDS = ("states", "parameters", "bytes")


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much to remove, said in one of three ways; 30 % if in none."""

    ratio: float | None
    states: int | None
    max_loss: float | None

    def check(self, config: lastax.RunConfig) -> None:
        """Refuse what makes no sense for a run.

        Raises:
            click.UsageError: naming the option and what it may be.
        """
        if sum(value is not None for value in vars(self).values()) > 1:
            raise click.UsageError("give one of --ratio, --states and --max-loss")
        if self.max_loss is not None and not math.isfinite(self.max_loss):
            raise click.UsageError(f"--max-loss {self.max_loss}: must be 0 to 100 points")
        least, most = len(config.states), sum(config.states)
        if self.states is not None and not least <= self.states <= most:
            raise click.UsageError(f"--states {self.states}: this run allows {least} to {most}")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise click.UsageError(f"--ratio {self.ratio}: must be at least 0 and below 1")

    @property
    def label(self) -> str:
        """A word for names of folders."""
        if self.max_loss is not None:
            return f"loss{self.max_loss:g}"
        if self.states is not None:
            return f"states{self.states}"
        return f"{100 * self._share:g}"

    def count(self, config: lastax.RunConfig, loss_of: Callable[[int], float]) -> int:
        """How many states to keep; `loss_of` tells the points that keeping so many costs."""
        least, most = len(config.states), sum(config.states)
        if self.max_loss is not None:
            # Accuracies are ratios of counts: the margin is for their rounding alone.
            allowed = self.max_loss + 1e-7
            return _fewest(least, most, lambda count: loss_of(count) <= allowed)
        if self.states is not None:
            return self.states
        return lastax.keep_count(most, self._share, at_least=least)

    @property
    def _share(self) -> float:
        return 0.3 if self.ratio is None else self.ratio


@click.command()
@run_argument
@click.option(
    "--method",
    type=click.Choice(sorted(SUMMARIES)),
    default="last",
    help="How states are scored and chosen.",
)
@click.option(
    "--beside",
    type=click.Choice(sorted(SUMMARIES)),
    multiple=True,
    help="Also tell what this method would reach with as many states; may be repeated.",
)
@click.option("--ratio", type=float, help="Share of all states to remove.  [default: 0.3]")
@click.option("--states", type=int, help="Or: how many states to keep in all.")
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 100),
    help="Or: how many points of validation accuracy to give up at most; the number of states "
    "is found by bisection.",
)
@calibration_options
@seed_option
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the new run.  [default: beside RUN, named after the method]",
)
@place_options
@json_option
@debug_option
def prune(
    run: Path | None,
    method: str,
    beside: tuple[str, ...],
    seed: int,
    folder: Path | None,
    place: Place,
    as_json: bool,
    sequences: int,
    budget: str,
    **amount: Any,
) -> None:
    """Remove the least important states of RUN and write the smaller network as a run of its own.

    RUN defaults to the newest trained run. What is left, and what it cost on the validation and
    test splits, is printed and drawn into the new run: poles.png, states.png.
    """
    given, run = Amount(**amount), resolve_run(run)
    config, model = lastax.load_run(run)
    given.check(config)
    if folder is not None and folder.exists():
        raise lastax.RunError(f"{folder} is there already: choose another folder, or remove it")
    data = reopen_data(config, place)
    before = {split: evaluate_on(model, data, split).accuracy for split in SPLITS}

    calibration = Calibration(sequences, budget)

    def reduce_by(name: str) -> Callable[[int], Pruned]:
        return reducer(model, name, config=config, data=data, seed=seed, calibration=calibration)

    reduce = reduce_by(method)

    def loss_of(count: int) -> float:
        reached = evaluate_on(reduce(count).model, data, "validation").accuracy
        err.print(f"{count} of {sum(config.states)} states: validation {percent(reached)}")
        return 100 * (before["validation"] - reached)

    systems = lastax.systems(model)
    count = given.count(config, loss_of)
    pruned = reduce(count)
    small = pruned.model
    after = {split: evaluate_on(small, data, split).accuracy for split in SPLITS}
    answer = {
        "method": method,
        "states_before": sum(pruned.states_before),
        "states_after": sum(pruned.states_after),
        "layers": _layers(model, small, unstable_states(systems)),
        **{split: {"before": before[split], "after": after[split]} for split in SPLITS},
        "beside": {
            other: {split: evaluate_on(small_by_other, data, split).accuracy for split in SPLITS}
            for other in beside
            for small_by_other in (reduce_by(other)(count).model,)
            if other != method
        },
    }
    draw = f"-seed{seed}" if method == "random" else ""
    target = folder or run.with_name(f"{run.name}-{method}-{given.label}{draw}")
    with folder_written_at_once(target, replace=folder is None and _is_child(target, run)) as fresh:
        smaller = dataclasses.replace(
            lastax.keep_in_config(config, pruned.keep),
            parent=os.path.relpath(run, target),
            pruning={
                "method": method,
                "seed": seed,
                **vars(given),
                **(vars(calibration) if method == CALIBRATED else {}),
            },
        )
        lastax.save_config(fresh, smaller)
        lastax.save_model(fresh, small)
        lastax.save_results(fresh, answer)
        _draw(fresh, systems, pruned, method, title=f"{run.name}, {method}")
    if as_json:
        emit({**answer, "run": str(target)})
    else:
        _show(answer, target)
        report_unstable(systems)


def _is_child(target: Path, run: Path) -> bool:
    """Whether a folder holds an earlier pruning of the same run and nothing else."""
    written = {"config.json", "model.safetensors", "results.json", "poles.png", "states.png"}
    if target.is_dir() and not {path.name for path in target.iterdir()} <= written:
        return False
    try:
        parent = lastax.load_config(target).parent
    except lastax.RunError:
        return False
    return parent is not None and (target / parent).resolve() == run.resolve()


def _fewest(low: int, high: int, acceptable: Callable[[int], bool]) -> int:
    """By bisection, a count that is acceptable while one less is not.

    `high`, where nothing is removed, counts as acceptable. Accuracy does not fall evenly, so a
    smaller count may be acceptable too.
    """
    while low < high:
        middle = (low + high) // 2
        if acceptable(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _layers(
    model: lastax.Network, small: lastax.Network, unstable: list[list[int]]
) -> list[dict[str, Any]]:
    """What each layer had and has."""
    rows = []
    for counts_before, sizes_before, counts_after, sizes_after, without_norm in zip(
        lastax.state_counts(model),
        lastax.layer_sizes(model),
        lastax.state_counts(small),
        lastax.layer_sizes(small),
        unstable,
        strict=True,
    ):
        row: dict[str, Any] = {}
        for kind, old, new in zip(
            KINDS, (counts_before, *sizes_before), (counts_after, *sizes_after), strict=True
        ):
            row |= {f"{kind}_before": old, f"{kind}_after": new}
        rows.append(row | {"unstable": without_norm})
    return rows


def _draw(
    folder: Path, systems: list[lastax.AnySystem], pruned: Pruned, method: str, title: str
) -> None:
    scores, keep = pruned.scores, pruned.keep
    if makes_new_states(method):
        # They have no place among those of before.
        systems = lastax.systems(pruned.model)
        scores = lastax.score_states(systems)
        keep = [np.ones(len(score), bool) for score in scores]
    poles = [np.asarray(system.lam) for system in systems]
    figures = {
        "poles.png": lastax.draw_poles(poles, scores, keep, title=title),
        "states.png": lastax.draw_states(pruned.states_before, pruned.states_after, title=title),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)


def _show(answer: dict[str, Any], target: Path) -> None:
    table = Table(title=f"{answer['method']}: {SUMMARIES[answer['method']]}")
    table.add_column("layer", justify="right")
    for kind in KINDS:
        table.add_column(kind, justify="right")
        table.add_column("left", justify="right")
    columns = [f"{kind}_{when}" for kind in KINDS for when in ("before", "after")]
    for index, row in enumerate(answer["layers"]):
        table.add_row(str(index), *(f"{row[column]:,}" for column in columns))
    table.add_section()
    table.add_row("all", *(f"{sum(row[c] for row in answer['layers']):,}" for c in columns))
    out.print(table)
    for split in SPLITS:
        before, after = answer[split]["before"], answer[split]["after"]
        out.print(
            f"{split + ':':<11} {percent(before)} before, {percent(after)} after "
            f"({100 * (after - before):+.2f} points)"
        )
    for other, reached in answer["beside"].items():
        accuracies = ", ".join(f"{split} {percent(reached[split])}" for split in SPLITS)
        out.print(f"beside it, with as many states, {other}: {accuracies}")
    out.print(f"run: {target}  (poles.png, states.png)")
