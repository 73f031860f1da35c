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
    records = [record for _, source in sources for record in source]
    shown = iter(_probabilities(model, records))
    predictions = []
    for path, source in sources:
        for row in range(len(source)):
            chances = next(shown)
            best = max(range(len(chances)), key=chances.__getitem__)
            predictions.append(
                {
                    "file": str(path),
                    "row": row,
                    "class": data.classes[best],
                    "probability": chances[best],
                    "probabilities": dict(zip(data.classes, chances, strict=True)),
                }
            )
            place = f"{path}[{row}]" if len(source) > 1 else str(path)
            if not as_json:
                out.print(f"{place}  {data.classes[best]}  {percent(chances[best])}")
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
        inputs = {name: batch[name] for name in ("x", "length") if name in batch}
        rows = batch["weight"] > 0
        found += compute(model, inputs)[rows].tolist()
    return found
