"""The configuration of a run: everything needed to build its network."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from lastax._errors import RunError
from lastax._settings import check_settings, has_type
from lastax._typing import PRNGKeyArray, Record
from lastax.nn._configuration import ModelConfig, build_network
from lastax.nn._networks import Network
from lastax.serialization._files import write_atomically
from lastax.surgery._layers import state_counts
from lastax.surgery._states import keep_states, with_dense_feedthrough
from lastax.training._configuration import DataConfig, TrainingConfig

CONFIG_FILE = "config.json"

_RECORDED_PACKAGES = ("lastax", "jax", "jaxlib", "equinox", "optax", "grain", "numpy")


def installed_versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    versions = {}
    for name in _RECORDED_PACKAGES:
        # Grain may be missing: the library alone does not need it.
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that a run was made with.

    Attributes:
        task: name of the task.
        seed: seed of everything random.
        data: how the data were read.
        input_size: number of values per step; for tokens, size of the vocabulary.
        classes: number of classes.
        length: number of steps per record.
        model: settings of the network before pruning.
        training: settings of the training.
        states: number of states per layer.
        kept: which states of the unpruned network they are (`packed_masks`); None if all of them,
            or the first ones.
        dense_feedthrough: whether the `D` of each layer is a dense matrix.
        labels: names of the classes.
        vocabulary: names of the tokens; empty if records are not tokens.
        size: name of the preset that the settings started from.
        devices: number of devices that shared each batch. Another number rounds differently.
        parent: for a pruned run, path of the original run, relative to the folder of this run.
        pruning: for a pruned run, the options of its pruning.
        start: path of the run whose weights training started from, relative to the folder of this
            run; None if weights were drawn.
        imported: for a run of a foreign checkpoint, its file and the options of reading it.
        git_revision: revision of the code.
        versions: versions of installed packages.
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
    dense_feedthrough: bool = False
    labels: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    size: str | None = None
    devices: int = 1
    parent: str | None = None
    pruning: Mapping[str, Any] | None = None
    start: str | None = None
    imported: Mapping[str, Any] | None = None
    git_revision: str | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=installed_versions)


def build_from_config(config: RunConfig) -> Network:
    """The network of a configuration, with the values that training starts from."""
    network = build_network(
        config.model,
        input_size=config.input_size,
        classes=config.classes,
        key=jax.random.key(config.seed),
        tokens=bool(config.vocabulary),
    )
    network = keep_states(network, kept_masks(config, state_counts(network)))
    return with_dense_feedthrough(network) if config.dense_feedthrough else network


@functools.cache
def untrained_counts(model: ModelConfig) -> tuple[int, ...]:
    """Number of states per layer before pruning."""
    counts: list[int] = []

    def draw(key: PRNGKeyArray) -> None:
        counts.extend(state_counts(build_network(model, input_size=1, classes=1, key=key)))

    # Only shapes are needed.
    jax.eval_shape(draw, jax.random.key(0))
    return tuple(counts)


def kept_masks(config: RunConfig, counts: Sequence[int]) -> list[Bool[np.ndarray, " _"]]:
    """Which states of the unpruned network a run still has.

    Args:
        config: the configuration of the run.
        counts: number of states per layer of the unpruned network.

    Raises:
        ValueError: if the recorded masks do not fit.
    """
    if config.kept is None:
        pairs = zip(config.states, counts, strict=True)
        return [np.arange(count) < states for states, count in pairs]
    masks = []
    for layer, states, count in zip(config.kept, config.states, counts, strict=True):
        mask = unpacked_mask(layer, count)
        if mask.sum() != states:
            raise ValueError("kept does not match states")
        masks.append(mask)
    return masks


def packed_masks(masks: Sequence[Bool[np.ndarray, " _"]]) -> tuple[str, ...]:
    """Masks as hexadecimal numbers, the first state in the highest bit."""
    return tuple(np.packbits(mask).tobytes().hex() for mask in masks)


def unpacked_mask(packed: str, count: int) -> Bool[np.ndarray, " P"]:
    """A mask of `count` states from its hexadecimal number.

    Raises:
        ValueError: if the number is not of such a mask.
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8))
    mask = bits[:count].astype(bool)
    if len(mask) != count or bits.sum() != mask.sum():
        raise ValueError("kept does not match states")
    return mask


