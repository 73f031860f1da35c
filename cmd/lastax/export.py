"""`lastax export`."""

from __future__ import annotations

from pathlib import Path

import click

import lastax
from lastax.cmd._console import emit, err, out, resolve_run
from lastax.cmd._options import debug_option, json_option, require_flag, run_argument


@click.command()
@run_argument
@click.option(
    "--out",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write; replaced if it exists. With --to c, a new folder.",
)
@click.option(
    "--to",
    "target",
    type=click.Choice(["c", "safetensors"]),
    help="C code that reads a stream step by step, or plain arrays.",
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
@click.option("--name", default="model", help="Prefix of the files and names in C.")
@click.option("--quantize", type=click.Choice(["int8"]), help="Weights in 8 bits, with --to c.")
@json_option
@debug_option
def export(
    run: Path | None,
    file: Path,
    target: str | None,
    file_format: str | None,
    like: Path | None,
    pad: lastax.interop.Pad,
    name: str,
    quantize: lastax.deployment.Quantization | None,
    as_json: bool,
) -> None:
    """Write the network of RUN for other machines, or as other people's code loads it.

    RUN defaults to the newest trained run. `--to c` writes C99 code without dependencies, and a
    program that tests it. It needs a unidirectional run. Formats are those of `lastax.interop`
    (docs): a naming and a kind of file, such as s4-pth, s5-msgpack or s5-safetensors. S4D channels
    with different numbers of states are filled with states of C = 0.
    """
    if target is not None and file_format is not None:
        raise click.UsageError(
            "--to and --format exclude each other: pass --to for a machine without lastax, or "
            "--format for other people's code"
        )
    if target == "c":
        require_flag({"like": "--like", "pad": "--pad"}, "--format")
        _, network = lastax.training.load_run(resolve_run(run))
        sizes = lastax.deployment.to_c(network, file, name=name, quantize=quantize)
        if as_json:
            emit({"folder": str(file), **sizes._asdict()})
            return
        out.print(
            f"{file}: constants {sizes.flash_bytes:,} bytes, state {sizes.state_bytes:,} bytes, "
            f"{sizes.multiply_adds:,} multiply-adds per step"
        )
        return
    require_flag({"name": "--name", "quantize": "--quantize"}, "--to c")
    if target is not None:
        file_format = target
    notes = lastax.interop.export_run(
        resolve_run(run), file, format=file_format, like=like, pad=pad
    )
    if as_json:
        emit({"file": str(file), "notes": list(notes)})
        return
    for note in notes:
        err.print(note)
    out.print(f"{file}: {file.stat().st_size:,} bytes")
