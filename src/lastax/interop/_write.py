"""Writing models under the names of the foreign code."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy

from lastax._errors import RunError
from lastax.interop._contents import nested
from lastax.interop._format import Arrays, Format
from lastax.interop._formats import FORMATS
from lastax.interop._other_files import write_msgpack
from lastax.interop._padding import is_ragged, state_size, with_size
from lastax.interop._read import Imported
from lastax.interop._scope import NotRepresentableError
from lastax.interop._torch_files import write_torch
from lastax.interop._trees import without_averages
from lastax.interop._unstored import unstored_settings
from lastax.nn._lru import LRU
from lastax.nn._networks import Classifier, Retrieval
from lastax.nn._s4d import S4D
from lastax.nn._s5 import S5
from lastax.serialization._files import write_atomically
from lastax.surgery._layers import find_layers, replace_layers

CONTAINERS = ("pth", "msgpack", "safetensors", "npz", "eqx")
Pad = Literal["layer", "network", "refuse"]
_KINDS = {"torch": "pth", "equinox": "eqx", "pickle": "msgpack", "orbax": "msgpack"}
# Arrays that the reader fills in where a file has none.
_IMPLIED = {"bias": 0, "scale": 1, "weight": 1}


def write(
    path: str | Path,
    model: Any,
    *,
    format: str | None = None,  # noqa: A002
    like: Imported | None = None,
    pad: Pad = "layer",
) -> tuple[str, ...]:
    """Write a model as a file that the foreign code loads.

    Args:
        path: the file; replaced if it exists.
        model: a network, one layer, or layers by path, as `read` returns them, pruned or not.
        format: name of the format and kind of file, such as `s4-pth`, `s5-msgpack`, or `npz` for
            the names that fit the layers. By default those of `like`, or of the layers.
        like: the model as it was read. Everything else in its file is written again: other parts
            of the network, plain values, and the dtype of each array.
        pad: where S4D channels have different numbers of states, `layer` fills their rows with
            states of `C = 0`, and `refuse` raises an error. `network` also gives all layers the
            same number of states, since most constructors take only one.

    Returns:
        What the user should know about the file, one sentence each.

    Raises:
        RunError: if the format cannot express the model, or the file cannot be written.
        ValueError: if the format is unknown.
    """
    path = Path(path)
    chosen, container = _format(format, model, like)
    try:
        model, notes = _padded(model, pad)
        if like is not None and like.format == chosen.name:
            replaced = _replaced(model, chosen, like)
            content = _content_like(path, replaced, container, like)
            notes += _losses(replaced, container, like)
        else:
            content = _content(path, model, chosen, container)
        notes += _settings_note(model, chosen, like)
    except NotRepresentableError as error:
        raise RunError(f"write: {chosen.name} cannot express the model: {error}") from error
    write_atomically(path, content)
    return tuple(notes)


def _format(name: str | None, model: Any, like: Imported | None) -> tuple[Format, str]:
    """The format and the kind of file."""
    default = like.format if like is not None else _naming(model)
    container = "" if like is None else _KINDS.get(like.contents.container, "")
    container = container or ("" if like is None else like.contents.container)
    if name is None:
        chosen = FORMATS[default]
        return chosen, container or chosen.container
    if name in CONTAINERS:
        return FORMATS[default], name
    for chosen in FORMATS.values():
        if name == chosen.name:
            return chosen, container or chosen.container
        if name.removeprefix(chosen.name + "-") in CONTAINERS:
            return chosen, name.removeprefix(chosen.name + "-")
    raise ValueError(
        f"write: unknown format {name!r}; pass one of {', '.join(FORMATS)}, one of "
        f"{', '.join(CONTAINERS)}, or both, such as s4-pth"
    )


def _naming(model: Any) -> str:
    for kind, name in ((S4D, "s4"), (S5, "s5"), (LRU, "minimal-lru")):
        if isinstance(find_layers(model)[0], kind):
            return name
    raise RunError(f"write: no format has layers of {type(find_layers(model)[0]).__name__}")


def _padded(model: Any, pad: Pad) -> tuple[Any, list[str]]:
    layers: list[Any] = [*find_layers(model)]
    notes = []
    ragged = [number for number, layer in enumerate(layers) if is_ragged(layer)]
    if ragged and pad == "refuse":
        raise RunError(
            f"write: the channels of the layers {ragged} have different numbers of states, which "
            "one array cannot hold; pass pad='layer' to fill them with zeros"
        )
    sizes = [state_size(layer) for layer in layers]
    if ragged:
        added = sum(sizes[n] * len(layers[n].counts) - sum(layers[n].counts) for n in ragged)
        notes.append(
            f"{added} states of C = 0 were added, because channels have different numbers of states"
        )
    if len(set(sizes)) > 1 and pad == "network":
        filled = [with_size(layer, max(sizes)) for layer in layers]
        notes.append(f"all layers were filled with states of C = 0 to {max(sizes)} states")
        return replace_layers(model, filled), notes
    if len(set(sizes)) > 1:
        notes.append(f"the layers have different sizes: {', '.join(map(str, sizes))} states")
    return model, notes


def _content(path: Path, model: Any, chosen: Format, container: str) -> bytes:
    if isinstance(model, Classifier | Retrieval):
        if chosen.write_network is None:
            raise NotRepresentableError("the format has single layers only")
        arrays = chosen.write_network(model, {})
    else:
        arrays = {}
        for name, layer in model.items() if isinstance(model, dict) else [("", model)]:
            start = f"{name}." if name not in ("", "layer") else ""
            written = _write_layer(chosen, layer, {})
            arrays |= {start + key: array for key, array in written.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    if container in ("safetensors", "npz"):
        keys = {
            name: "/".join(map(str, _keys(chosen, name))) if chosen.flax else name
            for name in arrays
        }
        return _flat({keys[name]: array for name, array in arrays.items()}, container)
    tree = nested({_keys(chosen, name): array for name, array in arrays.items()})
    return _nested(path, tree, container)


def _replaced(model: Any, chosen: Format, like: Imported) -> Arrays:
    """The arrays of the model, by their names in the original file."""
    original = {short: like.contents.arrays[name] for short, name in like.names.items()}
    layers = find_layers(model)
    if len(layers) != len(like.layer_paths):
        raise RunError(
            f"write: the numbers of layers differ: {len(layers)} in the model, "
            f"{len(like.layer_paths)} in the file"
        )
    if like.path is not None:
        if chosen.write_network is None:
            raise NotRepresentableError("the format has single layers only")
        start = f"{like.path}." if like.path else ""
        inside = {
            name.removeprefix(start): array
            for name, array in original.items()
            if name.startswith(start)
        }
        written = chosen.write_network(model, inside)
        arrays = {start + name: array for name, array in written.items()}
    else:
        arrays = {}
        for layer_path, layer in zip(like.layer_paths, layers, strict=True):
            start = f"{layer_path}." if layer_path else ""
            inside = {
                name.removeprefix(start): array
                for name, array in original.items()
                if name.startswith(start)
            }
            written = _write_layer(chosen, layer, inside)
            arrays |= {start + name: array for name, array in written.items()}
    replaced: Arrays = {}
    for name, array in arrays.items():
        if name in like.names:
            old = original[name]
            replaced[like.names[name]] = _as_before(np.asarray(array), old)
        elif np.any(array != _IMPLIED.get(name.rsplit(".")[-1], np.nan)):
            raise NotRepresentableError(f"the original file has no {name}")
    return replaced


def _content_like(path: Path, replaced: Arrays, container: str, like: Imported) -> bytes:
    everything: dict[str, Any] = dict(like.contents.arrays) | replaced
    if container == "eqx" and like.contents.container == "equinox":
        return _records(list(everything.values()))
    paths = like.contents.paths
    if container in ("safetensors", "npz"):
        separator = "." if like.contents.container == "torch" else "/"
        flat = {separator.join(map(str, paths[name])): array for name, array in everything.items()}
        return _flat(flat, container)
    tree = nested({paths[name]: value for name, value in (everything | dict(like.values)).items()})
    return _nested(path, tree, container)


def _settings_note(model: Any, chosen: Format, like: Imported | None) -> list[str]:
    """The settings that the file does not contain, except those of the file it is written like."""
    original = like.model if like is not None and like.format == chosen.name else None
    unstored = unstored_settings(model, chosen, original)
    if not unstored:
        return []
    listed = ", ".join(f"{name}={value!r}" for name, value in unstored.items())
    return [
        f"the file does not contain {listed}: set this in the code that loads it, and pass it to "
        "lastax.interop.read"
    ]


def _losses(replaced: Arrays, container: str, like: Imported) -> list[str]:
    """What the new file lacks, and what no longer fits in it."""
    notes = []
    if like.values and container in ("safetensors", "npz"):
        notes.append(
            f"{container} holds only arrays, so {len(like.values)} other values are left out, such "
            f"as {next(iter(like.values))}"
        )
    arrays = like.contents.arrays
    resized = {
        arrays[name].shape for name in replaced if arrays[name].shape != replaced[name].shape
    }
    # Arrays of optimizers are not among the names of the model, averages of its weights are.
    current = set(like.names.values()) & set(without_averages(arrays))
    copies = arrays.keys() - replaced.keys() - current
    old = sorted(name for name in copies if arrays[name].shape in resized)
    if old:
        notes.append(
            f"{len(old)} arrays of optimizers or copies of the model, such as {old[0]}, have their "
            "old sizes; pass only the pruned model to the foreign code"
        )
    return notes


def _write_layer(chosen: Format, layer: Any, like: Mapping[str, np.ndarray]) -> Arrays:
    reasons = []
    for kind in chosen.layers:
        if like and not all(name in like for name in kind.names):
            continue
        try:
            return kind.write(layer, like)
        except NotRepresentableError as error:
            reasons.append(str(error))
    raise NotRepresentableError("; ".join(reasons) or "its layer is of another kind")


def _as_before(array: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The array with the dtype of the original, and as real pairs or a matrix if it was one."""
    if np.iscomplexobj(array) and not np.iscomplexobj(old):
        array = np.stack([array.real, array.imag], axis=-1)
    return array.astype(old.dtype.newbyteorder("="))


def _keys(chosen: Format, name: str) -> tuple[str | int, ...]:
    """The keys of an array in the nested tree of a file."""
    if not chosen.flax:
        return (*chosen.root, name)
    parts = name.split(".")
    statistics = parts[-1] in ("mean", "var")
    return ("batch_stats" if statistics else "params", *parts)


def _flat(arrays: Arrays, container: str) -> bytes:
    contiguous = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    if container == "safetensors":
        content: bytes = safetensors.numpy.save(contiguous)
        return content
    file = io.BytesIO()
    np.savez(file, **contiguous)  # type: ignore[arg-type]
    return file.getvalue()


def _nested(path: Path, tree: Any, container: str) -> bytes:
    try:
        if container == "pth":
            return write_torch(path, tree)
        if container == "msgpack":
            return write_msgpack(tree)
    except TypeError as error:
        raise RunError(f"write: {error}") from error
    raise RunError("write: an Equinox file can only be written like= one that was read")


def _records(arrays: list[np.ndarray]) -> bytes:
    file = io.BytesIO()
    for array in arrays:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()
