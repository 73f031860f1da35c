"""`lastax export`."""

from __future__ import annotations

from pathlib import Path

import click

import lastax
from lastax.cmd._console import emit, err, out, resolve_run
from lastax.cmd._options import debug_option, json_option, run_argument


@click.command()
@run_argument
@click.option(
    "--out",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to write; replaced if it exists.",
)
@click.option(
    "--format",
    "file_format",
    help="Names and kind of file: s4-pth, s5-msgpack, npz, ...  [default: as imported]",
)
@click.option(
    "--like",
    type=click.Path(path_type=Path, exists=True),
    help="Checkpoint whose other contents are kept.  [default: the imported one]",
)
@click.option(
    "--pad",
    type=click.Choice(["layer", "network", "refuse"]),
    default="layer",
    help="Where S4D channels or layers get equal sizes.",
)
@json_option
@debug_option
def export(
    run: Path | None,
    file: Path,
    file_format: str | None,
    like: Path | None,
    pad: lastax.interop.Pad,
    as_json: bool,
) -> None:
    """Write the network of RUN as a file that other people's code loads.

    RUN defaults to the newest trained run. Formats are those of `lastax.interop` (docs): a
    naming and a kind of file, such as s4-pth, s5-msgpack or s5-safetensors. S4D channels with
    different numbers of states are filled with states of C = 0.
    """
    notes = lastax.interop.export_run(
        resolve_run(run), file, format=file_format, like=like, pad=pad
    )
    if as_json:
        emit({"file": str(file), "notes": list(notes)})
        return
    for note in notes:
        err.print(note)
    out.print(f"{file}: {file.stat().st_size:,} bytes")
