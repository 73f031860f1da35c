"""Which run a training resumes, whether it may, and the devices that it uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import jax

from lastax._errors import RunError
from lastax.cmd._console import RUNS, err
from lastax.training import (
    RunConfig,
    failure_reason,
    find_runs,
    has_finished,
    installed_versions,
    load_config,
)


def device_count(wanted: int | None, batch_size: int) -> int:
    """The requested number of devices, or the largest one that divides a batch.

    Several processes use all devices.
    """
    present = len(jax.devices())
    if jax.process_count() > 1:
        if wanted not in (None, present):
            raise click.UsageError(f"--devices {wanted}: --distributed uses all {present} devices")
        wanted = present
    if wanted is None:
        return max(n for n in range(1, present + 1) if batch_size % n == 0)
    if not 1 <= wanted <= present:
        raise click.UsageError(f"--devices {wanted}: there are {present}; choose 1 to {present}")
    if batch_size % wanted:
        raise click.UsageError(
            f"--batch-size {batch_size} does not divide among {wanted} devices; pass --batch-size "
            f"{max(batch_size - batch_size % wanted, wanted)} or another number of --devices"
        )
    return wanted


def devices_to_resume_on(wanted: int | None, config: RunConfig) -> int:
    """The number of devices of the run, if it is not chosen and there are as many."""
    if wanted is None and jax.process_count() == 1 and config.devices <= len(jax.devices()):
        wanted = config.devices
    devices = device_count(wanted, config.training.batch_size)
    if devices != config.devices:
        err.print(
            f"the run began on {config.devices} devices and continues on {devices}: "
            "rounding errors will differ"
        )
    return devices


def check_settings_of_run(config: RunConfig, given: Mapping[str, Any]) -> None:
    """Check that flags repeat the settings of a run, and do not change them.

    Args:
        config: the configuration of the run.
        given: settings; None stands for any value. `data` is not compared, because the data may
            have been moved.

    Raises:
        click.UsageError: if a given setting differs from that of the run.
    """
    recorded = _settings_of(config)
    for name, value in given.items():
        if name != "data" and value not in (None, recorded[name]):
            raise click.UsageError(
                f"--{name.replace('_', '-')} {value}: the run has {recorded[name]}; "
                "leave the flag out, or start a new run"
            )


def check_resume(folder: Path, config: RunConfig, given: Mapping[str, Any]) -> None:
    """Check that a run can be resumed, with the same settings.

    Raises:
        click.UsageError: if a given setting differs from that of the run.
        RunError: if the run has finished, or would fail again.
    """
    check_settings_of_run(config, given)
    if has_finished(folder):
        raise RunError(
            f"run {folder} has finished: there is nothing to resume; to train further, start a "
            f"run from it: lastax train --from {folder}"
        )
    reason = failure_reason(folder)
    if reason is not None:
        raise RunError(f"run {folder} would fail again: {reason}")
    installed = installed_versions()
    changed = [name for name, version in config.versions.items() if installed.get(name) != version]
    if changed:
        err.print(f"versions differ from those the run began with: {', '.join(changed)}")


def runs_of(given: Mapping[str, Any], *, finished: bool) -> list[Path]:
    """The runs with the given settings, the newest last.

    Args:
        given: settings of the runs; None stands for any value.
        finished: whether they have finished.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    found = [(run, _settings_of(load_config(run))) for run in find_runs(RUNS, finished=finished)]
    return [run for run, own in found if wanted.items() <= own.items()]


def _settings_of(config: RunConfig) -> dict[str, Any]:
    """All settings of a run that flags of `lastax train` choose."""
    own = {name: getattr(config, name) for name in ("task", "size", "seed")}
    return vars(config.data) | vars(config.model) | vars(config.training) | own


def newest_unfinished(task: str, size: str | None) -> Path:
    """The run to resume if none is named.

    Raises:
        RunError: if there is none.
    """
    found = runs_of({"task": task, "size": size}, finished=False)
    if not found:
        raise RunError(f"no unfinished run below {RUNS / task}: start one without --resume")
    return found[-1]
