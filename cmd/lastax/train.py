"""`lastax train`."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import jax

import lastax
from lastax.serialization import folder_written_at_once
from lastax.cmd._console import (
    RUNS,
    SPLITS,
    debug_option,
    emit,
    err,
    git_revision,
    json_option,
    out,
    percent,
)
from lastax.cmd._fitting import fit_network
from lastax.cmd._flags import data_config, setting_options
from lastax.cmd._open import (
    Place,
    data_settings,
    evaluate_on,
    open_data,
    reopen_data,
    root_option,
)
from lastax.data import Data

SIZES = sorted({size for task in lastax.training.TASKS.values() for _, size in task.presets})


@click.command()
@click.option(
    "--task", type=click.Choice(sorted(lastax.training.TASKS)), required=True, help="What to learn."
)
@click.option(
    "--size", type=click.Choice(SIZES), help="Which preset.  [default: the task's first, small]"
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of everything random.  [default: 0]"
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: runs/TASK/LAYER-seedSEED]",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run, bit for bit.")
@click.option(
    "--if-missing",
    is_flag=True,
    help="Only if no run of the task has finished; go on with an unfinished one.",
)
@click.option("--devices", type=int, help="Devices that share each batch.  [default: all]")
@click.option(
    "--workers", type=click.IntRange(0), default=0, help="Processes that prepare batches."
)
@root_option
@json_option
@debug_option
@setting_options(lastax.training.TrainingConfig, lastax.ModelConfig, lastax.training.DataConfig)
def train(
    task: str,
    size: str | None,
    seed: int | None,
    folder: Path | None,
    resume: bool,
    if_missing: bool,
    devices: int | None,
    workers: int,
    root: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a network on a task; keep the weights that do best on the validation split.

    The values of the task's preset can each be overridden by a flag.
    """
    chosen = {name: value for name, value in settings.items() if value is not None}
    chosen |= data_settings(lastax.training.TASKS[task].data.name, chosen)
    if if_missing:
        finished = [folder] if folder is not None else _runs_of(task, size, finished=True)
        if finished and (finished[-1] / lastax.serialization.MODEL_FILE).is_file():
            if as_json:
                emit(lastax.training.load_results(finished[-1]))
            return
        unfinished = [folder] if folder is not None else _runs_of(task, size, finished=False)
        resume = bool(unfinished) and unfinished[-1].exists()
    if resume:
        folder = folder or _newest_unfinished(task, size)
        config = lastax.training.load_config(folder)
        # Its own data may have moved; that they are the same is checked below.
        place = Place(root, chosen.pop("data", None))
        given = {"task": task, "size": size, "seed": seed, "devices": devices, **chosen}
        _refuse_changes(config, {name: v for name, v in given.items() if v is not None})
        if (folder / lastax.serialization.MODEL_FILE).is_file():
            raise lastax.serialization.RunError(f"run {folder} has finished: there is nothing to resume")
        diverged = lastax.training.failure_reason(folder)
        if diverged is not None:
            raise lastax.serialization.RunError(f"run {folder} would end as before: {diverged}")
        data = reopen_data(config, place)
    else:
        size, preset = _preset(task, chosen.get("layer"), size)
        config, data = _new_config(task, size, preset, seed or 0, devices, chosen, root)
        folder = folder or _free_folder(RUNS / task / _name(config))
        if folder.exists():
            raise lastax.serialization.RunError(
                f"{folder} is there already: --resume goes on with it, --out names another"
            )
    try:
        answer = _run(config, data, folder, resume, workers)
    except lastax.training.TrainingDivergedError as error:
        # So that nothing resumes it by itself.
        lastax.training.save_results(folder, {"run": str(folder), "diverged": str(error)})
        raise
    except KeyboardInterrupt as error:
        if not (folder / lastax.training.CONFIG_FILE).is_file():
            raise
        again = f"lastax train --task {task} --out {folder} --resume"
        again += f" --data-dir {root}" if root is not None else ""
        raise click.Abort(f"{again} goes on with the run") from error
    _answer(answer, as_json)


def _answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(answer)
        return
    reached = [f"{split} {percent(answer[split]['accuracy'])}" for split in SPLITS]
    out.print(f"best epoch {answer['best_epoch']}: {', '.join(reached)}")
    out.print(f"run: {answer['run']}")


def _preset(task: str, layer: str | None, size: str | None) -> tuple[str, lastax.training.Preset]:
    """The preset that is meant, and its size: the first one that fits what was said."""
    presets = lastax.training.TASKS[task].presets
    for (kind, named), preset in presets.items():
        if layer in (None, kind) and size in (None, named):
            return named, preset
    asked = " ".join(f"--{k} {v}" for k, v in (("layer", layer), ("size", size)) if v is not None)
    known = ", ".join(f"{named} of {kind}" for kind, named in presets)
    raise click.UsageError(f"{asked}: the presets of {task} are {known}")


