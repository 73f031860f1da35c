"""Opening the data of a task or of a run, wherever this machine has them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import lastax
from lastax.cmd._console import err
from lastax.data import DATASETS, Data, data_folder, evaluation_batches
from lastax.data._views import every_step as every_step
from lastax.data._views import first_steps
from lastax.data._views import some_records as some_records

# Steps of all sequences of a batch in evaluation: what is held of a layer at once is bounded.
_STEPS_AT_ONCE = 2**18
_MOST_AT_ONCE = 128
# Settings that act on records, whatever these are.
_OF_ALL_DATA = {"length", "every", "skip_bad"}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the data are, and what to do about damage, beyond what a run has recorded."""

    root: Path | None = None
    data: str | None = None
    skip_bad: bool = False


def root_option(command: Callable) -> Callable:
    """`--data-dir` on every command that reads or writes data sets."""
    return click.option(
        "--data-dir",
        "root",
        type=click.Path(path_type=Path, file_okay=False),
        help="Root of all data sets.  [default: LASTAX_DATA, or data in the cache folder]",
    )(command)


def task_argument(command: Callable) -> Callable:
    """TASK, the name of a data set."""
    return click.argument("task", type=click.Choice(sorted(DATASETS)))(command)


def place_options(command: Callable) -> Callable:
    """`--data-dir`, `--data` and `--skip-bad`, handed to the command as one `place`."""

    @functools.wraps(command)
    def placed(
        *arguments: Any, root: Path | None, data: str | None, skip_bad: bool, **options: Any
    ) -> Any:
        return command(*arguments, place=Place(root, data, skip_bad), **options)

    with_data = click.option("--data", help="Your own data, if they have moved since.")(placed)
    skipping = click.option(
        "--skip-bad", is_flag=True, help="Leave damaged records out, instead of stopping."
    )(with_data)
    return root_option(skipping)


def absolute(path: str | Path) -> str:
    """A path that holds wherever it is read again."""
    return str(Path(path).expanduser().resolve())


def data_settings(data_set: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given settings that are of data, None left out.

    Raises:
        click.UsageError: if there is one that the data set does not know.
    """
    fields = {field.name for field in dataclasses.fields(lastax.training.DataConfig)}
    chosen = {k: v for k, v in given.items() if k in fields and v is not None}
    known = DATASETS[data_set].options
    for name in chosen.keys() - _OF_ALL_DATA - set(known):
        flags = ", ".join("--" + option for option in known) or "none"
        raise click.UsageError(f"--{name}: not a setting of {data_set}, which has {flags}")
    if "data" in chosen:
        chosen["data"] = absolute(chosen["data"])
    return chosen


def described_data(task: str, settings: dict[str, Any]) -> lastax.training.DataConfig:
    """All records of a task, read as its presets do but for what flags say."""
    config = dataclasses.replace(lastax.training.TASKS[task].data, **data_settings(task, settings))
    lastax.training.check_settings(config)
    return config


def open_data(config: lastax.training.DataConfig, root: Path | None = None) -> Data:
    """The data that a configuration describes, below `root`; prepared now if they never were."""
    data_set = DATASETS[config.name]
    options = {name: getattr(config, name) for name in data_set.options}
    if "data" in options:
        if options["data"] is None:
            raise click.UsageError(f"--data: {config.name} needs it: {data_set.needs}")
        options["data"] = Path(options["data"])
    given = {name: value for name, value in options.items() if value is not None}
    with err.status(f"opening {config.name}; what is new is prepared once"):
        data = data_set.open(data_folder(root), skip_bad=config.skip_bad, **given)
    if data.skipped:
        err.print(f"{config.name}: {data.skipped} damaged records left out")
    if config.length is not None:
        data = first_steps(data, config.length)
    return data if config.every == 1 else every_step(data, config.every)


def reopen_data(config: lastax.training.RunConfig, place: Place) -> Data:
    """The data of a run, which must still be those that it learned from.

    Raises:
        RunError: if the data are of other classes, tokens or sizes.
    """
    if config.data.name not in DATASETS:
        raise lastax.serialization.RunError(
            f"the run is of data {config.data.name!r}; there are {', '.join(DATASETS)}"
        )
    wanted = config.data
    if place.data is not None:
        wanted = dataclasses.replace(wanted, **data_settings(wanted.name, {"data": place.data}))
    if place.skip_bad:
        wanted = dataclasses.replace(wanted, skip_bad=True)
    data = open_data(wanted, place.root)
    for what, now, then in (
        ("classes", data.classes, config.labels),
        ("tokens", data.vocabulary, config.vocabulary),
        ("values a step", data.input_size, config.input_size),
        ("steps a record", data.length, config.length),
    ):
        if now != then:
            raise lastax.serialization.RunError(
                f"not the data that the run was made with: {what} are {_short(now)}, the run "
                f"has {_short(then)}; give it its own data, or train anew"
            )
    return data


def evaluate_on(
    model: lastax.nn.Network,
    data: Data,
    split: str,
    *,
    batch_size: int | None = None,
    step_rescale: float = 1.0,
) -> lastax.training.Evaluation:
    """Accuracy and loss of a model on all records of a split."""
    batches = _all_records(data, split, batch_size)
    return lastax.training.evaluate(model, batches, step_rescale=step_rescale)


def compare_on(
    original: lastax.nn.Network, other: lastax.nn.Network, data: Data, split: str
) -> lastax.training.Fidelity:
    """How close a model's answers are to the original ones on all records of a split."""
    return lastax.training.compare(original, other, _all_records(data, split, None))


def _all_records(data: Data, split: str, batch_size: int | None) -> Iterator[lastax.training.Batch]:
    steps = data.length * (2 if data.pairs else 1)
    fitting = max(1, min(_MOST_AT_ONCE, _STEPS_AT_ONCE // steps))
    return evaluation_batches(data.sources[split], batch_size=batch_size or fitting)


def _short(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    listed = " ".join(map(repr, value[:12])) + (" ..." if len(value) > 12 else "")
    return f"{len(value)} ({listed})" if value else "none"
