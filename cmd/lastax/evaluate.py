"""`lastax evaluate`."""

from pathlib import Path

import click

import lastax
from lastax.cmd._console import (
    EVALUATION_BATCH,
    debug_option,
    emit,
    json_option,
    open_data,
    out,
    percent,
    resolve_run,
    run_argument,
)
from lastax.data import evaluation_batches


@click.command()
@run_argument
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    help="Which part of the data.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=EVALUATION_BATCH, help="Sequences in a batch."
)
@json_option
@debug_option
def evaluate(run: Path | None, split: str, batch_size: int, as_json: bool) -> None:
    """Accuracy and loss of RUN (default: the newest trained run) on a split."""
    config, model = lastax.load_run(resolve_run(run))
    source = open_data(config.task).sources[split]
    result = lastax.evaluate(model, evaluation_batches(source, batch_size=batch_size))
    if as_json:
        emit({**result._asdict(), "split": split})
    else:
        out.print(
            f"{split}: accuracy {percent(result.accuracy)}, loss {result.loss:.4f}, "
            f"{result.examples} examples"
        )
