"""`lastax export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import lastax
from lastax._errors import DataError, RunError
from lastax.cmd._console import emit, err, out, resolve_run
from lastax.cmd._options import (
    DataLocation,
    Name,
    debug_option,
    json_option,
    location_options,
    require_flag,
    run_argument,
)
from lastax.cmd._rounding_loss import rounding_line, rounding_loss

# Targets with numbers in 8 bits.
QUANTIZED = ("c", "onnx", "onnx-sequence")
SEQUENCES = 64


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
    type=Name("target", lambda: ("c", "safetensors", *lastax.deployment.TARGETS)),
    help="Target: c, onnx, onnx-sequence, stablehlo, stablehlo-step, safetensors.",
)
@click.option(
    "--format",
    "file_format",
    help="Checkpoint format: s4-pth, s5-msgpack, npz, ...  [default: as imported]",
)
@click.option(
    "--like",
    type=click.Path(path_type=Path, exists=True),
    help="Checkpoint whose other entries are copied.  [default: the imported one]",
)
@click.option(
    "--pad",
    type=click.Choice(["layer", "network", "refuse"]),
    default="layer",
    help="Pad S4D channels to equal sizes, per layer or network.",
)
@click.option("--name", default="model", help="Prefix of the files and names in C.")
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    help="Weights and activations in 8 bits, with --to c, onnx or onnx-sequence.",
)
@click.option(
    "--calibration",
    "sequences",
    type=click.IntRange(0),
    help="Unlabeled training sequences for ranges of activations; 0 rounds only weights."
    f"  [default: {SEQUENCES}]",
)
@location_options
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
    sequences: int | None,
    location: DataLocation,
    as_json: bool,
) -> None:
    """Write the network of RUN for another runtime, or for other people's code.

    RUN defaults to the newest trained run. `--to` writes the network for a machine without lastax:
    `c` is C99 code without dependencies that reads one step of a stream, with a test program.
    `stablehlo` reads whole sequences, `stablehlo-step` and `onnx` one step, and `onnx-sequence` a
    sequence step by step. `safetensors` holds plain arrays. `c`, `onnx`, `onnx-sequence` and
    `stablehlo-step` need a unidirectional network.

    `--quantize int8` rounds weights, and the inputs of matrix products by their largest values on
    calibration sequences. States and eigenvalues keep float32. The command prints the accuracy on
    the test split before and after rounding. If the data of RUN are missing, it rounds only the
    weights and says so.

    Without `--to`, the command writes a checkpoint in a format of `lastax.interop`. A format is a
    naming scheme and a file type, such as s4-pth, s5-msgpack or s5-safetensors. S4D channels with
    fewer states than others are padded with states of C = 0.
    """
    if target is not None and file_format is not None:
        raise click.UsageError(
            "give only one of --to and --format: --to for a machine without lastax, --format for "
            "other people's code"
        )
    if target is not None:
        require_flag({"like": "--like", "pad": "--pad"}, "--format")
    if target != "c":
        require_flag({"name": "--name"}, "--to c")
    if target not in QUANTIZED:
        require_flag({"quantize": "--quantize"}, f"--to {', '.join(QUANTIZED)}")
    if quantize is None:
        require_flag({"sequences": "--calibration"}, "--quantize")
    run = resolve_run(run)
    if target in (None, "safetensors"):
        notes = lastax.interop.export_run(
            run, file, format=file_format or target, like=like, pad=pad
        )
        for note in () if as_json else notes:
            err.print(note)
        record, line = {"file": str(file), "notes": list(notes)}, _size(file)
    else:
        record, line = _write_program(
            run, file, target, name=name, quantize=quantize, sequences=sequences, location=location
        )
    if as_json:
        emit(record)
    else:
        out.print(line)


def _write_program(
    run: Path,
    file: Path,
    target: str,
    *,
    name: str,
    quantize: lastax.deployment.Quantization | None,
    sequences: int | None,
    location: DataLocation,
) -> tuple[dict[str, Any], str]:
    """Write a program for a machine without lastax, and return what to print: JSON, and text."""
    config, network = lastax.training.load_run(run)
    data, batch = None, None
    if quantize is not None:
        data = _data(config, location, needed=bool(sequences))
        used = SEQUENCES if sequences is None else sequences
        if data is not None and used:
            batch = lastax.training.calibration_batch(data, used)
    record: dict[str, Any]
    if target == "c":
        sizes = lastax.deployment.to_c(
            network, file, name=name, quantize=quantize, calibration=batch
        )
        record = {"folder": str(file), **sizes._asdict()}
        line = (
            f"{file}: constants {sizes.flash_bytes:,} bytes, state {sizes.state_bytes:,} bytes, "
            f"{sizes.multiply_adds:,} multiply-adds per step"
        )
    else:
        lastax.deployment.TARGETS[target](
            network, file, classes=config.labels, quantize=quantize, calibration=batch
        )
        record, line = {"file": str(file), "notes": []}, _size(file)
    if quantize is not None:
        rounded = lastax.deployment.quantized_cell(network, quantize, calibration=batch)
        record["rounding"] = {
            "calibration_sequences": 0 if batch is None else len(batch["x"]),
            **rounding_loss(config, network, rounded, data),
        }
        line = f"{line}\n{rounding_line(record['rounding'])}"
    return record, line


def _data(
    config: lastax.training.RunConfig, location: DataLocation, *, needed: bool
) -> lastax.data.Data | None:
    """The data of the run; None with a message if they are missing and not needed."""
    try:
        with err.status(f"opening {config.data.name}"):
            return location.open(config)
    except (DataError, RunError) as error:
        if needed:
            raise
        err.print(f"activations keep float32, and the accuracy was not measured: {error}")
        return None


def _size(file: Path) -> str:
    return f"{file}: {file.stat().st_size:,} bytes"
