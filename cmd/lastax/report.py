"""`lastax report`."""

from __future__ import annotations

from pathlib import Path

import click

import lastax
from lastax.cmd._console import emit, err, out, resolve_run
from lastax.cmd._options import debug_option, json_option

REPORT = "report.html"


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: report.html in the folder]",
)
@click.option("--speed/--no-speed", default=True, help="Time the forward pass before and after.")
@json_option
@debug_option
def report(runs: tuple[Path, ...], path: Path | None, speed: bool, as_json: bool) -> None:
    """Write an HTML page on a run, or on one or several sweeps.

    RUNS are the folder of one run or the folders of finished sweeps; the default is the newest
    trained run. The page is one self-contained file.
    """
    folders = list(runs) or [resolve_run(None)]
    page = lastax.plots.report_page(folders, time_forward=speed, on_warning=err.print)
    target = path or folders[0] / REPORT
    lastax.serialization.write_atomically(target, page.encode())
    if as_json:
        emit({"report": str(target)})
    else:
        out.print(str(target))
