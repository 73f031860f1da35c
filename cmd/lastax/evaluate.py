"""`lastax evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

import lastax
from lastax.cmd._console import emit, out, percent, resolve_run
from lastax.cmd._options import (
    DataLocation,
    debug_option,
    json_option,
    location_options,
    run_argument,
)


@click.command()
@run_argument
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    help="Part of the data.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Sequences per batch.")
@click.option("--every", type=click.IntRange(2), help="Also evaluate at 1/N of the sampling rate.")
@location_options
@json_option
@debug_option
def evaluate(
    run: Path | None,
    split: str,
    batch_size: int | None,
    every: int | None,
    location: DataLocation,
    as_json: bool,
) -> None:
    """Accuracy and loss of RUN (default: the newest trained run) on a split.

    With `--every N` the network also reads every N-th step alone, with its step sizes multiplied
    by N, without training for that rate.
    """
    config, model = lastax.training.load_run(resolve_run(run))
    data = location.open(config)
    placement = lastax.training.Placement.of_this_process()
    results = {
        split: lastax.training.evaluate_split(
            model, data, split, batch_size=batch_size, placement=placement
        )
    }
    record = {**results[split]._asdict(), "split": split}
    if every is not None:
        slower = lastax.training.evaluate_split(
            model,
            lastax.data.every_step(data, every),
            split,
            batch_size=batch_size,
            step_rescale=float(every),
            placement=placement,
        )
        results[f"{split}, every {every} steps"] = slower
        record |= {"every": every, "at_every": slower._asdict()}
    if as_json:
        emit(record)
        return
    for name, result in results.items():
        out.print(
            f"{name}: accuracy {percent(result.accuracy)}, loss {result.loss:.4f}, "
            f"{result.examples} examples"
        )
