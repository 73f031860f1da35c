"""The program `lastax`."""

import gc
import os
import sys

import click

from lastax import RunError, TrainingDivergedError
from lastax.cmd._console import fail, keep_compiled_programs, keep_interrupts
from lastax.cmd.bench import bench
from lastax.cmd.data import data
from lastax.cmd.evaluate import evaluate
from lastax.cmd.prune import prune
from lastax.cmd.report import report
from lastax.cmd.score import score
from lastax.cmd.sweep import sweep
from lastax.cmd.train import train
from lastax.data import DataError

INTERRUPTED = 130


@click.group(context_settings={"show_default": True, "max_content_width": 100})
@click.version_option(package_name="lastax")
def cli() -> None:
    """Train diagonal state-space models, score their states, remove the unneeded ones."""


for command in (data, train, evaluate, score, prune, sweep, report, bench):
    cli.add_command(command)


def main() -> None:
    """Run the program.

    Exit status 0, 1 (a failure, told in one line), 2 (wrong usage) or 130 (interrupted).
    """
    keep_compiled_programs()
    keep_interrupts()
    try:
        # A number if a command ended by `Exit`: what it told is an answer, but not a good one.
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
        # XLA may be compiling in a thread that nothing stops, and would crash as its client goes.
        sys.stdout.flush()
        gc.collect()  # What was shared with worker processes is given back: its frames are gone.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
