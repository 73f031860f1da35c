"""Pruning a run: what `lastax prune` does, as one function."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from lastax._errors import RunError
from lastax._typing import Batch, OnProgress, Record, silent
from lastax.analysis._certificates import Certificate, certify
from lastax.calibration._batch_norm import recalibrate_batch_norm
from lastax.experiments._calibration_options import CalibrationOptions
from lastax.experiments._prune_options import (
    AUTO,
    DEFAULT_MAX_LOSS,
    DEFAULT_RATIO,
    PruneOptions,
)
from lastax.experiments._prune_results import (
    fidelity_results,
    pruning_record,
    score_results,
    size_results,
)
from lastax.nn._networks import Network
from lastax.pruning._reducer import Reducer, Reduction
from lastax.pruning._search import AUTO_METHODS, Trial, search_method
from lastax.serialization._files import folder_written_at_once
from lastax.serialization._save import MODEL_FILE, STRUCTURE_FILE, save
from lastax.surgery._counts import keep_count
from lastax.surgery._layers import systems
from lastax.training._data import TrainingData, calibration_batch, compare_split, evaluate_split
from lastax.training._fine_tune import fine_tune
from lastax.training._placement import Placement
from lastax.training._run_config import (
    CONFIG_FILE,
    RunConfig,
    keep_in_config,
    load_config,
    save_config,
)
from lastax.training._runs import RESULTS_FILE, load_run, save_results

SPLITS = ("validation", "test")
# Pictures that `lastax.plots.save_pruning_figures` adds to a pruned run.
# What commands add to a pruned run.
_ADDED = ("poles.png", "states.png", "report.html")


class PrunedRun(NamedTuple):
    """A pruned network, and what pruning did to it.

    Attributes:
        folder: where the pruned run was written.
        original: the network before.
        model: the pruned network.
        method: the method, the chosen one for "auto".
        reduction: states, scores and masks.
        certificates: one per layer.
        results: what `results.json` holds: sizes per layer, scores, certificates, accuracies.
    """

    folder: Path
    original: Network
    model: Network
    method: str
    reduction: Reduction
    certificates: list[Certificate]
    results: Record


def pruning_key(config: RunConfig, seed: int) -> jax.Array:
    """The key of random pruning: a different one for each run, so that means are over draws."""
    return jax.random.fold_in(jax.random.key(seed), config.seed)


def make_reducer(
    model: Network,
    config: RunConfig,
    batch: Batch | None,
    calibration: CalibrationOptions,
    *,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> Reducer:
    """The `Reducer` of a run's network, with the settings of its task."""
    return Reducer(
        model,
        batch,
        length=config.length,
        key=pruning_key(config, seed),
        budget=calibration.budget,
        dense_feedthrough=calibration.dense_feedthrough,
        reconstruction_steps=calibration.reconstruct,
        on_progress=on_progress,
        function="prune",
    )


def prune_run(
    run: str | Path,
    data: TrainingData,
    options: PruneOptions | None = None,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    loaded: tuple[RunConfig, Network] | None = None,
    on_progress: OnProgress = silent,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    on_failure: Callable[[str, ValueError], None] = lambda method, error: None,
) -> PrunedRun:
    """Prune the network of a run, and write the smaller network as a run of its own.

    Args:
        run: folder of a finished run.
        data: the data set of the run (`lastax.data.reopen_data`).
        options: how to prune; LAST at 30 % if omitted.
        folder: where the pruned run is written. Default: beside `run`, named after the options.
        overwrite: replace the folder, if it holds an earlier pruning of the same run.
        loaded: configuration and network of `run`, if they are loaded already (`load_run`).
        on_progress: called with a short description of each part of the work.
        on_trial: called after each reduced network of a search.
        on_failure: called with a method that a search or a comparison leaves out, and the reason.

    Raises:
        RunError: if the run cannot be read, or the folder exists or cannot be written.
        OptionError: if the options do not suit the run.
        ValueError: if the method does not suit the network.
    """
    options = options or PruneOptions()
    run = Path(run)
    config, model = load_run(run) if loaded is None else loaded
    options.check(config)
    calibration = options.calibration_for(model, config.length)
    options = dataclasses.replace(options, calibration=calibration)
    target, replace = _target(run, folder, options, overwrite=overwrite)
    batch, placement = None, Placement.of_this_process()
    if options.needs_calibration:
        sequences = calibration.sequences
        batch = calibration_batch(data, sequences, seed=options.seed, placement=placement)
    reducer = make_reducer(
        model, config, batch, calibration, seed=options.seed, on_progress=on_progress
    )

    def accuracy(model: Network, split: str) -> float:
        return evaluate_split(model, data, split, limit=options.limit, placement=placement).accuracy

    method, count = _amount(
        reducer, config.states, options, accuracy, on_trial=on_trial, on_failure=on_failure
    )
    reduction = reducer.reduce(method, states=count)
    small = _post_processed(
        model, reduction.model, config, options, data=data, batch=batch, on_progress=on_progress
    )
    on_progress("computing certificates and accuracies")
    certificates = [certify(*pair) for pair in zip(reducer.systems, systems(small), strict=True)]
    compared = {}
    for other in options.compare_with:
        if other == method:
            continue
        try:
            compared[other] = _accuracies(reducer.reduce(other, states=count).model, accuracy)
        except ValueError as error:
            on_failure(other, error)
    measured = functools.partial(compare_split, data=data, limit=options.limit, placement=placement)
    results = {
        "method": method,
        "truncated": options.only_truncates(method),
        "feedthrough_states": reducer.feedthrough_states,
        **size_results(model, small, reduction, batch),
        **score_results(reduction.scores, certificates),
        **{split: fidelity_results(measured(model, small, split=split)) for split in SPLITS},
        "compared": compared,
    }
    with folder_written_at_once(target, replace=replace) as fresh:
        smaller = dataclasses.replace(
            keep_in_config(config, reduction.keep),
            dense_feedthrough=config.dense_feedthrough or calibration.dense_feedthrough,
            parent=os.path.relpath(run.resolve(), target.resolve()),
            pruning=pruning_record(options, calibration, method),
        )
        save_config(fresh, smaller)
        save(fresh, small)
        save_results(fresh, results)
    return PrunedRun(target, model, small, method, reduction, certificates, results)


