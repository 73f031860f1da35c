"""Sections that reports on runs and on sweeps share."""

import json
from collections.abc import Mapping
from pathlib import Path

from lastax._errors import RunError
from lastax._typing import OnProgress
from lastax.plots._curves import draw_learning
from lastax.plots._html import html_code, html_figure, html_heading, html_text
from lastax.training._runs import METRICS_FILE


def learning_section(runs: Mapping[str, Path], on_warning: OnProgress) -> list[str]:
    """Learning curves of runs, by name; empty if no run has any.

    Raises:
        RunError: if a `metrics.jsonl` is damaged.
    """
    records = {}
    for name, folder in runs.items():
        path = folder / METRICS_FILE
        if not path.is_file():
            on_warning(f"no learning curve of {name}: {path} is missing")
            continue
        try:
            records[name] = [json.loads(line) for line in path.read_text().splitlines()]
            for record in records[name]:
                [record[field] for field in ("epoch", "train_accuracy", "validation_accuracy")]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error!r}") from error
    if not any(records.values()):
        return []
    caption = (
        "Accuracy per epoch: on the validation split (solid) and on training batches (dashed)."
    )
    alternative = "Validation accuracy. " + "; ".join(
        f"{name}: {percent(of_run[0]['validation_accuracy'])} after epoch {of_run[0]['epoch']}, "
        f"{percent(of_run[-1]['validation_accuracy'])} after epoch {of_run[-1]['epoch']}"
        for name, of_run in records.items()
        if of_run
    )
    return [html_heading("Learning"), html_figure(draw_learning(records), caption, alternative)]


def reproduction_section(commands: str, versions: Mapping[str, str]) -> list[str]:
    """The commands and versions that produced the results."""
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        html_heading("Reproduction"),
        html_code(commands),
        html_text(f"Versions: {listed}."),
    ]


def percent(share: float) -> str:
    """A share from 0 to 1 in percent, with two decimals."""
    return f"{100 * share:.2f} %"
