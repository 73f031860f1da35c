"""Options and arguments that several commands share. Importing them does not load JAX."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

import lastax

Command = TypeVar("Command", bound=Callable)

# Default of an option, with its value in other cases.
CHOSEN_BY_SIZE = "  [default: by size of the network for `calibrated`, else {}]"


class Name(click.ParamType):
    """A name from a list that is loaded when the command runs."""

    def __init__(self, what: str, names: Callable[[], Iterable[str]]) -> None:
        """A name of `what`, one of `names()`."""
        self.name = what
        self._names = names

    @property
    def choices(self) -> list[str]:
        """All names that are accepted."""
        return list(self._names())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself, if there is one like it."""
        if value not in self.choices:
            listed = ", ".join(self.choices)
            self.fail(f"no {self.name} {value!r}; choose one of {listed}", param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that begin with `incomplete`."""
        return [CompletionItem(name) for name in self.choices if name.startswith(incomplete)]


class MethodName(Name):
    """The name of a pruning method.

    Modules named by `lastax --import` register theirs before it is looked up.
    """

    def __init__(self, *more: str, scores_parameters: bool = False) -> None:
        """A method or one of `more`; with `scores_parameters` only methods that need no data."""
        super().__init__(
            "method",
            lambda: (
                *(
                    name
                    for name, method in lastax.METHODS.items()
                    if method.scores_parameters or not scores_parameters
                ),
                *more,
            ),
        )


@dataclasses.dataclass(frozen=True)
class DataLocation:
    """Where the data of a run are on this machine, beyond what the run has recorded."""

    root: Path | None = None
    data: str | None = None
    skip_bad: bool = False

    def absolute(self) -> DataLocation:
        """The same place, seen from any working directory."""
        return dataclasses.replace(
            self,
            root=self.root and self.root.absolute(),
            data=self.data and str(Path(self.data).absolute()),
        )

    def open(self, config: lastax.training.RunConfig) -> lastax.data.Data:
        """Open the data of a run, which must be those it was trained on."""
        skip_bad = True if self.skip_bad else None
        return lastax.data.reopen_data(config, self.root, data=self.data, skip_bad=skip_bad)


def is_given(name: str) -> bool:
    """Whether the user gave the flag of a parameter of the present command."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def require_flag(flags: Mapping[str, str], needed: str) -> None:
    """Refuse flags that have no effect, because something that they need is missing.

    Args:
        flags: the flags, by the names of their parameters.
        needed: what they need.

    Raises:
        click.UsageError: if the user gave one of them.
    """
    for name, flag in flags.items():
        if is_given(name):
            raise click.UsageError(f"{flag} has no effect without {needed}: leave it out")


def debug_option(command: Command) -> Command:
    """`--debug` on every command; `main` reads it when something fails."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of a failure."
    )(command)


def json_option(command: Command) -> Command:
    """`--json` on every command whose result a program may read."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


def run_argument(command: Command) -> Command:
    """RUN, which defaults to the newest trained run."""
    return click.argument("run", type=click.Path(path_type=Path), required=False)(command)


def task_argument(command: Command) -> Command:
    """TASK, the name of a data set."""
    return click.argument("task", type=click.Choice(sorted(lastax.data.DATASETS)))(command)


def seed_option(command: Command) -> Command:
    """`--seed`, for random pruning and calibration data."""
    return click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        help="Seed of random pruning and of the calibration data.",
    )(command)


def limit_option(command: Command) -> Command:
    """`--limit`."""
    return click.option(
        "--limit", type=click.IntRange(1), help="Records per split to evaluate on.  [default: all]"
    )(command)


def root_option(command: Command) -> Command:
    """`--data-dir` on every command that reads or writes data sets."""
    return click.option(
        "--data-dir",
        "root",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of all data sets.  [default: LASTAX_DATA, or data in the cache folder]",
    )(command)


def location_options(command: Callable) -> Callable:
    """`--data-dir`, `--data` and `--skip-bad`, passed to the command as one `location`."""

    @functools.wraps(command)
    def located(
        *arguments: Any, root: Path | None, data: str | None, skip_bad: bool, **options: Any
    ) -> Any:
        location = DataLocation(root, data, skip_bad)
        return command(*arguments, location=location, **options)

    with_data = click.option("--data", help="New location of your own data, if you moved them.")(
        located
    )
    skipping = click.option("--skip-bad", is_flag=True, help="Leave damaged records out.")(
        with_data
    )
    return root_option(skipping)


def calibration_options(sequences: int | None) -> Callable[[Command], Command]:
    """`--calibration` and `--budget`, of methods that use calibration data.

    Args:
        sequences: default number of sequences; None if the command chooses it.
    """

    def add(command: Command) -> Command:
        budget = click.option(
            "--budget",
            type=Name("budget", lambda: lastax.calibration.BUDGETS),
            default="probe",
            help="States per layer of `calibrated`: uniform, relative-error or probe.",
        )(command)
        return click.option(
            "--calibration",
            "sequences",
            type=click.IntRange(1),
            default=sequences,
            help="Number of unlabeled training sequences for calibration."
            + ("" if sequences else CHOSEN_BY_SIZE.format(64)),
        )(budget)

    return add


class FiniteRange(click.FloatRange):
    """Numbers in a range. `click.FloatRange` also accepts NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or an error that says what is wrong."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def finetune_rate_option(command: Command) -> Command:
    """`--finetune-rate`, which belongs to `--finetune`."""
    return click.option(
        "--finetune-rate",
        type=FiniteRange(0, min_open=True),
        default=0.1,
        help="Learning rates of these epochs, relative to the run's.",
    )(command)
