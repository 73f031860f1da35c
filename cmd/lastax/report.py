"""`lastax report`."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

import lastax
from lastax.serialization import write_atomically
from lastax.training import METRICS_FILE
from lastax.cmd._console import (
    SPLITS,
    debug_option,
    emit,
    err,
    json_option,
    out,
    percent,
    resolve_run,
)
from lastax.cmd._flags import data_config
from lastax.cmd._measure import measure
from lastax.cmd._pruning import SUMMARIES, makes_new_states
from lastax.cmd.sweep import ANSWER

REPORT = "report.html"
# Steps of all sequences of the batch that is timed.
_TIMED_STEPS = 2**13


@dataclasses.dataclass(frozen=True)
class Pair:
    """A run, and the one that it was pruned from, if it was and that one is still there."""

    folder: Path
    config: lastax.training.RunConfig
    model: lastax.nn.Network
    before: "Pair | None"

    @classmethod
    def load(cls, folder: Path) -> "Pair":
        """Read both."""
        config, model = lastax.training.load_run(folder)
        before = None
        if config.parent is not None:
            try:
                before = cls.load((folder / config.parent).resolve())
            except lastax.serialization.RunError as error:
                err.print(f"without what was before: {error}")
        return cls(folder, config, model, before)

    @property
    def first(self) -> "Pair":
        """The run that was trained."""
        return self if self.before is None else self.before.first

    @property
    def keep(self) -> list[np.ndarray]:
        """Which states of the one before are left."""
        if self.before is None:
            return [np.ones(count, bool) for count in self.config.states]
        full = lastax.training.untrained_counts(self.config.model)
        mine = lastax.training.kept_masks(self.config, full)
        theirs = lastax.training.kept_masks(self.before.config, full)
        return [one[other] for one, other in zip(mine, theirs, strict=True)]


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page.  [default: report.html in the folder]",
)
@click.option("--speed/--no-speed", default=True, help="Time the forward pass before and after.")
@json_option
@debug_option
def report(runs: tuple[Path, ...], path: Path | None, speed: bool, as_json: bool) -> None:
    """Write one HTML page about a run, or about one or several folders of sweeps.

    The page stands for itself: it can be sent, printed, and read on a phone. Left out, it is about
    the newest trained run.
    """
    folders = list(runs) or [resolve_run(None)]
    folder = folders[0]
    parts: list[str]
    if all((one / ANSWER).is_file() for one in folders):
        title, lead, parts = _sweep_page(folders)
    elif len(folders) == 1 and (folder / lastax.training.CONFIG_FILE).is_file():
        title, lead, parts = _run_page(Pair.load(folder), speed)
    elif len(folders) == 1:
        raise lastax.serialization.RunError(
            f"{folder} is neither a run ({lastax.training.CONFIG_FILE}) nor a finished sweep ({ANSWER})"
        )
    else:
        missing = [str(one) for one in folders if not (one / ANSWER).is_file()]
        raise lastax.serialization.RunError(
            f"several folders must all be finished sweeps; no {ANSWER} in {', '.join(missing)}"
        )
    target = path or folder / REPORT
    write_atomically(target, lastax.plots.html_page(title, lead, parts).encode())
    if as_json:
        emit({"report": str(target)})
    else:
        out.print(str(target))


def _run_page(pair: Pair, speed: bool) -> tuple[str, str, list[str]]:
    config, before = pair.config, pair.before
    results = lastax.training.load_results(pair.folder)
    sizes = _sizes(pair.model)
    pruning = config.pruning or {}
    method = pruning.get("method", "last")
    numbers = {}
    for split in SPLITS:
        reached = results[split]
        numbers[split] = percent(reached["after" if "after" in reached else "accuracy"])
    numbers["states"] = f"{sum(config.states):,}"
    numbers["parameters in layers"] = f"{sizes['parameters']:,}"
    parts = [lastax.plots.html_numbers(numbers)]
    lead = f"{config.task}, {len(config.states)} layers of {config.model.layer}, seed {config.seed}"
    if before is not None:
        lead += f"; pruned by {method}: {SUMMARIES.get(method, '')}"
        parts += _before_and_after(pair, results, speed)
    # New states have no place among those of before.
    of = pair if before is None or makes_new_states(method) else before
    keep = pair.keep if of is before else [np.ones(count, bool) for count in config.states]
    systems = lastax.systems(of.model)
    scored = method if method in lastax.METHODS and method != "random" else "last"
    scored = "last" if makes_new_states(scored) else scored
    scores = lastax.score_states(systems, scored, length=config.length)
    poles = [np.asarray(system.lam) for system in systems]
    parts += [
        lastax.plots.html_heading("States"),
        lastax.plots.html_figure(
            lastax.plots.draw_layout(scores, keep, title=f"score by {scored}"),
            "Every state of each layer in its place, bright is high; removed ones are blank.",
        ),
        lastax.plots.html_figure(
            lastax.plots.draw_poles(poles, scores, keep, title=pair.folder.name, columns=2),
            "Eigenvalues in the unit disk; removed ones are crossed out.",
        ),
    ]
    if before is not None:
        parts += _certificates(pair, results)
    parts += _learning({pair.first.folder.name: pair.first.folder})
    parts += _provenance(_commands(pair), config.versions)
    return pair.folder.name, lead, parts


def _sizes(model: lastax.nn.Network) -> dict[str, int]:
    sizes = lastax.training.layer_sizes(model)
    return {"parameters": sum(p for p, _ in sizes), "bytes": sum(b for _, b in sizes)}


def _before_and_after(pair: Pair, results: Mapping[str, Any], speed: bool) -> list[str]:
    assert pair.before is not None
    old, new = _sizes(pair.before.model), _sizes(pair.model)
    rows = [
        ["states", f"{sum(pair.before.config.states):,}", f"{sum(pair.config.states):,}"],
        *([name, f"{old[name]:,}", f"{new[name]:,}"] for name in old),
    ]
    for split in SPLITS:
        if "before" in results[split]:
            reached = results[split]
            rows.append(
                [f"{split} accuracy", percent(reached["before"]), percent(reached["after"])]
            )
            if "agreement" in reached:
                rows.append([f"{split}, answered as before", "", percent(reached["agreement"])])
                rows.append([f"{split}, divergence", "", f"{reached['divergence']:.3f} nats"])
    caption = "Parameters and bytes are those of the layers."
    if speed:
        times = _times(pair.before, pair)
        rows.append(["forward pass of a batch", *(f"{1e3 * time:.1f} ms" for time in times)])
        caption += " Times are medians of 9, by turns, on the machine that wrote this."
    layers = [
        [str(index), f"{len(mask):,}", f"{mask.sum():,}"] for index, mask in enumerate(pair.keep)
    ]
    return [
        lastax.plots.html_heading("Before and after"),
        lastax.plots.html_table(["", "before", "after"], rows, caption),
        lastax.plots.html_table(["layer", "states before", "after"], layers),
    ]


def _times(*pairs: Pair) -> list[float]:
    config = pairs[0].config
    rng = np.random.default_rng(0)
    size = max(1, _TIMED_STEPS // config.length)
    shape = (size, 2, config.length) if config.model.head == "retrieval" else (size, config.length)
    x: Any
    if config.vocabulary:
        x = rng.integers(0, config.input_size, shape).astype(np.int32)
    else:
        x = rng.normal(size=(*shape, config.input_size)).astype(np.float32)
    programs: dict[str, tuple[Callable, tuple[Any, ...]]] = {
        str(index): (lastax.predict, (pair.model, {"x": x})) for index, pair in enumerate(pairs)
    }
    return [result.median for result in measure(programs, repeats=9).values()]


def _certificates(pair: Pair, results: Mapping[str, Any]) -> list[str]:
    assert pair.before is not None
    if "certificates" in results:
        certificates = [
            lastax.analysis.Certificate(**{k: float("inf") if v is None else v for k, v in one.items()})
            for one in results["certificates"]
        ]
    else:
        # The run was pruned before they were stored.
        systems = (lastax.systems(one.model) for one in (pair.before, pair))
        certificates = [lastax.certify(*each) for each in zip(*systems, strict=True)]
    rows = [
        [str(index), *(f"{100 * share:.3g} %" for share in certificate.relative())]
        for index, certificate in enumerate(certificates)
    ]
    caption = (
        "How far each layer's operator moved, relative to the norm of what its states did before. "
        "This says nothing of what the network answers."
    )
    return [
        lastax.plots.html_heading("Certificates"),
        lastax.plots.html_table(["layer", "H-infinity error", "its bound", "H2 error"], rows, caption),
    ]


def _learning(folders: Mapping[str, Path]) -> list[str]:
    runs = {}
    for name, folder in folders.items():
        path = folder / METRICS_FILE
        if not path.is_file():
            err.print(f"without the learning curve of {name}: there is no {path} from here")
        else:
            try:
                runs[name] = [json.loads(line) for line in path.read_text().splitlines()]
            except ValueError as error:
                raise lastax.serialization.RunError(f"{path} is damaged: {error}") from error
    if not any(runs.values()):
        return []
    caption = "Accuracy by epoch: validation, and dashed on training batches."
    return [
        lastax.plots.html_heading("Learning"),
        lastax.plots.html_figure(lastax.plots.draw_learning(runs), caption),
    ]


def _commands(pair: Pair) -> str:
    """What makes the run again: every setting that differs from its preset is a flag."""
    first = pair.first.config
    task = lastax.training.TASKS[first.task]
    preset = task.presets.get((first.model.layer, first.size or ""))
    words = [f"lastax train --task {first.task} --layer {first.model.layer} --seed {first.seed}"]
    words += [] if first.size is None else [f"--size {first.size}"]
    if preset is not None:
        for mine, theirs in (
            (first.data, data_config(task, preset)),
            (first.model, preset.model),
            (first.training, preset.training),
        ):
            words += [
                _flag(field.name, getattr(mine, field.name))
                for field in dataclasses.fields(mine)
                if field.metadata["help"] is not None
                and getattr(mine, field.name) not in (getattr(theirs, field.name), None)
            ]
    lines = [" ".join([*words, f"--out {pair.first.folder}"])]
    steps = []
    step: Pair | None = pair
    names = {"sequences": "calibration"}
    while step is not None and step.before is not None:
        done = dict(step.config.pruning or {})
        told = [
            _flag(names.get(k, k), value)
            for k, value in done.items()
            if value is not None and value is not False
        ]
        steps.append(
            f"lastax prune {step.before.folder} {' '.join(told)} --out {step.folder.resolve()}"
        )
        step = step.before
    return "\n".join(lines + steps[::-1])


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"


def _provenance(commands: str, versions: Mapping[str, str]) -> list[str]:
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        lastax.plots.html_heading("Again"),
        lastax.plots.html_code(commands),
        lastax.plots.html_text(f"Made with {told}."),
    ]


def _sweep_page(folders: list[Path]) -> tuple[str, str, list[str]]:
    answers = [_read_sweep(folder) for folder in folders]
    cells = [cell for answer in answers for cell in answer["cells"]]
    runs = [Path(run) for answer in answers for run in answer["runs"]]
    groups, summary = lastax.experiments.sweep_groups(cells), lastax.experiments.sweep_summary(cells)
    commands = "\n".join(" ".join(answer["command"]) for answer in answers)
    best = summary[0] if summary else None
    numbers = {"networks": str(len(runs)), "cells": str(len(cells))}
    if best is not None:
        numbers["most removed"] = f"{100 * best['ratio']:.0f} % by {best['method']}"
        numbers["at a test loss of"] = f"{best['loss']:.2f} points"
    parts = [
        lastax.plots.html_numbers(numbers),
        lastax.plots.html_heading("How much can go"),
        lastax.plots.html_table(
            ["method", "removed", "test loss", "compressible", "removed there", "test loss there"],
            [_summary_row(row) for row in summary],
            "The largest swept share of states whose removal costs at most one point of validation "
            "accuracy, and what it costs on test, in points: mean over groups, and over those from "
            "which anything can be removed so.",
        ),
    ]
    for name, curves in groups.items():
        parts.append(lastax.plots.html_heading(name))
        parts.append(
            lastax.plots.html_figure(
                lastax.plots.draw_sweep({name: curves}),
                "Test accuracy against the share of removed states; bands are ranges over seeds.",
            )
        )
        ratios = sorted({ratio for points in curves.test.values() for ratio in points})
        rows = [
            [method, *(_range(points.get(ratio, [])) for ratio in ratios)]
            for method, points in curves.test.items()
        ]
        parts.append(
            lastax.plots.html_table(
                ["removed", *(f"{100 * ratio:g} %" for ratio in ratios)],
                rows,
                "Test accuracy in %, mean and range over seeds; unpruned "
                f"{_range(curves.unpruned)}.",
            )
        )
    failed = {cell["method"]: cell["error"] for cell in cells if cell.get("error")}
    if failed:
        parts.append(lastax.plots.html_heading("What did not apply"))
        parts += [lastax.plots.html_text(f"{method}: {error}") for method, error in failed.items()]
    parts += _learning({f"{run.parent.name}/{run.name}": run for run in runs})
    parts += _provenance(commands, answers[-1]["versions"])
    tasks = ", ".join(dict.fromkeys(cell["task"] for cell in cells))
    title = ", ".join(folder.name for folder in folders)
    return title, f"methods by ratios on {tasks}", parts


def _read_sweep(folder: Path) -> Mapping[str, Any]:
    try:
        answer = json.loads((folder / ANSWER).read_text())
        lastax.experiments.sweep_summary(answer["cells"])
        [*answer["runs"], *answer["command"], *answer["versions"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise lastax.serialization.RunError(f"{folder / ANSWER} is damaged: {error!r}") from error
    return answer


def _summary_row(row: Mapping[str, Any]) -> list[str]:
    alone = row["compressible"] > 0
    return [
        row["method"],
        f"{100 * row['ratio']:.1f} %",
        f"{row['loss']:.2f}",
        f"{row['compressible']} of {row['groups']}",
        f"{100 * row['ratio_compressible']:.1f} %" if alone else "-",
        f"{row['loss_compressible']:.2f}" if alone else "-",
    ]


def _range(values: list[float]) -> str:
    if not values:
        return "-"
    points = 100 * np.asarray(values)
    spread = f" ({points.min():.1f} to {points.max():.1f})" if len(points) > 1 else ""
    return f"{points.mean():.1f}{spread}"
