"""`lastax predict`."""

from __future__ import annotations

from pathlib import Path

import click

import lastax
from lastax.cmd._console import emit, err, out, percent
from lastax.cmd._options import DataLocation, debug_option, json_option, location_options

BATCH_SIZE = 32


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@location_options
@json_option
@debug_option
def predict(run: Path, files: tuple[Path, ...], location: DataLocation, as_json: bool) -> None:
    """Class and probability of each record in FILES, by the network of RUN.

    FILES are sound files for a run on sounds, and .npy files or .npz files with an array x for a
    run on arrays. They are read like the data that RUN was trained on, which must be present.
    """
    config, model = lastax.training.load_run(run)
    with err.status(f"opening {config.data.name}"):
        data = location.open(config)
    if data.read_file is None:
        raise click.UsageError(
            f"predict reads sound files and arrays of numbers; {run} was trained on "
            f"{config.data.name}"
        )
    sources = [(path, data.read_file(path)) for path in files]
    places = [(path, row, len(source)) for path, source in sources for row in range(len(source))]
    records = [source[row] for _, source in sources for row in range(len(source))]
    predictions = []
    for (path, row, rows), chances in zip(places, _probabilities(model, records), strict=True):
        best = max(range(len(chances)), key=chances.__getitem__)
        name, probability = data.classes[best], chances[best]
        predictions.append(
            {
                "file": str(path),
                "row": row,
                "class": name,
                "probability": probability,
                "probabilities": dict(zip(data.classes, chances, strict=True)),
            }
        )
        if not as_json:
            place = f"{path}[{row}]" if rows > 1 else str(path)
            out.print(f"{place}  {name}  {percent(probability)}")
    if as_json:
        emit({"run": str(run), "predictions": predictions})


def _probabilities(
    model: lastax.nn.Network, records: list[lastax.data.Example]
) -> list[list[float]]:
    """The probability of each class, for each record."""
    import equinox as eqx
    import jax

    @eqx.filter_jit
    def compute(model: lastax.nn.Network, batch: lastax.training.Batch) -> jax.Array:
        return jax.nn.softmax(lastax.predict(model, batch))

    found: list[list[float]] = []
    size = min(BATCH_SIZE, len(records))
    for batch in lastax.data.evaluation_batches(records, batch_size=size):
        inputs: lastax.training.Batch = {
            name: batch[name] for name in ("x", "length") if name in batch
        }
        rows = batch["weight"] > 0
        found += compute(model, inputs)[rows].tolist()
    return found
