"""`lastax train`."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import click
import jax

from lastax import ModelConfig
from lastax.cmd._console import emit, out, percent
from lastax.cmd._distributed import (
    DISTRIBUTED_FLAGS,
    Processes,
    distributed_options,
    is_inner_process,
    run_inner_process,
)
from lastax.cmd._flags import (
    SectionedCommand,
    setting_names,
    setting_options,
)
from lastax.cmd._options import Name, debug_option, json_option, root_option
from lastax.cmd._resume import (
    check_settings_of_run,
    newest_unfinished,
    runs_of,
)
from lastax.cmd._train_settings import (
    chosen_data_settings,
    parts_from_run,
    parts_of_preset,
    parts_of_run,
    preset_for,
    print_settings,
)
from lastax.cmd._training_inputs import (
    continued_run,
    new_run,
    resumed_run,
    unused_folder,
)
from lastax.cmd._training_progress import train_with_progress
from lastax.serialization import RunError
from lastax.training import (
    TASKS,
    DataConfig,
    RunConfig,
    TrainingConfig,
    has_finished,
    load_config,
    load_results,
)

SIZES = sorted({size for task in TASKS.values() for _, size in task.presets})
SECTIONS = {
    "What to train": ("task", "size", "source", "seed", "show_settings"),
    "Data": ("root", *setting_names(DataConfig)),
    "Network": setting_names(ModelConfig),
    "Training": (*setting_names(TrainingConfig), "devices", "workers"),
    "Several processes": ("distributed", *DISTRIBUTED_FLAGS),
    "Output": (),  # all others
}


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.option(
    "--task",
    type=Name("task", lambda: TASKS),
    help="What to learn (lastax data list).  [required without --from]",
)
@click.option(
    "--size", type=click.Choice(SIZES), help="Preset.  [default: first of the task, small]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of everything random.  [default: 0, or that of --from]",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: runs/TASK/LAYER-seedSEED]",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Start from the weights of a finished run, with its settings.",
)
@click.option("--show-settings", is_flag=True, help="Print all settings, and do not train.")
@click.option("--resume", is_flag=True, help="Resume an unfinished run, bit for bit.")
@click.option(
    "--if-missing", is_flag=True, help="Do nothing after a finished run; resume an unfinished one."
)
@click.option(
    "--devices", type=int, help="Devices that share each batch.  [default: as many as possible]"
)
@click.option(
    "--workers", type=click.IntRange(0), default=0, help="Processes that prepare batches."
)
@distributed_options
@root_option
@json_option
@debug_option
@setting_options(TrainingConfig, ModelConfig, DataConfig)
def train(
    task: str | None,
    size: str | None,
    source: Path | None,
    seed: int | None,
    show_settings: bool,
    folder: Path | None,
    resume: bool,
    if_missing: bool,
    devices: int | None,
    workers: int,
    distributed: Processes | None,
    root: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a network on a task, and keep the weights of the best epoch by validation accuracy.

    The task's preset gives the settings, and a flag overrides one of them. `--show-settings` prints
    all settings. With `--from RUN` training starts from the weights and the settings of RUN; flags
    override settings such as `--epochs` and `--learning-rate`.
    """
    if distributed is not None:
        if not is_inner_process():
            raise click.exceptions.Exit(run_inner_process(distributed))
        distributed.join()
    chosen = {name: value for name, value in settings.items() if value is not None}
    if source is not None:
        task = _task_of(source, task, size, resume=resume, if_missing=if_missing)
    if task is None:
        raise click.UsageError("pass --task, one of " + ", ".join(sorted(TASKS)))
    chosen |= chosen_data_settings(TASKS[task].data.name, chosen)
    given = {"task": task, "size": size, "seed": seed, **chosen}
    if if_missing:
        finished = [folder] if folder is not None else runs_of(given, finished=True)
        if finished and has_finished(finished[-1]):
            check_settings_of_run(load_config(finished[-1]), given)
            if as_json:
                emit(load_results(finished[-1]))
            return
        if folder is None:
            folder = next(reversed(runs_of(given, finished=False)), None)
        resume = folder is not None and folder.exists()
    if resume:
        folder = folder or newest_unfinished(task, size)
    if show_settings:
        if resume and folder is not None:
            parts = parts_of_run(folder, given)
        elif source is not None:
            parts = parts_from_run(source, chosen)
        else:
            parts = parts_of_preset(task, size, chosen)
        print_settings(parts, as_json)
        return
    start = None
    if resume and folder is not None:
        config, data = resumed_run(folder, given, devices=devices, root=root)
    else:
        if source is None:
            size, preset = preset_for(task, chosen.get("layer"), size)
            config, data = new_run(
                task, size, preset, chosen, seed=seed or 0, devices=devices, root=root
            )
        else:
            config, data, start = continued_run(
                source, chosen, seed=seed, devices=devices, root=root
            )
        folder = folder or unused_folder(config)
        if source is not None:
            start_run = os.path.relpath(source.resolve(), folder.resolve())
            config = dataclasses.replace(config, start=start_run)
        if folder.exists():
            raise RunError(f"{folder} already exists: pass --resume to resume it, or another --out")
    with contextlib.nullcontext() if distributed is None else distributed.explain_losses():
        result = train_with_progress(
            config,
            data,
            folder,
            start=start,
            resume=resume,
            workers=workers,
            root=root,
            moved=chosen.get("data") if resume else None,
        )
    if jax.process_index() > 0:
        return
    if as_json:
        emit(result)
        return
    reached = [f"{split} {percent(result[split]['accuracy'])}" for split in ("validation", "test")]
    out.print(f"best epoch {result['best_epoch']}: {', '.join(reached)}")
    if config.training.reduce_during_training:
        out.print(_remaining(config, load_config(folder)))
    out.print(f"run: {result['run']}")


def _remaining(before: RunConfig, after: RunConfig) -> str:
    """How many states a training has removed, beside what was asked for."""
    total, states = sum(before.states), sum(after.states)
    share = before.training.reduce_during_training
    return f"{states} of {total} states remain: {1 - states / total:.0%} removed of {share:.0%}"


def _task_of(
    source: Path, task: str | None, size: str | None, *, resume: bool, if_missing: bool
) -> str:
    """The task of a run to start from."""
    if resume or if_missing:
        other = "--resume" if resume else "--if-missing"
        raise click.UsageError(f"--from starts a new run: leave out {other} or --from")
    if size is not None:
        raise click.UsageError(
            f"--size {size}: --from uses the settings of {source}; leave out --size or --from"
        )
    own = load_config(source).task
    if task not in (None, own):
        raise click.UsageError(f"--task {task}: {source} was trained on {own}")
    return own