def _new_config(
    task: str,
    size: str,
    preset: lastax.training.Preset,
    seed: int,
    devices: int | None,
    chosen: dict[str, Any],
    root: Path | None,
) -> tuple[lastax.training.RunConfig, Data]:
    model = _override(preset.model, chosen)
    training = _override(preset.training, chosen)
    wanted = _override(data_config(lastax.training.TASKS[task], preset), chosen)
    for part in (training, model, wanted):
        lastax.training.check_settings(part)
    data = open_data(wanted, root)
    config = lastax.training.RunConfig(
        task=task,
        size=size,
        seed=seed,
        data=wanted,
        input_size=data.input_size,
        classes=len(data.classes),
        length=data.length,
        labels=data.classes,
        vocabulary=data.vocabulary,
        model=model,
        training=training,
        states=lastax.training.untrained_counts(model),
        devices=_device_count(devices, training.batch_size),
        git_revision=git_revision(),
    )
    return config, data


def _name(config: lastax.training.RunConfig) -> str:
    """What a run's folder is called: the first size of a task goes without saying."""
    first = next(iter(lastax.training.TASKS[config.task].presets))[1]
    size = "" if config.size == first else f"-{config.size}"
    return f"{config.model.layer}{size}-seed{config.seed}"


def _device_count(wanted: int | None, batch_size: int) -> int:
    """As many devices as were asked for, or the most that share a batch evenly."""
    present = len(jax.devices())
    if wanted is None:
        return max(n for n in range(1, present + 1) if batch_size % n == 0)
    if not 1 <= wanted <= present:
        raise click.UsageError(f"--devices {wanted}: there are {present}; choose 1 to {present}")
    if batch_size % wanted:
        raise click.UsageError(f"--batch-size {batch_size} does not divide among {wanted} devices")
    return wanted


def _override(preset: Any, chosen: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(preset)}
    return dataclasses.replace(preset, **{k: v for k, v in chosen.items() if k in names})


def _refuse_changes(config: lastax.training.RunConfig, given: dict[str, Any]) -> None:
    """A resumed run is the same run: flags may repeat its settings, not change them."""
    own = {name: getattr(config, name) for name in ("task", "size", "seed", "devices")}
    recorded = vars(config.data) | vars(config.model) | vars(config.training) | own
    for name, value in given.items():
        if recorded[name] != value:
            raise click.UsageError(
                f"--{name.replace('_', '-')} {value}: the run to resume has {recorded[name]}; "
                "leave the flag out, or start a new run"
            )
    present = len(jax.devices())
    if config.devices > present:
        raise lastax.serialization.RunError(
            f"the run shares batches among {config.devices} devices, here there are {present}: "
            "resume it where there are as many"
        )
    installed = lastax.training.installed_versions()
    changed = [name for name, version in config.versions.items() if installed.get(name) != version]
    if changed:
        err.print(f"not the versions that the run began with: {', '.join(changed)}")


def _runs_of(task: str, size: str | None, *, finished: bool) -> list[Path]:
    found = [(run, lastax.training.load_config(run)) for run in lastax.training.find_runs(RUNS, finished=finished)]
    return [run for run, it in found if it.task == task and size in (None, it.size)]


def _newest_unfinished(task: str, size: str | None) -> Path:
    found = _runs_of(task, size, finished=False)
    if not found:
        raise lastax.serialization.RunError(f"no unfinished run below {RUNS / task}: start one without --resume")
    return found[-1]


def _free_folder(wanted: Path) -> Path:
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _run(
    config: lastax.training.RunConfig, data: Data, folder: Path, resume: bool, workers: int
) -> dict[str, Any]:
    """Build everything the run needs, then let the loop go. The folder appears last."""
    network = lastax.training.build_from_config(config)

    def begin() -> None:
        if not resume:
            with folder_written_at_once(folder) as fresh:
                lastax.training.save_config(fresh, config)

    result = fit_network(
        network, config, data, folder, resume=resume, workers=workers, on_ready=begin
    )
    # What the best epoch reached on validation is known: large splits take minutes.
    validation = lastax.training.Evaluation(
        result.validation_accuracy, result.validation_loss, len(data.sources["validation"])
    )
    answer = {
        "run": str(folder),
        "best_epoch": result.epoch,
        "validation": validation._asdict(),
        "test": evaluate_on(result.model, data, "test")._asdict(),
    }
    lastax.training.save_results(folder, answer)
    return answer