def keep_in_config(config: RunConfig, keep: Sequence[Bool[np.ndarray, " _"]]) -> RunConfig:
    """The configuration of a run after only the states in `keep` remain, one mask per layer."""
    masks = kept_masks(config, untrained_counts(config.model))
    for mask, kept in zip(masks, keep, strict=True):
        mask[mask] = kept
    states = tuple(int(mask.sum()) for mask in masks)
    return dataclasses.replace(config, states=states, kept=packed_masks(masks))


def save_config(folder: str | Path, config: RunConfig) -> None:
    """Write `config.json`."""
    text = json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"
    write_atomically(Path(folder) / CONFIG_FILE, text.encode())


def load_config(folder: str | Path) -> RunConfig:
    """Read `config.json`.

    Raises:
        RunError: if there is no run, or its configuration cannot be read.
    """
    path = Path(folder) / CONFIG_FILE
    if Path(folder).is_file():
        raise RunError(
            f"{folder} is a file, not the folder of a run; for a checkpoint of other people's "
            "code, run lastax import first"
        )
    if not path.is_file():
        raise RunError(
            f"no run at {folder}: there is no {CONFIG_FILE}; train one, or name another folder"
        )
    try:
        fields = _migrated(json.loads(path.read_text()))
        fields["data"] = DataConfig(**fields["data"])
        fields["model"] = ModelConfig(**fields["model"])
        fields["training"] = TrainingConfig(**fields["training"])
        for name in ("states", "labels", "vocabulary", "kept"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        config = RunConfig(**fields)
        _check_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}): restore it, or train again") from error
    return config


def _migrated(fields: Record) -> Record:
    """Settings of earlier versions under their present names, with the defaults of that time."""
    fields["model"].setdefault("precision", "float32")
    if "full_D" in fields:
        fields["dense_feedthrough"] = fields.pop("full_D")
    if "loop" in fields["training"]:
        fields["training"]["scan_layers"] = fields["training"].pop("loop")
    for part, name, old, new in (
        ("model", "scan_method", "fitting", "auto"),
        ("training", "schedule", "textbook", "warmup-cosine"),
    ):
        if fields[part].get(name) == old:
            fields[part][name] = new
    return fields


def _check_config(config: RunConfig) -> None:
    for part in (config.data, config.model, config.training):
        check_settings(part)
    if not isinstance(config.task, str) or not isinstance(config.versions, dict):
        raise ValueError("task must be a name and versions a table")
    if not isinstance(config.imported, dict | None):
        raise ValueError(f"imported is {config.imported!r}")
    for name in ("seed", "input_size", "classes", "length", "devices"):
        value = getattr(config, name)
        if not has_type(value, int) or value < (0 if name == "seed" else 1):
            raise ValueError(f"{name} is {value!r}")
    names = (config.labels, config.vocabulary)
    if not all(isinstance(name, str) for listed in names for name in listed):
        raise ValueError("labels and vocabulary must be lists of names")
    if len(config.labels) not in (0, config.classes):
        raise ValueError(f"{len(config.labels)} labels, for {config.classes} classes")
    if len(config.vocabulary) not in (0, config.input_size):
        raise ValueError(f"{len(config.vocabulary)} tokens, for an input of {config.input_size}")
    if not all(has_type(count, int) for count in config.states):
        raise ValueError(f"states are {list(config.states)}")
    largest = untrained_counts(config.model)
    fits = len(config.states) == len(largest) and all(
        1 <= count <= most for count, most in zip(config.states, largest, strict=True)
    )
    if not fits:
        raise ValueError(f"states are {list(config.states)}, for layers of up to {list(largest)}")
    kept_masks(config, largest)
    if not has_type(config.dense_feedthrough, bool):
        raise ValueError(f"dense_feedthrough is {config.dense_feedthrough!r}")
