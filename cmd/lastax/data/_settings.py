"""Settings of data sets from flags."""

from collections.abc import Mapping
from typing import Any

import click

from lastax.data import DATASETS, data_settings


def given_settings(task: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a data set that flags give.

    Raises:
        click.UsageError: if the data set does not have a setting, or requires one.
    """
    try:
        settings = data_settings(task, flags)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error
    if "data" in DATASETS[task].options and "data" not in settings:
        raise click.UsageError(f"{task} needs {DATASETS[task].needs}")
    return settings
