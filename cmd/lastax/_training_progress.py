"""Training with a progress bar and a line per epoch."""

import shlex
from pathlib import Path
from typing import Any

import click

from lastax.cmd._console import Counter, percent
from lastax.cmd._named_modules import named_modules
from lastax.data import Data
from lastax.nn import Network
from lastax.training import CONFIG_FILE, RunConfig, StepMetrics, train


def train_with_progress(
    config: RunConfig,
    data: Data,
    folder: Path,
    *,
    start: Network | None,
    resume: bool,
    workers: int,
    root: Path | None,
    moved: str | None,
) -> dict[str, Any]:
    """Train a run, and return its results. If it is interrupted, say how to resume it.

    Args:
        config: the configuration of the run.
        data: its data.
        folder: the run.
        start: the network that a new run starts from; one with new weights if None.
        resume: whether the run was interrupted before.
        workers: number of processes that prepare batches.
        root: folder of all data sets, if it was given.
        moved: where the data of the run are now, if this was given.
    """
    with Counter("training") as counter:

        def begin(steps: int) -> None:
            per_epoch = steps // config.training.epochs
            counter.print(
                f"{config.task}: {config.training.epochs} epochs of {per_epoch} steps, "
                f"{sum(config.states)} states; {folder}"
            )
            counter.start(steps)

        def step(number: int, metrics: StepMetrics) -> None:
            speed = "" if counter.speed is None else f"  {counter.speed:.1f} steps/s"
            counter.update(f"loss {float(metrics.loss):.3f}{speed}", completed=number)

        def epoch(record: dict[str, Any]) -> None:
            counter.print(
                f"epoch {record['epoch']:3d}  loss {record['train_loss']:.3f}  "
                f"train {percent(record['train_accuracy'])}  "
                f"validation {percent(record['validation_accuracy'])}  {record['seconds']:.1f} s"
                + _speed(record)
                + _states(record)
            )

        try:
            run = train(
                config,
                data,
                folder,
                start=start,
                resume=resume,
                workers=workers,
                on_start=begin,
                on_step=step,
                on_epoch=epoch,
            )
        except KeyboardInterrupt as error:
            if not (folder / CONFIG_FILE).is_file():
                raise
            words = ["lastax", *(f"--import={module}" for module in named_modules())]
            words += ["train", "--task", config.task, "--out", str(folder), "--resume"]
            words += [] if root is None else ["--data-dir", str(root)]
            words += [] if moved is None else ["--data", moved]
            raise click.Abort(f"resume the run with: {shlex.join(words)}") from error
    return run.summary()


def _speed(record: dict[str, Any]) -> str:
    """The rate of the steps of an epoch, and how much of their time was spent waiting for data."""
    if record["steps_per_second"] is None:
        return ""
    return (
        f"  {record['steps_per_second']:.1f} steps/s  data wait {100 * record['data_wait']:.0f} %"
    )


def _states(record: dict[str, Any]) -> str:
    """The states of a training that removes some, and whether their removal is undone."""
    if "states" not in record:
        return ""
    return f"  {record['states']} states" + (", undone" if record["undone"] else "")
