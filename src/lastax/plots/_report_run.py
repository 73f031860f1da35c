"""HTML report on one run: accuracy, states, pruning, certificates, learning curve, commands."""

import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax._errors import RunError
from lastax._typing import Batch, OnProgress
from lastax.analysis._certificates import Certificate
from lastax.nn._networks import Network
from lastax.nn._prediction import predict
from lastax.plots._html import (
    html_figure,
    html_heading,
    html_numbers,
    html_page,
    html_table,
)
from lastax.plots._pruning import draw_layout, draw_poles, log_coordinates
from lastax.plots._report_sections import learning_section, percent, reproduction_section
from lastax.pruning._methods import METHODS
from lastax.pruning._plan import score_states
from lastax.surgery._layers import systems
from lastax.training._presets import TASKS
from lastax.training._run_config import RunConfig, kept_masks, load_config, untrained_counts
from lastax.training._runs import RESULTS_FILE, layer_sizes, load_results, load_run

_SPLITS = ("validation", "test")
# Steps of all sequences in the batch that is timed.
_TIMED_STEPS = 2**13
_REPEATS = 9
# Options of `lastax prune` that have another name in `config.json`.
_PRUNE_FLAGS = {"sequences": "calibration"}


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run, and the run that it was pruned from.

    Attributes:
        folder: the folder of the run.
        config: its configuration.
        model: its network.
        parent: the run before pruning; None for a trained run, or if it cannot be read.
    """

    folder: Path
    config: RunConfig
    model: Network
    parent: "LoadedRun | None"

    @classmethod
    def load(cls, folder: Path, on_warning: OnProgress) -> "LoadedRun":
        """Read a run and its parents."""
        config, model = load_run(folder)
        parent = None
        if config.parent is not None:
            try:
                parent = cls.load((folder / config.parent).resolve(), on_warning)
            except RunError as error:
                on_warning(f"no comparison with the unpruned run: {error}")
        return cls(folder, config, model, parent)

    @property
    def trained(self) -> "LoadedRun":
        """The run that was trained."""
        return self if self.parent is None else self.parent.trained

    @property
    def keep(self) -> list[Bool[np.ndarray, " _"]]:
        """For each layer, which states of the parent remain."""
        if self.parent is None:
            return [np.ones(count, bool) for count in self.config.states]
        full = untrained_counts(self.config.model)
        own = kept_masks(self.config, full)
        parents = kept_masks(self.parent.config, full)
        return [one[other] for one, other in zip(own, parents, strict=True)]


def run_report(folder: Path, *, time_forward: bool, on_warning: OnProgress) -> str:
    """The page on one run.

    Raises:
        RunError: if the run is missing, unfinished or damaged.
    """
    run = LoadedRun.load(folder, on_warning)
    config, parent = run.config, run.parent
    results = load_results(folder)
    if not set(_SPLITS) <= results.keys():
        raise RunError(f"{folder / RESULTS_FILE} has no accuracies: train the run again")
    method = (config.pruning or {}).get("method", "last")
    lead = f"{config.task}, {len(config.states)} {config.model.layer} layers, seed {config.seed}"
    parts = [html_numbers(_numbers(run, results))]
    if parent is not None:
        summary = (
            METHODS[method].summary if method in METHODS else "a method that is not registered"
        )
        lead += f"; pruned by {method}: {summary}"
        parts += _comparison_section(run, parent, results, time_forward)
    parts += _states_section(run, method, results)
    if parent is not None:
        parts += _certificates_section(results)
    trained = run.trained.folder
    if run.trained.config.imported is None:
        parts += learning_section({trained.name: trained}, on_warning)
    parts += reproduction_section(_commands(run), config.versions)
    return html_page(folder.name, lead, parts)


def _numbers(run: LoadedRun, results: Mapping[str, Any]) -> dict[str, str]:
    numbers = {}
    for split in _SPLITS:
        accuracy = results[split]["after" if "after" in results[split] else "accuracy"]
        numbers[f"{split} accuracy"] = percent(accuracy)
    numbers["states"] = f"{sum(run.config.states):,}"
    numbers["parameters in layers"] = f"{_total_sizes(run.model)['parameters']:,}"
    return numbers


def _total_sizes(model: Network) -> dict[str, int]:
    sizes = layer_sizes(model)
    return {"parameters": sum(p for p, _ in sizes), "bytes": sum(b for _, b in sizes)}


def _comparison_section(
    run: LoadedRun, parent: LoadedRun, results: Mapping[str, Any], time_forward: bool
) -> list[str]:
    old, new = _total_sizes(parent.model), _total_sizes(run.model)
    rows = [
        ["states", f"{sum(parent.config.states):,}", f"{sum(run.config.states):,}"],
        *([name, f"{old[name]:,}", f"{new[name]:,}"] for name in old),
    ]
    for split in _SPLITS:
        effect = results[split]
        rows.append([f"{split} accuracy", percent(effect["before"]), percent(effect["after"])])
        rows.append([f"{split}, same prediction as before", "", percent(effect["agreement"])])
        divergence = effect["kl_divergence"]
        nats = "not finite" if divergence is None else f"{divergence:.3f} nats"
        rows.append([f"{split}, KL divergence", "", nats])
    caption = "Parameters and bytes of the state-space layers."
    if time_forward:
        times = _forward_seconds(parent.config, (parent.model, run.model))
        rows.append(["forward pass of a batch", *(f"{1e3 * seconds:.1f} ms" for seconds in times)])
        caption += f" Times are medians of {_REPEATS} runs in turns on this machine."
    layers = [
        [str(index), f"{len(mask):,}", f"{mask.sum():,}"] for index, mask in enumerate(run.keep)
    ]
    return [
        html_heading("Before and after"),
        html_table(["", "before", "after"], rows, caption),
        html_table(["layer", "states before", "states after"], layers),
    ]


def _forward_seconds(config: RunConfig, models: tuple[Network, ...]) -> list[float]:
    """Median time of a forward pass of each network, on random records."""
    batch = _random_batch(config)
    run = eqx.filter_jit(predict)
    times: list[list[float]] = [[] for _ in models]
    # The first turn compiles. Turns spread other load on the machine evenly.
    for turn in range(_REPEATS + 1):
        for model, seconds in zip(models, times, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(run(model, batch))
            if turn:
                seconds.append(time.perf_counter() - started)
    return [float(np.median(seconds)) for seconds in times]


def _random_batch(config: RunConfig) -> Batch:
    rng = np.random.default_rng(0)
    size = max(1, _TIMED_STEPS // config.length)
    shape = (size, 2, config.length) if config.model.head == "retrieval" else (size, config.length)
    if config.vocabulary:
        return {"x": rng.integers(0, config.input_size, shape).astype(np.int32)}
    return {"x": rng.normal(size=(*shape, config.input_size)).astype(np.float32)}


def _states_section(run: LoadedRun, method: str, results: Mapping[str, Any]) -> list[str]:
    """Scores and eigenvalues of all states; removed states are marked.

    Methods that compute new states leave none of the old ones, so that only the states after
    pruning are drawn.
    """
    shown, keep = run, [np.ones(count, bool) for count in run.config.states]
    scores, source, about = None, "last", ""
    if run.parent is not None and _makes_new_states(method):
        about = f" They are the new states that {method} computed, with the scores of last."
    elif run.parent is not None:
        shown, keep = run.parent, run.keep
        scores = _stored_scores(results, keep)
        if scores is not None or _needs_only_parameters(method):
            source = method
        else:
            about = f" The run does not hold the scores of {method}; these are the scores of last."
    layers = systems(shown.model)
    if scores is None:
        scores = score_states(layers, source, length=run.config.length)
    poles = [np.asarray(system.lam) for system in layers]
    conj_sym = all(system.conj_sym for system in layers)
    removed = not all(mask.all() for mask in keep)
    counts = "; ".join(
        f"layer {index}: {mask.sum()} of {len(mask)} states remain"
        if removed
        else f"layer {index}: {len(mask)} states"
        for index, mask in enumerate(keep)
    )
    return [
        html_heading("States"),
        html_figure(
            draw_layout(scores, keep, title=f"scores: {source}"),
            "The states of each layer in their order. Bright states have high scores"
            + ("; removed states are blank." if removed else ".")
            + about,
            f"Cells of all states, colored by the score of {source}. {counts}.",
        ),
        html_figure(
            draw_poles(poles, scores, keep, title=run.folder.name, conj_sym=conj_sym, columns=2),
            "Eigenvalues in the unit disk, and the same by frequency and time constant. "
            + ("Removed states are crosses. " if removed else "")
            + ("One eigenvalue of each conjugate pair is shown." if conj_sym else ""),
            f"Eigenvalues of each layer. {_time_constants(poles)}.",
        ),
    ]


def _stored_scores(
    results: Mapping[str, Any], keep: Sequence[Bool[np.ndarray, " _"]]
) -> list[Float[np.ndarray, " _"]] | None:
    """The scores that a run was pruned by; None for runs of versions that did not store them."""
    stored = results.get("scores")
    if stored is None or [len(layer) for layer in stored] != [len(mask) for mask in keep]:
        return None
    # JSON has no infinity.
    return [
        np.array([np.inf if score is None else score for score in layer], float) for layer in stored
    ]


def _time_constants(poles: Sequence[Complex[np.ndarray, " _"]]) -> str:
    constants = [log_coordinates(lam)[1] for lam in poles]
    return "; ".join(
        f"layer {index}: time constants from {values.min():.3g} to {values.max():.3g} steps"
        for index, values in enumerate(constants)
    )


def _makes_new_states(method: str) -> bool:
    return method in METHODS and METHODS[method].reduce is not None


def _needs_only_parameters(method: str) -> bool:
    """Whether a method scores the original states without data and without a key."""
    if method not in METHODS:
        return False
    entry = METHODS[method]
    needs_more = entry.uses_moments or entry.uses_key
    return entry.score is not None and entry.reduce is None and not needs_more


def _certificates_section(results: Mapping[str, Any]) -> list[str]:
    certificates = [
        Certificate(**{name: float("inf") if norm is None else norm for name, norm in one.items()})
        for one in results["certificates"]
    ]
    rows = [
        [str(index), *(f"{100 * share:.3g} %" for share in certificate.relative())]
        for index, certificate in enumerate(certificates)
    ]
    caption = (
        "Error of each layer by itself, relative to the norm of its states before pruning. "
        "It does not bound the error of the network's output."
    )
    bounds = html_table(["layer", "H-infinity error", "bound", "H2 error"], rows, caption)
    # Fitted parameters give up what the data do not have, so a worst case says little of them.
    if not results.get("truncated", True):
        summary = "<summary>Worst-case bounds of the layers</summary>"
        bounds = f"<details>{summary}{bounds}</details>"
    return [*_output_errors(results), html_heading("Certificates"), bounds]


def _output_errors(results: Mapping[str, Any]) -> list[str]:
    errors = [layer.get("output_error") for layer in results["layers"]]
    if all(error is None for error in errors):
        return []
    rows = [
        [str(index), "infinite" if error is None else f"{100 * error:.3g} %"]
        for index, error in enumerate(errors)
    ]
    caption = (
        "Mean squared error of each layer's output on the calibration data, relative to its mean "
        "square. Inputs come from the pruned layers below."
    )
    return [html_heading("Errors of the layers"), html_table(["layer", "error"], rows, caption)]


def _commands(run: LoadedRun) -> str:
    """The commands that produce the run again.

    Settings that differ from the preset become flags.
    """
    trained = run.trained
    first = trained.config
    if first.imported is not None:
        words = _import_words(first, first.imported)
    elif first.start is not None:
        words = _continue_words(first, (trained.folder / first.start).resolve())
    else:
        words = _train_words(first)
    lines = []
    step = run
    while step.parent is not None:
        flags = [
            _flag(_PRUNE_FLAGS.get(name, name), value)
            for name, value in (step.config.pruning or {}).items()
            if value is not None and value is not False
        ]
        lines.append(
            f"lastax prune {_quoted(step.parent.folder)} {' '.join(flags)} "
            f"--out {_quoted(step.folder.resolve())}"
        )
        step = step.parent
    lines.append(" ".join([*words, f"--out {_quoted(trained.folder)}"]))
    return "\n".join(reversed(lines))


def _train_words(config: RunConfig) -> list[str]:
    words = [f"lastax train --task {config.task} --layer {config.model.layer} --seed {config.seed}"]
    words += [] if config.size is None else [f"--size {config.size}"]
    return words + _flags_beside_preset(config)


def _continue_words(config: RunConfig, source: Path) -> list[str]:
    """The command of a run that started from another one, and has its settings by default."""
    words = [f"lastax train --from {_quoted(source)} --seed {config.seed}"]
    try:
        base = load_config(source)
    except RunError:
        return words + _flags_beside_preset(config)
    # As in `lastax train --from`: the states are gone already.
    training = dataclasses.replace(base.training, reduce_during_training=0.0)
    words += _changed_flags(config.data, base.data) + _changed_flags(config.model, base.model)
    return words + _changed_flags(config.training, training)


def _flags_beside_preset(config: RunConfig) -> list[str]:
    """Flags for the settings that differ from those of the preset."""
    task = TASKS[config.task]
    preset = task.presets.get((config.model.layer, config.size or ""))
    if preset is None:
        return []
    return [
        *_changed_flags(config.data, task.data_for(preset)),
        *_changed_flags(config.model, preset.model),
        *_changed_flags(config.training, preset.training),
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _import_words(config: RunConfig, imported: Mapping[str, Any]) -> list[str]:
    given = {name: imported.get(name) for name in ("format", "prefix")} | imported["options"]
    return [
        f"lastax import {shlex.quote(imported['file'])} --task {config.task}",
        *(_flag(name, value) for name, value in given.items() if value is not None),
        *_changed_flags(config.data, TASKS[config.task].data),
    ]


def _changed_flags(config: Any, preset: Any) -> list[str]:
    """Flags for the settings of a configuration that differ from those of the preset."""
    return [
        _flag(field.name, getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.metadata["help"] is not None
        and getattr(config, field.name) not in (getattr(preset, field.name), None)
    ]


def _flag(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"
