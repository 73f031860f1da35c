"""Training a run from a configuration and a data set: what `lastax train` runs."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from lastax._errors import RunError, TrainingDivergedError
from lastax._typing import Record
from lastax.nn._networks import Network
from lastax.serialization._files import folder_written_at_once
from lastax.serialization._save import load, save
from lastax.surgery._layers import state_counts
from lastax.training._agreement import require_agreement, require_success
from lastax.training._data import TrainingData, data_fingerprint, evaluate_split
from lastax.training._evaluation import Evaluation
from lastax.training._fit_network import OnEpoch, OnStep, fit_network
from lastax.training._lock import lock_run
from lastax.training._placement import Placement
from lastax.training._reduction import Masks
from lastax.training._run_config import (
    CONFIG_FILE,
    RunConfig,
    build_from_config,
    installed_versions,
    keep_in_config,
    save_config,
)
from lastax.training._runs import json_number, save_results

# In a run, the network that training started from, if it was not drawn, or if states are removed
# during training: `config.json` then has the remaining ones.
START_FOLDER = "start"


class TrainedRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: where it is.
        model: the weights of the best epoch by validation accuracy.
        best_epoch: that epoch.
        validation: what the model reaches on the validation split.
        test: what it reaches on the test split.
    """

    folder: Path
    model: Network
    best_epoch: int
    validation: Evaluation
    test: Evaluation

    def summary(self) -> Record:
        """What `results.json` holds."""
        return {
            "run": str(self.folder),
            "best_epoch": self.best_epoch,
            "validation": _as_record(self.validation),
            "test": _as_record(self.test),
        }


def _as_record(evaluation: Evaluation) -> Record:
    return evaluation._asdict() | {"loss": json_number(evaluation.loss)}


def train(
    config: RunConfig,
    data: TrainingData,
    folder: str | Path,
    *,
    start: Network | None = None,
    resume: bool = False,
    workers: int = 0,
    on_start: Callable[[int], None] = lambda steps: None,
    on_step: OnStep = lambda number, metrics: None,
    on_epoch: OnEpoch = lambda record: None,
) -> TrainedRun:
    """Train a network and write a run: configuration, checkpoints, metrics, best weights, results.

    A run that was interrupted continues with `resume=True` and ends with the same weights, bit
    for bit, on the same number of devices.

    With several processes (`jax.distributed.initialize`), each of them calls this function with the
    same arguments, and `config.devices` is the number of devices of all processes. Only the first
    process writes.

    Args:
        config: network, training and data (`make_run_config`, `load_config`).
        data: the opened data set.
        folder: where the run is written.
        start: a network of this configuration whose weights training starts from; random weights
            if omitted. It is kept in `folder`, so it is not needed to resume.
        resume: continue from the newest checkpoint in `folder`.
        workers: number of processes that prepare batches.
        on_start: called with the total number of steps when training begins.
        on_step: called after each step, with its number and metrics.
        on_epoch: called after each epoch, with the record that `metrics.jsonl` gets.

    Raises:
        RunError: if `folder` exists and `resume` is false, or cannot be written or resumed; if
            another command trains the run; if processes disagree on versions, configuration or
            data. If the folder cannot be created or locked, on all processes.
        TrainingDivergedError: if the loss or a parameter is not finite. `results.json` then says
            so, and the run cannot be resumed.
    """
    folder = Path(folder)
    exists = folder.exists()
    if jax.process_count() > 1:
        require_agreement(
            {
                "the version of": dict(installed_versions()),
                "the folder of the run": "exists" if exists else "does not exist",
                "the flag --resume": resume,
                "the setting": dataclasses.asdict(config),
                "the data,": data_fingerprint(data),
            }
        )
    if exists and not resume:
        raise RunError(
            f"{folder} already exists: resume the run, remove it, or choose another folder"
        )
    if resume and not (folder / CONFIG_FILE).is_file():
        raise RunError(f"{folder} is no run to resume: there is no {CONFIG_FILE}")
    writes = jax.process_index() == 0
    reduces = config.training.reduce_during_training > 0
    network = build_from_config(config) if start is None else start
    if resume and (folder / START_FOLDER).is_dir():
        network = load(folder / START_FOLDER, like=None if reduces else network)

    lock = contextlib.ExitStack()

    def begin(steps: int) -> None:
        # The folder appears last, so that a failure before this leaves nothing behind.
        failure: Exception | None = None
        try:
            if writes and not resume:
                with folder_written_at_once(folder) as fresh:
                    save_config(fresh, config)
                    if start is not None or reduces:
                        save(fresh / START_FOLDER, network)
            if writes:
                lock.enter_context(lock_run(folder))
        # The other processes would wait for this one.
        except Exception as error:
            failure = error
        # No process goes on before the folder exists.
        require_success(failure)
        require_agreement({"the number of steps": steps})
        on_start(steps)

    def record_states(keep: Masks) -> None:
        # An earlier attempt may have recorded them, and ended before it wrote the model.
        if writes and config.states == tuple(state_counts(network)):
            save_config(folder, keep_in_config(config, keep))

    with lock:
        try:
            result = fit_network(
                network,
                config,
                data,
                folder,
                resume=resume,
                workers=workers,
                on_start=begin,
                on_step=on_step,
                on_epoch=on_epoch,
                on_reduced=record_states,
            )
        except TrainingDivergedError as error:
            if writes:
                save_results(folder, {"run": str(folder), "diverged": str(error)})
            raise
        # The loop has measured the validation split already; large splits take minutes.
        validation = Evaluation(
            result.validation_accuracy, result.validation_loss, data.records("validation")
        )
        placement = Placement.over(jax.devices()[: config.devices])
        test = evaluate_split(result.model, data, "test", placement=placement)
        run = TrainedRun(folder, result.model, result.epoch, validation, test)
        if writes:
            save_results(folder, run.summary())
    return run
