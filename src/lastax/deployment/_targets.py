"""The runtimes that `lastax export --to` writes for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from lastax.deployment._onnx import to_onnx
from lastax.deployment._stablehlo import to_stablehlo
from lastax.nn._networks import Network
from lastax.nn._streaming import streaming

# Takes a network, the file to write, and the names of the classes.
Exporter = Callable[[Network, Path, Sequence[str]], None]


def _onnx(model: Network, file: Path, classes: Sequence[str]) -> None:
    to_onnx(model, file, classes=classes)


def _onnx_sequence(model: Network, file: Path, classes: Sequence[str]) -> None:
    to_onnx(model, file, whole_sequence=True, classes=classes)


def _stablehlo(model: Network, file: Path, classes: Sequence[str]) -> None:
    del classes
    to_stablehlo(model, file)


def _stablehlo_step(model: Network, file: Path, classes: Sequence[str]) -> None:
    del classes
    to_stablehlo(streaming(model), file)


TARGETS: Mapping[str, Exporter] = MappingProxyType(
    {
        "onnx": _onnx,
        "onnx-sequence": _onnx_sequence,
        "stablehlo": _stablehlo,
        "stablehlo-step": _stablehlo_step,
    }
)