def _target(
    run: Path, folder: str | Path | None, options: PruneOptions, *, overwrite: bool
) -> tuple[Path, bool]:
    """Where the pruned run is written, and whether it replaces an earlier one there."""
    target = run.with_name(f"{run.name}-{options.label}") if folder is None else Path(folder)
    replace = _is_pruned_from(target, run)
    if target.exists() and overwrite and not replace:
        raise RunError(
            f"{target} already exists, and is not only an earlier pruning of {run}: remove it, or "
            "choose another folder"
        )
    if target.exists() and not overwrite:
        remedy = (
            "pass --overwrite (overwrite=True) to replace it, or" if replace else "remove it, or"
        )
        raise RunError(f"{target} already exists: {remedy} choose another folder")
    return target, replace


def _amount(
    reducer: Reducer,
    counts: Sequence[int],
    options: PruneOptions,
    accuracy: Callable[[Network, str], float],
    *,
    on_trial: Callable[[Trial], None],
    on_failure: Callable[[str, ValueError], None],
) -> tuple[str, int]:
    """The method, and the number of states to keep of `counts` per layer."""
    max_loss = options.max_loss
    if options.method == AUTO and options.ratio is None and options.states is None:
        max_loss = DEFAULT_MAX_LOSS if max_loss is None else max_loss
    states = options.states
    if states is None and max_loss is None:
        ratio = DEFAULT_RATIO if options.ratio is None else options.ratio
        states = keep_count(sum(counts), ratio, at_least=len(counts))
    if options.method != AUTO and states is not None:
        return options.method, states
    found = search_method(
        reducer,
        lambda model: accuracy(model, "validation"),
        methods=AUTO_METHODS if options.method == AUTO else (options.method,),
        max_loss=max_loss,
        states=states,
        on_trial=on_trial,
        on_failure=on_failure,
    )
    return found.method, found.states


def _post_processed(
    model: Network,
    small: Network,
    config: RunConfig,
    options: PruneOptions,
    *,
    data: TrainingData,
    batch: Batch | None,
    on_progress: OnProgress,
) -> Network:
    """The pruned network after the steps that `options` adds."""
    if options.recalibrate_batch_norm:
        assert batch is not None
        small = recalibrate_batch_norm(small, batch)
    if not options.finetune:
        return small
    on_progress("training")
    return fine_tune(
        small,
        config,
        data,
        epochs=options.finetune,
        rate=options.finetune_rate,
        teacher=model if options.distill else None,
        on_epoch=lambda record: on_progress(
            f"epoch {record['epoch']} of {options.finetune}: validation accuracy "
            f"{100 * record['validation_accuracy']:.2f} %"
        ),
    ).model


def _accuracies(model: Network, accuracy: Callable[[Network, str], float]) -> dict[str, float]:
    return {split: accuracy(model, split) for split in SPLITS}


def _is_pruned_from(target: Path, run: Path) -> bool:
    """Whether a folder holds an earlier pruning of the same run and nothing else."""
    written = {CONFIG_FILE, MODEL_FILE, STRUCTURE_FILE, RESULTS_FILE, *_ADDED}
    if target.is_dir() and not {path.name for path in target.iterdir()} <= written:
        return False
    try:
        parent = load_config(target).parent
    except RunError:
        return False
    return parent is not None and (target / parent).resolve() == run.resolve()
