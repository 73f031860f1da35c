"""`lastax prune`."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

import lastax
from lastax.serialization import folder_written_at_once
from lastax.cmd._console import (
    SPLITS,
    debug_option,
    emit,
    err,
    finite,
    json_option,
    out,
    percent,
    report_unstable,
    resolve_run,
    run_argument,
    seed_option,
    unstable_states,
)
from lastax.cmd._fitting import fine_tuned
from lastax.cmd._open import Place, compare_on, evaluate_on, place_options, reopen_data
from lastax.cmd._pruning import (
    MEASURED,
    REFITTED,
    SUMMARIES,
    CalibrationSettings,
    Pruned,
    Reductions,
    calibration_options,
    finetune_rate_option,
    makes_new_states,
)
from lastax.cmd._search import USUAL_LOSS, Amount, Search
from lastax.data import Data

KINDS = ("states", "parameters", "bytes")
AUTO = "auto"


@click.command()
@run_argument
@click.option(
    "--method",
    type=click.Choice([*sorted(SUMMARIES), AUTO]),
    default="last",
    help=f"How states are scored and chosen; {AUTO}: what does best on validation, by default with "
    f"--max-loss {USUAL_LOSS:g}.",
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
@click.option(
    "--polish",
    type=click.IntRange(0),
    default=0,
    help="Then move what is left of each block, for so many steps (100 are enough), until it "
    "answers as before: no labels, the calibration data.",
)
@click.option(
    "--full-D",
    "dense_feedthrough",
    is_flag=True,
    help="Refit D as a whole matrix. It counts for as many states as have its weights, which go. "
    f"[{lastax.pruning.CALIBRATED}, {REFITTED}]",
)
@click.option("--norms", is_flag=True, help="Measure batch norms again, on the calibration data.")
@click.option(
    "--finetune", "epochs", type=click.IntRange(0), default=0, help="Then train so many epochs."
)
@finetune_rate_option
@click.option(
    "--distill", is_flag=True, help="Train so by the whole network's answers, without labels."
)
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
    polish: int,
    dense_feedthrough: bool,
    norms: bool,
    epochs: int,
    rate: float,
    distill: bool,
    seed: int,
    folder: Path | None,
    place: Place,
    as_json: bool,
    sequences: int,
    budget: str,
    **amount: Any,
) -> None:
    """Remove the least important states of RUN and write the smaller network as a run of its own.

    RUN defaults to the newest trained run. What is left, how far each layer moved, and what it cost
    on the validation and test splits, is printed and drawn into the new run: poles.png, states.png.
    """
    if distill and not epochs:
        raise click.UsageError("--distill goes with --finetune: for how many epochs?")
    if dense_feedthrough and method not in (lastax.pruning.CALIBRATED, REFITTED):
        raise click.UsageError(
            f"--full-D goes with --method {lastax.pruning.CALIBRATED} or {REFITTED}, which refit D"
        )
    if method == AUTO and all(value is None for value in amount.values()):
        amount["max_loss"] = USUAL_LOSS
    given, run = Amount(**amount), resolve_run(run)
    config, model = lastax.training.load_run(run)
    given.check(config)
    if folder is not None and folder.exists():
        raise lastax.serialization.RunError(f"{folder} is there already: choose another folder, or remove it")
    data = reopen_data(config, place)
    settings = CalibrationSettings(sequences, budget, polish, dense_feedthrough)
    reductions = Reductions(model, config, data, seed, settings)

    search = Search(reductions, given)
    asked = method
    if method == AUTO:
        method, count = search.best()
    else:
        count = search.count(method)
    pruned = reductions.reduce(method, count)
    small = pruned.model
    if norms:
        small = lastax.recalibrate_batch_norm(small, reductions.batch)
    if epochs:
        teacher = model if distill else None
        with tempfile.TemporaryDirectory() as name:
            small = fine_tuned(
                small, config, data, Path(name), epochs=epochs, rate=rate, teacher=teacher
            ).model
    systems = lastax.systems(model)
    with err.status("certificates, accuracies"):
        certificates = [
            lastax.certify(*each) for each in zip(systems, lastax.systems(small), strict=True)
        ]
        reached = {split: _reached(model, small, data, split) for split in SPLITS}
    answer = {
        "method": method,
        "states_before": sum(pruned.states_before),
        "states_after": sum(pruned.states_after),
        "feedthrough_states": reductions.feedthrough_states,
        "layers": _layers(model, small, unstable_states(systems)),
        "certificates": [
            {name: finite(norm) for name, norm in certificate._asdict().items()}
            for certificate in certificates
        ],
        **reached,
        "beside": {
            other: {
                split: evaluate_on(reductions.reduce(other, count).model, data, split).accuracy
                for split in SPLITS
            }
            for other in beside
            if other != method
        },
    }
    done: dict[str, Any] = {"method": method, "seed": seed, **vars(given)}
    if method in MEASURED or norms or polish:
        done |= vars(settings)
    done |= {"norms": True} if norms else {}
    done |= {"finetune": epochs, "finetune_rate": rate, "distill": distill} if epochs else {}
    target = folder or run.with_name(f"{run.name}-{_label(asked, given, done)}")
    with folder_written_at_once(target, replace=folder is None and _is_child(target, run)) as fresh:
        smaller = dataclasses.replace(
            lastax.training.keep_in_config(config, pruned.keep),
            dense_feedthrough=config.dense_feedthrough or dense_feedthrough,
            parent=os.path.relpath(run, target),
            pruning=done,
        )
        lastax.training.save_config(fresh, smaller)
        lastax.save(fresh, small)
        lastax.training.save_results(fresh, answer)
        _draw(fresh, systems, pruned, method, title=f"{run.name}, {method}")
    if as_json:
        emit({**answer, "run": str(target)})
    else:
        _show(answer, certificates, target)
        report_unstable(systems)


def _reached(
    model: lastax.nn.Network, small: lastax.nn.Network, data: Data, split: str
) -> dict[str, float]:
    before, after = (evaluate_on(one, data, split).accuracy for one in (model, small))
    fidelity = compare_on(model, small, data, split)
    return {
        "before": before,
        "after": after,
        "divergence": fidelity.divergence,
        "agreement": fidelity.agreement,
    }


def _label(asked: str, given: Amount, done: Mapping[str, Any]) -> str:
    """What the folder of the new run is called after that of the old one."""
    parts = [asked, given.label]
    parts += ["full-D"] if done.get("dense_feedthrough") else []
    parts += ["polished"] if done.get("polish") else []
    parts += ["norms"] if "norms" in done else []
    if "finetune" in done:
        parts += ["distilled" if done["distill"] else "tuned" + str(done["finetune"])]
    parts += [f"seed{done['seed']}"] if asked == "random" else []
    return "-".join(parts)


def _is_child(target: Path, run: Path) -> bool:
    """Whether a folder holds an earlier pruning of the same run and nothing else."""
    written = {"config.json", "model.safetensors", "results.json", "poles.png", "states.png"}
    if target.is_dir() and not {path.name for path in target.iterdir()} <= written:
        return False
    try:
        parent = lastax.training.load_config(target).parent
    except lastax.serialization.RunError:
        return False
    return parent is not None and (target / parent).resolve() == run.resolve()


def _layers(
    model: lastax.nn.Network, small: lastax.nn.Network, unstable: list[list[int]]
) -> list[dict[str, Any]]:
    """What each layer had and has."""
    rows = []
    for counts_before, sizes_before, counts_after, sizes_after, without_norm in zip(
        lastax.state_counts(model),
        lastax.training.layer_sizes(model),
        lastax.state_counts(small),
        lastax.training.layer_sizes(small),
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
    folder: Path, systems: list[lastax.ssm.AnySystem], pruned: Pruned, method: str, title: str
) -> None:
    scores, keep = pruned.scores, pruned.keep
    if makes_new_states(method):
        # They have no place among those of before.
        systems = lastax.systems(pruned.model)
        scores = lastax.score_states(systems)
        keep = [np.ones(len(score), bool) for score in scores]
    poles = [np.asarray(system.lam) for system in systems]
    figures = {
        "poles.png": lastax.plots.draw_poles(poles, scores, keep, title=title),
        "states.png": lastax.plots.draw_states(pruned.states_before, pruned.states_after, title=title),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)


def _show(answer: dict[str, Any], certificates: Sequence[lastax.analysis.Certificate], target: Path) -> None:
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
    if answer["feedthrough_states"]:
        out.print(f"full D: its weights count for {answer['feedthrough_states']} more states")
    moved = Table(title="how far each layer alone moved; says nothing of the network's answers")
    for name in ("layer", "H-infinity error", "its bound", "H2 error"):
        moved.add_column(name, justify="right")
    for index, certificate in enumerate(certificates):
        moved.add_row(str(index), *(f"{100 * part:.3g} %" for part in certificate.relative()))
    out.print(moved)
    for split in SPLITS:
        reached = answer[split]
        before, after = reached["before"], reached["after"]
        out.print(
            f"{split + ':':<11} {percent(before)} before, {percent(after)} after "
            f"({100 * (after - before):+.2f} points); {percent(reached['agreement'])} answered as "
            f"before, divergence {reached['divergence']:.3f} nats"
        )
    for other, reached in answer["beside"].items():
        accuracies = ", ".join(f"{split} {percent(reached[split])}" for split in SPLITS)
        out.print(f"beside it, with as many states, {other}: {accuracies}")
    out.print(f"run: {target}  (poles.png, states.png)")
