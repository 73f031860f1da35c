"""Opening data sets by configuration, by name, or by run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastax._cache_folder import with_home
from lastax.data._data_set import Data, DataSet
from lastax.data._errors import DataError
from lastax.data._folders import data_folder
from lastax.data._registry import DATASETS
from lastax.data._views import every_step, first_steps
from lastax.training import DataConfig, RunConfig, check_settings

# Settings that apply to the records of every data set.
_COMMON = frozenset({"length", "every", "skip_bad"})


def open_data(config: DataConfig | str, root: str | Path | None = None, **settings: Any) -> Data:
    """Open a data set. The first call prepares it, which may take minutes.

    Args:
        config: a configuration, or the name of a data set (`lastax.data.DATASETS`).
        root: folder that holds all data sets. Default: the environment variable `LASTAX_DATA`, or
            `data` in the cache folder.
        settings: fields of `DataConfig` that replace those of `config`. None keeps a field.

    Raises:
        DataError: if the data set is unknown, missing or damaged.
        ValueError: if a setting is unknown or out of range.
    """
    if isinstance(config, str):
        config = DataConfig(config)
    data_set = _find(config.name)
    given = {key: value for key, value in settings.items() if value is not None}
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    name = fields.pop("name")
    config = DataConfig(name, **data_settings(name, fields | given))
    check_settings(config)
    options = {key: getattr(config, key) for key in data_set.options}
    if "data" in options:
        if options["data"] is None:
            raise DataError(f"open_data: {name} needs data= ({data_set.needs})")
        options["data"] = Path(options["data"])
    chosen = {key: value for key, value in options.items() if value is not None}
    folder = data_folder(None if root is None else Path(root))
    data = data_set.open(folder, skip_bad=config.skip_bad, **chosen)
    if config.length is not None:
        data = first_steps(data, config.length)
    return data if config.every == 1 else every_step(data, config.every)


def reopen_data(config: RunConfig, root: str | Path | None = None, **settings: Any) -> Data:
    """Open the data of a run and check that the run was trained on them.

    Args:
        config: configuration of the run.
        root: as for `open_data`.
        settings: as for `open_data`; for example `data=` if your own data were moved.

    Raises:
        DataError: if the data are missing or damaged, or if their classes, tokens or sizes differ
            from those of the run.
        ValueError: if a setting is unknown or out of range.
    """
    _find(config.data.name)
    data = open_data(config.data, root, **settings)
    for what, now, then in (
        ("classes", data.classes, config.labels),
        ("tokens", data.vocabulary, config.vocabulary),
        ("values per step", data.input_size, config.input_size),
        ("steps per record", data.length, config.length),
    ):
        if now != then:
            raise DataError(
                f"these are not the data that the run was trained on: {what}: {_short(now)}; the "
                f"run has {_short(then)}; pass the data of the run, or train a new run"
            )
    return data


def data_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings of a data set, drop None values, and make paths absolute.

    Args:
        name: name of the data set.
        settings: fields of `DataConfig` except `name`.

    Raises:
        DataError: if the data set is unknown.
        ValueError: if the data set does not have a setting.
    """
    fields = {field.name for field in dataclasses.fields(DataConfig)}
    given = {key: value for key, value in settings.items() if value is not None}
    known = _find(name).options
    for key in given.keys() - _COMMON - set(known):
        if key not in fields or key == "name":
            raise ValueError(f"open_data: no setting {key!r}")
        listed = ", ".join(known) or "none of its own"
        raise ValueError(f"{key} is not a setting of {name}, which has {listed}")
    if "data" in given:
        given["data"] = str(with_home(given["data"]).resolve())
    return given


def _find(name: str) -> DataSet:
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _short(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    listed = " ".join(map(repr, value[:12])) + (" ..." if len(value) > 12 else "")
    return f"{len(value)} ({listed})" if value else "none"
