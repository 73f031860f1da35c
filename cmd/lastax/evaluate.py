"""`lastax evaluate`."""

from pathlib import Path

import click

import lastax
from lastax.cmd._console import (
    debug_option,
    emit,
    json_option,
    out,
    percent,
    resolve_run,
    run_argument,
)
from lastax.cmd._open import Place, evaluate_on, every_step, place_options, reopen_data


@click.command()
@run_argument
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    help="Which part of the data.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Sequences in a batch.")
@click.option(
    "--every",
    type=click.IntRange(2),
    help="Evaluate also on every so many steps alone, with step sizes as many times as large: "
    "what is left of the accuracy at a lower sampling rate, without training for it.",
)
@place_options
@json_option
@debug_option
def evaluate(
    run: Path | None,
    split: str,
    batch_size: int | None,
    every: int | None,
    place: Place,
    as_json: bool,
) -> None:
    """Accuracy and loss of RUN (default: the newest trained run) on a split."""
    config, model = lastax.training.load_run(resolve_run(run))
    data = reopen_data(config, place)
    results = {split: evaluate_on(model, data, split, batch_size=batch_size)}
    answer = {**results[split]._asdict(), "split": split}
    if every is not None:
        fewer = evaluate_on(
            model, every_step(data, every), split, batch_size=batch_size, step_rescale=float(every)
        )
        results[f"{split}, every {every} steps"] = fewer
        answer |= {"every": every, "at_every": fewer._asdict()}
    if as_json:
        emit(answer)
        return
    for what, result in results.items():
        out.print(
            f"{what}: accuracy {percent(result.accuracy)}, loss {result.loss:.4f}, "
            f"{result.examples} examples"
        )
