"""A run on disk: what it was made with, its best weights, and how it came about.

`config.json` has everything that is needed to build the model, the states of each layer included;
`model.safetensors` has the best weights under their names in the model. A pruned run is a run like
any other.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool

from lastax._errors import RunError
from lastax._files import write_atomically
from lastax._networks import Network
from lastax._settings import check_settings, is_a
from lastax._surgery import find_layers, keep_states, state_counts, with_full_D
from lastax._tasks import DataConfig, ModelConfig, TrainingConfig, build_network
from lastax._typing import PRNGKeyArray

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
_RECORDED_PACKAGES = ("lastax", "jax", "jaxlib", "equinox", "optax", "grain", "numpy")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    return {name: metadata.version(name) for name in _RECORDED_PACKAGES}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that a run was made with.

    `data`, `labels` and `vocabulary` say what the network's inputs and outputs mean, so that it
    can be used on the same data again: names of the classes by label, and of tokens by id. `size`
    names the preset that the settings began from. `states` counts the states of each layer;
    `kept` says which of the untrained network's they are (`packed_masks`), None: all, or the first.
    `full_D` is whether each layer's `D` is a whole matrix: a refit may make it one.
    `devices` shared each batch: another number rounds differently. `parent`, a path from the run's
    own folder, and `pruning` tell where a pruned run comes from and what was done to it.
    """

    task: str
    seed: int
    data: DataConfig
    input_size: int
    classes: int
    length: int
    model: ModelConfig
    training: TrainingConfig
    states: tuple[int, ...]
    kept: tuple[str, ...] | None = None
    full_D: bool = False
    labels: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    size: str | None = None
    devices: int = 1
    parent: str | None = None
    pruning: Mapping[str, Any] | None = None
    git_revision: str | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=installed_versions)


def build_from_config(config: RunConfig) -> Network:
    """A network of the recorded shape, with the values that training started from."""
    network = build_network(
        config.model,
        input_size=config.input_size,
        classes=config.classes,
        key=jax.random.key(config.seed),
    )
    network = keep_states(network, kept_masks(config, state_counts(network)))
    return with_full_D(network) if config.full_D else network


@functools.cache
def untrained_counts(model: ModelConfig) -> tuple[int, ...]:
    """How many states each layer has before anything is removed."""
    counts: list[int] = []

    def draw(key: PRNGKeyArray) -> None:
        counts.extend(state_counts(build_network(model, input_size=1, classes=1, key=key)))

    # Shapes are enough.
    jax.eval_shape(draw, jax.random.key(0))
    return tuple(counts)


def kept_masks(config: RunConfig, counts: Sequence[int]) -> list[Bool[np.ndarray, " _"]]:
    """Which states of an untrained network, of `counts` states a layer, a run still has.

    Raises:
        ValueError: if what is recorded does not fit.
    """
    if config.kept is None:
        pairs = zip(config.states, counts, strict=True)
        return [np.arange(count) < states for states, count in pairs]
    masks = []
    for layer, states, count in zip(config.kept, config.states, counts, strict=True):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(layer), np.uint8))
        mask = bits[:count].astype(bool)
        if len(mask) != count or bits.sum() != mask.sum() or mask.sum() != states:
            raise ValueError("kept is not of the states that are counted")
        masks.append(mask)
    return masks


def packed_masks(masks: Sequence[Bool[np.ndarray, " _"]]) -> tuple[str, ...]:
    """Masks as hexadecimal numbers, the first state in the highest bit."""
    return tuple(np.packbits(mask).tobytes().hex() for mask in masks)


def keep_in_config(config: RunConfig, keep: Sequence[Bool[np.ndarray, " _"]]) -> RunConfig:
    """The configuration of a run of whose states those stay for which `keep` holds."""
    masks = kept_masks(config, untrained_counts(config.model))
    for mask, kept in zip(masks, keep, strict=True):
        mask[mask] = kept
    states = tuple(int(mask.sum()) for mask in masks)
    return dataclasses.replace(config, states=states, kept=packed_masks(masks))


def save_config(folder: Path, config: RunConfig) -> None:
    """Write `config.json`."""
    text = json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"
    write_atomically(folder / CONFIG_FILE, text.encode())


