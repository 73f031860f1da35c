"""Reading a foreign checkpoint as a network or as layers of lastax."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lastax._errors import RunError
from lastax._settings import check_settings
from lastax.interop._contents import Contents
from lastax.interop._format import Format, LayerFormat
from lastax.interop._formats import FORMATS
from lastax.interop._open import open_contents
from lastax.interop._options import LAYER_OPTIONS, ImportOptions
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.interop._trees import choose_path, model_names, without_averages
from lastax.nn._layer import Layer
from lastax.nn._normalization import BatchNorm
from lastax.nn._s5 import S5
from lastax.surgery._layers import find_layers


@dataclasses.dataclass(frozen=True)
class Imported:
    """A foreign model.

    Attributes:
        file: the file or folder.
        prefix: path of the model in the file, as it was passed.
        model: a `Classifier` or `Retrieval` where lastax has the whole network; otherwise the
            layers by their paths in the file, or the layer if there is only one.
        format: name of the format.
        options: settings that the file does not contain, as they were passed or assumed.
        notes: what was assumed, and what the user should know. One sentence each.
        values: plain values in the file, such as its accuracy, by name.
        contents: everything in the file, for `write(..., like=...)`.
        names: the names in the file of the arrays of the model, by the names that the format has.
        path: path of the network, or None if the layers were read alone.
        layer_paths: path of each layer, in the order of `find_layers(model)`.
    """

    file: Path
    prefix: str | None
    model: Any
    format: str
    options: ImportOptions
    notes: tuple[str, ...]
    values: Mapping[str, Any]
    contents: Contents
    names: Mapping[str, str]
    path: str | None
    layer_paths: tuple[str, ...]


def read(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    prefix: str | None = None,
    template: Any = None,
    **options: Any,
) -> Imported:
    """Read a model that somebody else's code has stored. Nothing in the file is executed.

    Args:
        path: a file of `torch.save`, safetensors, NumPy (`.npz`), Flax (msgpack) or Equinox, a
            pickle of arrays, or a folder of Orbax.
        format: name of the format, one of `FORMATS`; None recognizes it by the names of arrays.
        prefix: path of the model in the file, such as `ema_params`; None searches for it.
        template: for Equinox files, the tree that was saved or one of the same structure. Models
            of discretax need none.
        **options: settings that the file does not contain, from `ImportOptions`. Each format
            accepts those in `FORMATS[format].options`, which also has the defaults.

    Returns:
        The model, and what was assumed.

    Raises:
        RunError: if the file cannot be read, or its model is unknown, damaged or not representable.
        ValueError: if a format or an option is unknown.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"read: unknown format {format!r}; known are {', '.join(FORMATS)}")
    contents = open_contents(path, template)
    try:
        names = model_names(contents.arrays, prefix)
        arrays = {short: contents.arrays[name] for short, name in names.items()}
        found, network = _recognize(arrays, format)
        chosen = _options(found, options)
        if "conj_sym" in found.options and chosen.conj_sym is None:
            imaginary = [a for name, a in arrays.items() if name.rsplit(".")[-1] == "Lambda_im"]
            chosen = dataclasses.replace(chosen, conj_sym=most_on_one_side(imaginary))
        reading = _Reading(found, chosen, arrays)
        imported = reading.imported(contents, names, network, options)
        return dataclasses.replace(imported, file=Path(path), prefix=prefix)
    except RunError as error:
        raise RunError(f"read: {path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Reading:
    format: Format
    options: ImportOptions
    arrays: Mapping[str, np.ndarray]

    def imported(
        self,
        contents: Contents,
        names: Mapping[str, str],
        network: bool,
        given: Mapping[str, Any],
    ) -> Imported:
        notes: list[str] = []
        model: Any = None
        path: str | None = None
        paths = self.layer_paths()
        if network and self.format.read_network is not None:
            path = choose_path(self.network_names().values())
            try:
                model = self.format.read_network(Scope(self.arrays, path), self.options)
                inside = [name for name, root in self.network_names().items() if root == path]
                paths = [one for one in paths if any(n.startswith(f"{one}.") for n in inside)]
            except NotRepresentableError as error:
                notes.append(f"only the layers were read, because of the network: {error}")
                path = None
        if model is None:
            paths = without_averages(paths)
            layers = {one or "layer": self.layer(one) for one in paths}
            model = layers if len(layers) > 1 else next(iter(layers.values()))
            # JAX sorts the keys of dictionaries.
            paths = sorted(paths)
        if len(paths) != len(find_layers(model)):
            raise RunError(f"the network has {len(find_layers(model))} layers, the file {paths}")
        notes += self.assumed(given, model, alone=path is None)
        notes += _unstable(model)
        if self.options.step_rescale != 1:
            notes.append(f"the step sizes were multiplied by {self.options.step_rescale}")
        if self.format.name == "jax-rtrl":
            notes.append("the activation of the layer (silu by default) is not part of it")
        if self.format.name == "s5-pytorch":
            notes.append("parameters do not show the options liquid and degree: it has neither")
        if any(array.dtype.itemsize == 2 and array.dtype.kind != "i" for array in self._floats()):
            notes.append("numbers of 16 bits were converted to float32")
        return Imported(
            file=Path(),
            prefix=None,
            model=model,
            format=self.format.name,
            options=self.options,
            notes=tuple(notes),
            values=contents.values,
            contents=contents,
            names=names,
            path=path,
            layer_paths=tuple(_natural(paths) if path is not None else paths),
        )

    def network_names(self) -> dict[str, str]:
        """The path of the network by names of arrays, one name in each layer."""
        matches = ((name, re.match(self.format.network or "$^", name)) for name in self.arrays)
        return {name: match[1].rstrip(".") for name, match in matches if match}

    def layer_paths(self) -> list[str]:
        kinds = self.format.layers
        return sorted({path for kind in kinds for path in layer_paths(kind, self.arrays)})

    def layer(self, path: str) -> Layer:
        scope = Scope(self.arrays, path)
        for kind in self.format.layers:
            if all(name in scope for name in kind.names):
                try:
                    return kind.read(scope, self.options)
                except NotRepresentableError as error:
                    raise RunError(f"{path or 'the layer'}: {error}") from error
        raise RunError(f"there is no layer at {path}")

    def assumed(self, given: Mapping[str, Any], model: Any, *, alone: bool) -> list[str]:
        """A sentence on the options that the user did not pass."""
        has_s5 = any(isinstance(layer, S5) for layer in find_layers(model))
        values = {}
        for name in self.format.options:
            value = getattr(self.options, name)
            relevant = has_s5 if name in LAYER_OPTIONS else not alone
            if name == "norm_momentum":
                relevant = relevant and any(
                    isinstance(block.norm, BatchNorm) for block in model.encoder.blocks
                )
            if name not in given and relevant and value is not None:
                values[name] = value
        if not values:
            return []
        listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return [f"not in the file, and assumed: {listed}"]

    def _floats(self) -> list[np.ndarray]:
        return [array for array in self.arrays.values() if array.dtype.kind in "fV"]


def layer_paths(kind: LayerFormat, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The paths at which all names of a kind of layer are."""
    first = kind.names[0]
    ends = [name for name in arrays if name == first or name.endswith("." + first)]
    paths = [name[: len(name) - len(first)].rstrip(".") for name in ends]
    return [
        path
        for path in paths
        if all((f"{path}.{name}" if path else name) in arrays for name in kind.names)
    ]


def _recognize(arrays: Mapping[str, np.ndarray], name: str | None) -> tuple[Format, bool]:
    """The format, and whether the arrays are those of a network."""
    candidates = list(FORMATS.values()) if name is None else [FORMATS[name]]
    for candidate in candidates:
        if candidate.network and any(re.match(candidate.network, array) for array in arrays):
            return candidate, True
    for candidate in candidates:
        if any(layer_paths(kind, arrays) for kind in candidate.layers):
            return candidate, False
    raise RunError(_unknown(arrays, candidates))


def _unknown(arrays: Mapping[str, np.ndarray], candidates: list[Format]) -> str:
    """Why nothing was recognized: the layer that is nearest, or a list of what there is."""
    best: tuple[float, str, str, list[str]] = (0.5, "", "", [])
    for candidate in candidates:
        for kind in candidate.layers:
            for name in arrays:
                for known in kind.names:
                    if name != known and not name.endswith("." + known):
                        continue
                    path = name[: len(name) - len(known)]
                    missing = [other for other in kind.names if path + other not in arrays]
                    share = 1 - len(missing) / len(kind.names)
                    if share > best[0]:
                        best = (share, candidate.name, path, missing)
    _, name, path, missing = best
    if missing:
        lacking = ", ".join(path + other for other in missing)
        beside = [other for other in arrays if other.startswith(path)]
        near = difflib.get_close_matches(path + missing[0], beside, n=3, cutoff=0.3)
        return (
            f"{lacking} is missing for a layer of {name}; nearest names in the file: "
            f"{', '.join(near) or ', '.join(beside[:3])}"
        )
    if any(".inv_A_real" in f".{array}" or array.endswith("kernel.B") for array in arrays):
        return (
            "the kernels of S4 with low-rank terms or trained B (models/s4/s4.py of state-spaces) "
            "are not supported, only the standalone S4D"
        )
    if not arrays:
        return "there are no arrays in it"
    listed = ", ".join(list(arrays)[:6]) + (", ..." if len(arrays) > 6 else "")
    return f"no layer of {', '.join(c.name for c in candidates)} among its arrays: {listed}"


def _options(found: Format, given: Mapping[str, Any]) -> ImportOptions:
    unknown = given.keys() - found.options.keys()
    if unknown:
        raise ValueError(
            f"read: the format {found.name} has no option {', '.join(sorted(unknown))}; it has "
            + (", ".join(found.options) or "none")
        )
    options = ImportOptions(**{**found.options, **given})
    try:
        check_settings(options)
    except ValueError as error:
        raise ValueError(f"read: {error}") from error
    if options.step_rescale <= 0:
        raise ValueError(f"read: step_rescale must be positive; got {options.step_rescale}")
    return options


def most_on_one_side(imaginary: Iterable[Any]) -> bool:
    """Whether most eigenvalues of S5 layers are on one side, as if conjugates are not stored.

    Where they are stored, about half of all eigenvalues are on each side.

    Args:
        imaginary: the imaginary parts of the eigenvalues, one array per layer.
    """
    parts = [np.asarray(array, float).ravel() for array in imaginary]
    signs = np.sign(np.concatenate([np.zeros(1), *parts]))
    positive, negative = (int(np.count_nonzero(signs == sign)) for sign in (1, -1))
    return 8 * min(positive, negative) <= 3 * (positive + negative)


def _unstable(model: Any) -> list[str]:
    notes = []
    for number, layer in enumerate(find_layers(model)):
        # The other layers, and clipped eigenvalues, are stable by construction. With both rules
        # |lam| < 1 if and only if the real part is negative.
        if not isinstance(layer, S5) or layer.clip_eigenvalues:
            continue
        count = int(np.count_nonzero(np.asarray(layer.Lambda_re) >= 0))
        if count:
            notes.append(
                f"layer {number} has {count} states with |lam| >= 1: they have no finite norm and "
                "are never removed"
            )
    return notes


def _natural(paths: list[str]) -> list[str]:
    """Sort by the numbers in the paths, as the layers of a network are."""
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", path)])
