"""Runs of foreign checkpoints: imported, they are evaluated and pruned like trained ones."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lastax._errors import RunError
from lastax._typing import OnProgress, Record, silent
from lastax.interop._configuration import configuration_of
from lastax.interop._formats import FORMATS
from lastax.interop._read import Imported, read
from lastax.interop._write import Pad, write
from lastax.nn._configuration import ModelConfig
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.serialization._files import folder_written_at_once
from lastax.serialization._save import save
from lastax.training._configuration import DataConfig, Preset, Task
from lastax.training._data import TrainingData, evaluate_split
from lastax.training._make_run_config import make_run_config
from lastax.training._presets import TASKS
from lastax.training._run_config import RunConfig, load_config, save_config
from lastax.training._runs import load_results, load_run, save_results

SPLITS = ("validation", "test")


class ImportedRun(NamedTuple):
    """A run of a foreign network.

    Attributes:
        folder: where the run is.
        config: its configuration.
        results: what `results.json` holds: accuracy and loss of each split.
    """

    folder: Path
    config: RunConfig
    results: Record


def foreign_data_config(imported: Imported, task: str, **settings: Any) -> DataConfig:
    """How the data of a task are read for a foreign network.

    Args:
        imported: the network, as `read` returns it.
        task: a name in `lastax.training.TASKS`.
        settings: fields of `DataConfig` that replace those of the task. By default, the inputs are
            scaled as by the foreign code, where its format says how.

    Raises:
        ValueError: if there is no such task.
    """
    config = _task("foreign_data_config", task).data
    scaled = FORMATS[imported.format].data.get(config.name, {})
    given = {name: value for name, value in settings.items() if value is not None}
    return dataclasses.replace(config, **{**scaled, **given})


def import_run(
    imported: Imported,
    folder: str | Path,
    data: TrainingData,
    *,
    task: str,
    data_config: DataConfig | None = None,
    limit: int | None = None,
    reuse: bool = False,
    on_progress: OnProgress = silent,
) -> ImportedRun:
    """Write a foreign network as a run, which is evaluated, scored and pruned like a trained one.

    Args:
        imported: the network, as `read` returns it.
        folder: folder of the run.
        data: the opened data that the network was trained for.
        task: a name in `lastax.training.TASKS`. Further training uses its settings.
        data_config: how `data` were opened; `foreign_data_config` if omitted.
        limit: number of records per split to evaluate on; all if None.
        reuse: return the run in `folder`, if it is of the same file, task and options.
        on_progress: called with a short description of each part of the work.

    Returns:
        The run.

    Raises:
        RunError: if only layers were read, if the network does not fit the data, or if the folder
            exists or cannot be written.
        ValueError: if there is no such task.
    """
    folder = Path(folder)
    chosen = _task("import_run", task)
    data_config = data_config or foreign_data_config(imported, task)
    network, model_config = _network(imported, tokens=bool(data.vocabulary))
    _check_fit(network, data, task, imported.file)
    training = next(
        preset.training for (kind, _), preset in chosen.presets.items()
        if kind == model_config.layer
    )  # fmt: skip
    config = dataclasses.replace(
        make_run_config(task, data, Preset(model_config, training), data_config=data_config),
        imported=_record(imported),
    )
    if reuse and folder.exists() and _is_same(load_config(folder), config):
        return ImportedRun(folder, config, load_results(folder))
    if folder.exists():
        raise RunError(f"import_run: {folder} already exists: remove it, or choose another folder")
    results: Record = {"run": str(folder)}
    for split in SPLITS:
        on_progress(f"evaluating the {split} split")
        results[split] = evaluate_split(network, data, split, limit=limit)._asdict()
    with folder_written_at_once(folder) as fresh:
        save_config(fresh, config)
        save(fresh, network)
        save_results(fresh, results)
    return ImportedRun(folder, config, results)


def export_run(
    run: str | Path,
    file: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    like: str | Path | None = None,
    pad: Pad = "layer",
) -> tuple[str, ...]:
    """Write the network of a run as a file that the foreign code loads.

    Args:
        run: folder of the run, pruned or not.
        file: the file; replaced if it exists.
        format: as in `write`. Default: the format of the checkpoint that the run came from, or
            that of its layers.
        like: the checkpoint whose other contents are written again. Default: the one that the run
            was imported from, where it still is there.
        pad: as in `write`.

    Returns:
        What the user should know about the file, one sentence each.

    Raises:
        RunError: if the run or the checkpoint cannot be read, if the format cannot express the
            network, or if the file cannot be written.
        ValueError: if the format is unknown.
    """
    config, network = load_run(run)
    source = config.imported or {}
    original, notes = like, []
    if like is None and source:
        original = source["file"]
        if not Path(source["file"]).exists() or _digest(source["file"]) != source["sha256"]:
            original = None
            notes = [f"the other contents of {source['file']} are left out: it moved or changed"]
    imported = None
    if original is not None:
        chosen = {name: source.get(name) for name in ("format", "prefix")}
        try:
            imported = read(original, **chosen, **source.get("options", {}))
        except RunError as error:
            if like is not None:
                raise
            # For example an Equinox file, which was read with a template.
            notes = [f"the other contents of the checkpoint are left out: {error}"]
    return (*write(file, network, format=format, like=imported, pad=pad), *notes)


def _task(function: str, task: str) -> Task:
    if task not in TASKS:
        raise ValueError(f"{function}: no task {task!r}; choose one of {', '.join(TASKS)}")
    return TASKS[task]


def _network(imported: Imported, *, tokens: bool) -> tuple[Network, ModelConfig]:
    """The network, which reads token ids if the data are tokens, and its configuration."""
    network = imported.model
    if not isinstance(network, Classifier | Retrieval):
        reason = f" ({'; '.join(imported.notes)})" if imported.notes else ""
        raise RunError(
            f"import_run: {imported.file}: a run needs a whole network, and only layers were read"
            f"{reason}; prune them in Python with lastax.interop.read"
        )
    try:
        config = configuration_of(network)
    except ValueError as error:
        raise RunError(
            f"import_run: {imported.file}: no configuration describes the network; prune it in "
            "Python with lastax.interop.read"
        ) from error
    if tokens:
        encoder = dataclasses.replace(network.encoder, tokens=True)
        network = dataclasses.replace(network, encoder=encoder)
    return network, config


def _check_fit(network: Network, data: TrainingData, task: str, file: Path) -> None:
    pairs = any(preset.model.head == "retrieval" for preset in TASKS[task].presets.values())
    heads = {True: "pairs of sequences", False: "single sequences"}
    for what, read_by, present in (
        ("inputs", heads[isinstance(network, Retrieval)], heads[pairs]),
        ("values per step", network.encoder.embed.weight.shape[0], data.input_size),
        ("classes", network.head.weight.shape[1], len(data.classes)),
    ):
        if read_by != present:
            raise RunError(
                f"import_run: {file} does not fit the data of {task}: {what}: {read_by}; the data "
                f"have {present}; choose the task and the settings that it was trained for"
            )


def _record(imported: Imported) -> Mapping[str, Any]:
    """What the configuration of a run says of the file that it was imported from."""
    options = {name: getattr(imported.options, name) for name in FORMATS[imported.format].options}
    return {
        "file": str(imported.file.resolve()),
        "sha256": _digest(imported.file),
        "format": imported.format,
        "prefix": imported.prefix,
        "options": {name: value for name, value in options.items() if value is not None},
    }


def _digest(path: str | Path) -> str | None:
    """None for a folder."""
    if Path(path).is_dir():
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_same(old: RunConfig, new: RunConfig) -> bool:
    names = ("imported", "task", "data", "model", "parent")
    return all(getattr(old, name) == getattr(new, name) for name in names)