def load_config(folder: Path) -> RunConfig:
    """Read `config.json`.

    Raises:
        RunError: if there is no run, or its configuration cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise RunError(f"no run at {folder}: there is no {CONFIG_FILE}; train one or name another")
    try:
        fields = json.loads(path.read_text())
        fields["data"] = DataConfig(**fields["data"])
        fields["model"] = ModelConfig(**fields["model"])
        fields["training"] = TrainingConfig(**fields["training"])
        for name in ("states", "labels", "vocabulary", "kept"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        config = RunConfig(**fields)
        _check_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}): restore it, or train anew") from error
    return config


def _check_config(config: RunConfig) -> None:
    for part in (config.data, config.model, config.training):
        check_settings(part)
    if not isinstance(config.task, str) or not isinstance(config.versions, dict):
        raise ValueError("task must be a name and versions a table")
    for name in ("seed", "input_size", "classes", "length", "devices"):
        value = getattr(config, name)
        if not is_a(value, int) or value < (0 if name == "seed" else 1):
            raise ValueError(f"{name} is {value!r}")
    names = (config.labels, config.vocabulary)
    if not all(isinstance(name, str) for listed in names for name in listed):
        raise ValueError("labels and vocabulary must be lists of names")
    if len(config.labels) not in (0, config.classes):
        raise ValueError(f"{len(config.labels)} labels, for {config.classes} classes")
    if len(config.vocabulary) not in (0, config.input_size):
        raise ValueError(f"{len(config.vocabulary)} tokens, for an input of {config.input_size}")
    if not all(is_a(count, int) for count in config.states):
        raise ValueError(f"states are {list(config.states)}")
    largest = untrained_counts(config.model)
    fits = len(config.states) == len(largest) and all(
        1 <= count <= most for count, most in zip(config.states, largest, strict=True)
    )
    if not fits:
        raise ValueError(f"states are {list(config.states)}, for layers of up to {list(largest)}")
    kept_masks(config, largest)
    if not is_a(config.full_D, bool):
        raise ValueError(f"full_D is {config.full_D!r}")


def named_arrays(tree: Any) -> dict[str, Any]:
    """The arrays of a PyTree, or their shapes, under names like `encoder.blocks.0.layer.B`."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, _is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def with_named_arrays(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """`tree`, which may hold shapes alone, with the array of the same name in each place.

    Each keeps the precision that it comes in.

    Raises:
        ValueError: if a name is missing or too many, or a shape or kind of number differs.
    """
    expected = named_arrays(tree)
    if expected.keys() != arrays.keys():
        missing, extra = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
        raise ValueError(f"arrays missing: {_few(missing)}; not expected: {_few(extra)}")
    for name, old in expected.items():
        new = arrays[name]
        if (old.shape, old.dtype.kind) != (new.shape, new.dtype.kind):
            raise ValueError(
                f"{name} should be {old.dtype}{list(old.shape)}, is {new.dtype}{list(new.shape)}"
            )
    replaced, static = eqx.partition(tree, _is_array)
    treedef = jax.tree.structure(replaced)
    # Through the host: what was read for one device may be needed on several.
    values = [jax.numpy.asarray(np.asarray(arrays[name])) for name in expected]
    return eqx.combine(jax.tree.unflatten(treedef, values), static)


def save_model(folder: Path, model: Network) -> None:
    """Write `model.safetensors`."""
    arrays = {name: np.asarray(value) for name, value in named_arrays(model).items()}
    write_atomically(folder / MODEL_FILE, safetensors.numpy.save(arrays))


def load_run(folder: Path) -> tuple[RunConfig, Network]:
    """A run's configuration and its best model.

    Raises:
        RunError: if the run is missing, unfinished or damaged.
    """
    config = load_config(folder)
    path = folder / MODEL_FILE
    if not path.is_file():
        diverged = divergence(folder)
        if diverged is not None:
            raise RunError(f"run {folder} has no model: {diverged}")
        raise RunError(
            f"run {folder} has no {MODEL_FILE}: it has not finished; resume its training "
            f"(lastax train --task {config.task} --out {folder} --resume)"
        )
    try:
        # Shapes are enough: what would be drawn is replaced.
        network = eqx.filter_eval_shape(build_from_config, config)
        return config, with_named_arrays(network, safetensors.numpy.load_file(path))
    except (ValueError, OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is damaged ({error}): restore it, or train anew") from error


def find_runs(root: Path, *, finished: bool = True) -> list[Path]:
    """Trained runs below `root`, the newest last; without those that pruning wrote.

    With `finished=False` those that can be resumed: neither finished nor diverged. Runs that
    cannot be read are passed over.
    """
    found = []
    for path in root.rglob(CONFIG_FILE):
        folder = path.parent
        hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
        ended = [(folder / name).is_file() for name in (MODEL_FILE, RESULTS_FILE)]
        if hidden or (not ended[0] if finished else any(ended)):
            continue
        with contextlib.suppress(RunError):
            if load_config(folder).parent is None:
                found.append((path.stat().st_mtime, folder))
    return [folder for _, folder in sorted(found)]


def layer_sizes(model: Network) -> list[tuple[int, int]]:
    """Number of parameters and of bytes that each layer holds."""
    sizes = []
    for layer in find_layers(model):
        arrays = jax.tree.leaves(eqx.filter(layer, eqx.is_array))
        sizes.append((sum(a.size for a in arrays), sum(a.nbytes for a in arrays)))
    return sizes


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _few(names: Iterable[str]) -> str:
    listed = sorted(names)
    return (
        ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "") or "-"
    )


def load_results(folder: Path) -> dict[str, Any]:
    """Read `results.json`.

    Raises:
        RunError: if it is missing or damaged.
    """
    try:
        return json.loads((folder / RESULTS_FILE).read_text())
    except (ValueError, OSError) as error:
        raise RunError(f"{folder / RESULTS_FILE} is missing or damaged: {error}") from error


def save_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `results.json`: what the run reached, or under "diverged" why it ended early."""
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / RESULTS_FILE, text.encode())


def divergence(folder: Path) -> str | None:
    """How the training of a run broke off, None if it did not."""
    if not (folder / RESULTS_FILE).is_file():
        return None
    return load_results(folder).get("diverged")
