"""`lastax stream`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.live import Live
from rich.text import Text

import lastax
from lastax._errors import DataError
from lastax.cmd._console import emit, err, out, percent
from lastax.cmd._options import DataLocation, debug_option, location_options

STDIN = Path("-")
SHOWN = 3  # classes per line


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--every",
    type=click.IntRange(1),
    default=100,
    help="Milliseconds of sound per prediction.",
)
@click.option(
    "--reset",
    type=click.IntRange(1),
    help="Clear the state of the network after this many milliseconds.",
)
@click.option(
    "--rate",
    type=click.IntRange(1),
    help="Samples per second of raw PCM.  [default: that of RUN]",
)
@click.option(
    "--on-nan",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    help="What to do at a sample that is not finite.",
)
@location_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@debug_option
def stream(
    run: Path,
    file: Path,
    every: int,
    reset: int | None,
    rate: int | None,
    on_nan: str,
    location: DataLocation,
    as_json: bool,
) -> None:
    """Class probabilities by the network of RUN while the sound FILE comes in.

    FILE is a sound file, or - for 16-bit little-endian mono PCM or WAV on stdin. RUN must be a
    unidirectional network that was trained on sounds, and its training data must be present.
    """
    if rate is not None and file != STDIN:
        raise click.UsageError("--rate is for raw PCM on stdin: leave it out, a file has its rate")
    config, model = lastax.training.load_run(run)
    cell = lastax.streaming(model)
    with err.status(f"opening {config.data.name}"):
        features = _features(run, config, location)
    seconds = every / 1000
    if file == STDIN:
        wanted = features.rate if rate is None else rate
        sound = lastax.data.read_pcm(sys.stdin.buffer, rate=wanted, seconds=seconds)
        if rate not in (None, sound.rate):
            raise DataError(f"--rate {rate}: the WAV stream has {sound.rate} Hz; leave it out")
    else:
        sound = lastax.data.open_sound(file, seconds=seconds)
    shown = _Shown(config.labels, as_json)
    try:
        with shown:
            summary = lastax.data.stream_sound(
                cell,
                features,
                sound,
                every=seconds,
                reset=None if reset is None else reset / 1000,
                on_prediction=shown.update,
                on_nan=shown.warn if on_nan == "continue" else None,
            )
        shown.end(run, summary)
    except BrokenPipeError:
        # The reader, for example `head`, has what it wants. Python would complain once more when
        # it flushes stdout at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _features(
    run: Path, config: lastax.training.RunConfig, location: DataLocation
) -> lastax.data.StreamFeatures:
    data_set = lastax.data.DATASETS.get(config.data.name)
    # Other data need not be present for this message.
    make = None
    if data_set is None or data_set.kind == "audio":
        make = location.open(config).stream_features
    if make is None:
        raise DataError(
            f"stream reads sounds; {run} was trained on {config.data.name}: name a run on sounds"
        )
    return make()


class _Shown:
    """Predictions as a live line, as lines of text, or as lines of JSON."""

    def __init__(self, labels: tuple[str, ...], as_json: bool) -> None:
        self._labels, self._as_json = labels, as_json
        live = out.is_terminal and not as_json
        self._live = Live(console=out, auto_refresh=False) if live else None

    def __enter__(self) -> None:
        if self._live is not None:
            self._live.start()

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, prediction: lastax.data.StreamPrediction) -> None:
        """Show the prediction after a chunk."""
        ranked = self._ranked(prediction.probabilities.tolist())
        if self._as_json:
            name, probability = ranked[0]
            emit(
                {
                    "seconds": round(prediction.seconds, 6),
                    "class": name,
                    "probability": probability,
                    "probabilities": self._by_class(prediction.probabilities.tolist()),
                    "latency_ms": 1000 * prediction.latency,
                }
            )
            return
        chances = "  ".join(f"{name} {percent(chance)}" for name, chance in ranked[:SHOWN])
        line = f"{prediction.seconds:8.2f} s  {chances}"
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        else:
            click.echo(line)

    def warn(self, message: str) -> None:
        """Report a problem that does not end the stream."""
        err.print(f"lastax: {message}")

    def end(self, run: Path, summary: lastax.data.StreamSummary) -> None:
        """Show the final class and the measurements."""
        name, probability = self._ranked(summary.probabilities.tolist())[0]
        times = [1000 * seconds for seconds in summary.latencies]
        if self._as_json:
            emit(
                {
                    "final": True,
                    "run": str(run),
                    "class": name,
                    "probability": probability,
                    "probabilities": self._by_class(summary.probabilities.tolist()),
                    "seconds": summary.seconds,
                    "steps": summary.steps,
                    "steps_per_chunk": summary.steps_per_chunk,
                    "chunks": summary.chunks,
                    "real_time_factor": summary.real_time_factor,
                    "latency_ms": dict(zip(("50", "95", "99"), times, strict=True)),
                    "lookahead_ms": 1000 * summary.lookahead,
                    "state_bytes": summary.state_bytes,
                    "buffer_bytes": summary.buffer_bytes,
                    "not_finite": summary.not_finite,
                }
            )
            return
        steps = f"{summary.steps_per_chunk} step{'s' if summary.steps_per_chunk > 1 else ''}"
        half, most, nearly_all = (f"{milliseconds:.2f} ms" for milliseconds in times)
        lines = [
            f"final class: {name}  {percent(probability)}, after {summary.seconds:.2f} s of sound",
            f"real-time factor: {summary.real_time_factor:.4f}",
            f"latency per chunk of {steps}: {half} (50 %), {most} (95 %), {nearly_all} (99 %)",
            f"lookahead of the features: {1000 * summary.lookahead:.1f} ms",
            f"state: {summary.state_bytes:,} bytes; buffers: {summary.buffer_bytes:,} bytes",
        ]
        if summary.not_finite:
            lines.append(f"samples that were not finite: {summary.not_finite:,}")
        click.echo("\n".join(lines))

    def _by_class(self, probabilities: list[float]) -> dict[str, float]:
        return dict(zip(self._labels, probabilities, strict=True))

    def _ranked(self, probabilities: list[float]) -> list[tuple[str, float]]:
        """Classes and probabilities, the most probable first."""
        return sorted(self._by_class(probabilities).items(), key=lambda item: -item[1])
