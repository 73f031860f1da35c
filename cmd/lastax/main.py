"""The program `lastax`."""

import gc
import os
import sys

import click

from lastax._errors import DataError, RunError, TrainingDivergedError
from lastax.cmd._console import fail, keep_compiled_programs, keep_interrupts
from lastax.cmd._distributed import end_inner_process, is_inner_process
from lastax.cmd._lazy import LazyGroup
from lastax.cmd._named_modules import add_modules, import_named_modules

INTERRUPTED = 130

COMMANDS = {
    "data": ("lastax.cmd.data:data", "List, fetch, generate, check and draw data sets."),
    "train": ("lastax.cmd.train:train", "Train a network on a task."),
    "import": ("lastax.cmd.import_:import_", "Write a checkpoint of other code as a run."),
    "evaluate": ("lastax.cmd.evaluate:evaluate", "Accuracy and loss of a run on a split."),
    "predict": ("lastax.cmd.predict:predict", "Class and probability of files."),
    "stream": ("lastax.cmd.stream:stream", "Class probabilities while a sound comes in."),
    "score": ("lastax.cmd.score:score", "Score every state of a run."),
    "prune": ("lastax.cmd.prune:prune", "Remove the least important states of a run."),
    "export": ("lastax.cmd.export:export", "Write a run for a runtime or other code."),
    "sweep": ("lastax.cmd.sweep:sweep", "Accuracy of runs by method and ratio."),
    "report": ("lastax.cmd.report:report", "Write an HTML page on a run or on sweeps."),
    "bench": ("lastax.cmd.bench:bench", "Measure speed and memory on this machine."),
}


@click.group(
    cls=LazyGroup,
    members=COMMANDS,
    context_settings={
        "show_default": True,
        "max_content_width": 100,
        "help_option_names": ["-h", "--help"],
    },
)
@click.version_option(package_name="lastax")
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import a Python module first, for example one that registers methods; repeatable.",
)
def cli(modules: tuple[str, ...]) -> None:
    """Train diagonal state-space models, score their states, and remove the unneeded ones."""
    if modules:
        add_modules(modules)
    import_named_modules()


def main() -> None:
    """Run the program.

    Exit status 0, 1 (a failure, explained in one line), 2 (wrong usage) or 130 (interrupted).
    """
    keep_interrupts()
    try:
        keep_compiled_programs()
        # A number if a command ended by `Exit`: it printed a result that reports a problem.
        status = cli(standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        status = 2
    except click.ClickException as error:
        status = fail(error.format_message(), error.exit_code)
    except (RunError, DataError, TrainingDivergedError, ValueError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        status = fail(str(error) or type(error).__name__, 1)
    except (click.Abort, KeyboardInterrupt) as error:
        status = fail("; ".join(["interrupted", *map(str, error.args)]), INTERRUPTED)
    if status == INTERRUPTED:
        # XLA may be compiling in a thread that cannot be stopped, and would crash when its client
        # is destroyed.
        sys.stdout.flush()
        # Iterators that were interrupted while they were made report that they cannot be closed.
        sys.unraisablehook = lambda unraisable: None
        gc.collect()  # Releases memory that was shared with worker processes.
        os._exit(status)
    if status and is_inner_process():
        end_inner_process(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
