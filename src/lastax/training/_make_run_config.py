"""The configuration of a new run on an opened data set."""

from lastax.training._configuration import DataConfig, Preset
from lastax.training._data import TrainingData
from lastax.training._presets import TASKS
from lastax.training._run_config import RunConfig, untrained_counts


def make_run_config(
    task: str,
    data: TrainingData,
    preset: Preset,
    *,
    size: str | None = None,
    data_config: DataConfig | None = None,
    seed: int = 0,
    devices: int = 1,
    git_revision: str | None = None,
) -> RunConfig:
    """The configuration of a run of `task` on opened data.

    Args:
        task: a name in `TASKS`.
        data: the opened data set.
        preset: network and training; change fields with `dataclasses.replace`.
        size: name of the preset, for the record.
        data_config: how `data` were opened; the preset's way if omitted.
        seed: seed of everything random.
        devices: number of devices that share each batch.
        git_revision: revision of the code, for the record.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"make_run_config: no task {task!r}; choose one of {', '.join(TASKS)}")
    return RunConfig(
        task=task,
        size=size,
        seed=seed,
        data=data_config or TASKS[task].data_for(preset),
        input_size=data.input_size,
        classes=len(data.classes),
        length=data.length,
        labels=data.classes,
        vocabulary=data.vocabulary,
        model=preset.model,
        training=preset.training,
        states=untrained_counts(preset.model),
        devices=devices,
        git_revision=git_revision,
    )
