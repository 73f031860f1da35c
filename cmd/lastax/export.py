"""`lastax export`."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

import lastax
from lastax.cmd._console import emit, err, out, resolve_run
from lastax.cmd._options import Name, debug_option, json_option, run_argument


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
    "--to",
    "target",
    type=Name("target", lambda: lastax.deployment.TARGETS),
    help="Runtime to write for: onnx, stablehlo, ...",
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
@click.pass_context
def export(
    context: click.Context,
    run: Path | None,
    file: Path,
    target: str | None,
    file_format: str | None,
    like: Path | None,
    pad: lastax.interop.Pad,
    as_json: bool,
) -> None:
    """Write the network of RUN for another runtime, or for other people's code.

    RUN defaults to the newest trained run. `--to` writes a program with the weights inside:
    `stablehlo` reads whole sequences, `stablehlo-step` and `onnx` read one step of a stream, and
    `onnx-sequence` reads a sequence step by step. All but `stablehlo` need a unidirectional
    network.

    Without `--to`, the file is a checkpoint. Formats are those of `lastax.interop` (docs): a
    naming and a kind of file, such as s4-pth, s5-msgpack or s5-safetensors. S4D channels with
    different numbers of states are filled with states of C = 0.
    """
    if target is not None:
        given = (
            f"--{name.removeprefix('file_')}"
            for name in ("file_format", "like", "pad")
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT
        )
        if option := next(given, None):
            raise click.UsageError(
                f"--to writes for a runtime, and {option} belongs to checkpoints of other people's "
                "code; give only one of them"
            )
        config, network = lastax.training.load_run(resolve_run(run))
        lastax.deployment.TARGETS[target](network, file, config.labels)
        notes: tuple[str, ...] = ()
    else:
        notes = lastax.interop.export_run(
            resolve_run(run), file, format=file_format, like=like, pad=pad
        )
    if as_json:
        emit({"file": str(file), "notes": list(notes)})
        return
    for note in notes:
        err.print(note)
    out.print(f"{file}: {file.stat().st_size:,} bytes")
