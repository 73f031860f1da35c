"""Every task as plain data: its data set, the network for it, and how that is trained.

The values are those that `lastax train --task NAME` uses; any of them can be overridden there by
the flag of the same name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

import jax

from lastax._blocks import Activation, Block, Gate, Linear
from lastax._discretize import discretize_bilinear, discretize_zoh
from lastax._initialize import complex_normal_C, lecun_normal_C, truncated_standard_normal_C
from lastax._networks import Classifier, Encoder, Network, Pooling, Retrieval
from lastax._normalize import BatchNorm, LayerNorm
from lastax._s5 import S5
from lastax._surgery import Layer
from lastax._typing import PRNGKeyArray


def setting(default: Any, text: str | None) -> Any:
    """A field of a configuration, with what a user reads of it; None if it is not theirs to set."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a network is made of."""

    layer: Literal["s5"] = setting("s5", "Kind of state-space layer.")
    layers: int = setting(4, "Number of blocks.")
    channels: int = setting(64, "Width H of every block.")
    states: int = setting(32, "Stored states P of each layer; a conjugate pair counts once.")
    hippo_blocks: int = setting(1, "HiPPO matrices that the eigenvalues start from.")
    bidirectional: bool = setting(True, "Run each layer both ways.")
    conj_sym: bool = setting(True, "Store one state of each conjugate pair.")
    discretization: Literal["zoh", "bilinear"] = setting("zoh", "Discretization rule.")
    c_initialization: Literal["lecun_normal", "truncated_standard_normal", "complex_normal"] = (
        setting("lecun_normal", "Starting values of C.")
    )
    clip_eigenvalues: bool = setting(False, "Keep the real parts of eigenvalues negative.")
    scan_method: Literal["fitting", "associative", "chunked", "sequential"] = setting(
        "fitting", "How the recurrence is computed; fitting: by device and length."
    )
    step_minimum: float = setting(0.001, "Smallest step size at the start.")
    step_maximum: float = setting(0.1, "Largest step size at the start.")
    activation: Activation = setting("half_glu1", "Nonlinearity after each layer.")
    norm: Literal["batch", "layer"] = setting("batch", "Normalization.")
    norm_momentum: float = setting(0.95, "Share of running statistics kept at a step.")
    prenorm: bool = setting(True, "Normalize before the layer instead of after the sum.")
    dropout: float = setting(0.0, "Dropout rate, shared along time.")
    pooling: Pooling = setting("mean", "One vector from all steps.")
    mask_padding: bool = setting(True, "Keep padding out of statistics and recurrences.")
    # Decided by what the task's records are: one sequence or two.
    head: Literal["classifier", "retrieval"] = setting("classifier", None)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained."""

    epochs: int = setting(30, "Passes over the training set.")
    batch_size: int = setting(50, "Sequences in a batch, over all devices.")
    learning_rate: float = setting(0.008, "Rate of everything but the layers' dynamics.")
    ssm_learning_rate: float = setting(0.002, "Rate of the layers' dynamics.")
    weight_decay: float = setting(0.05, "Decoupled weight decay.")
    grouping: Literal["standard", "BandCdecay", "BfastandCdecay", "noBCdecay"] = setting(
        "standard", "Which parameters count as dynamics, by the published names."
    )
    step_size_global: bool = setting(False, "Train step sizes like all other parameters.")
    schedule: Literal["textbook", "published"] = setting("textbook", "Course of the rates.")
    warmup_epochs: int = setting(1, "Epochs of linear warm-up.")
    minimum_learning_rate: float = setting(0.0, "Where the cosine ends.")
    anneal: bool = setting(True, "Let the rates fall along a cosine.")
    label_smoothing: float = setting(0.0, "Share of the target spread over all classes.")
    remat: bool = setting(False, "Less memory: compute what is inside a block twice.")
    augment: bool = setting(True, "Vary training examples, where the task knows how.")


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, by its name in `lastax.data`, and the network and training that suit it."""

    data: str
    model: ModelConfig
    training: TrainingConfig


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        # Ten words of unseen speakers, bundled: 88 % on test after 2.5 minutes on two cores.
        "speech": Task(
            data="speech",
            model=ModelConfig(dropout=0.1, clip_eigenvalues=True),
            training=TrainingConfig(label_smoothing=0.1),
        ),
    }
)

LAYERS: Mapping[str, Callable[..., Layer]] = MappingProxyType({"s5": S5.initialize})
DISCRETIZATIONS = MappingProxyType({"zoh": discretize_zoh, "bilinear": discretize_bilinear})
C_INITIALIZATIONS = MappingProxyType(
    {
        "lecun_normal": lecun_normal_C,
        "truncated_standard_normal": truncated_standard_normal_C,
        "complex_normal": complex_normal_C,
    }
)


def build_network(
    config: ModelConfig, *, input_size: int, classes: int, key: PRNGKeyArray
) -> Network:
    """Draw the network that a configuration describes.

    Raises:
        ValueError: naming the setting, if one has a value that it cannot have.
    """
    check_settings(config)
    embed_key, head_key, hidden_key, blocks_key = jax.random.split(key, 4)
    encoder = Encoder(
        embed=Linear.initialize(input_size, config.channels, key=embed_key),
        blocks=tuple(
            _build_block(config, key=block_key)
            for block_key in jax.random.split(blocks_key, config.layers)
        ),
        pooling=config.pooling,
        mask_padding=config.mask_padding,
    )
    if config.head == "classifier":
        return Classifier(encoder, Linear.initialize(config.channels, classes, key=head_key))
    return Retrieval(
        encoder,
        Linear.initialize(4 * config.channels, config.channels, key=hidden_key),
        Linear.initialize(config.channels, classes, key=head_key),
    )


def _build_block(config: ModelConfig, *, key: PRNGKeyArray) -> Block:
    layer_key, gate_key = jax.random.split(key)
    norm: BatchNorm | LayerNorm
    if config.norm == "batch":
        norm = BatchNorm.initialize(config.channels, momentum=config.norm_momentum)
    else:
        norm = LayerNorm.initialize(config.channels)
    layer = LAYERS[config.layer](
        config.channels,
        config.states,
        blocks=config.hippo_blocks,
        bidirectional=config.bidirectional,
        conj_sym=config.conj_sym,
        discretize=DISCRETIZATIONS[config.discretization],
        initialize_C=C_INITIALIZATIONS[config.c_initialization],
        clip_eigenvalues=config.clip_eigenvalues,
        step_range=(config.step_minimum, config.step_maximum),
        scan_method=None if config.scan_method == "fitting" else config.scan_method,
        key=layer_key,
    )
    gate = Gate.initialize(config.channels, config.activation, key=gate_key)
    return Block(norm, layer, gate, prenorm=config.prenorm, dropout=config.dropout)


def is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a simple type. Every int is a float, no bool is an int."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def check_settings(config: ModelConfig | TrainingConfig) -> None:
    """Compare choices, signs and ranges.

    Raises:
        ValueError: naming the setting, the value, and what it may be.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), get_args(hints[field.name])
        if allowed and value not in allowed:
            raise ValueError(f"{field.name} must be one of {', '.join(allowed)}; got {value!r}")
        if not allowed and not is_a(value, hints[field.name]):
            raise ValueError(f"{field.name} must be {hints[field.name].__name__}; got {value!r}")
        least = 0 if field.name == "warmup_epochs" else 1
        if hints[field.name] is int and value < least:
            raise ValueError(f"{field.name} must be at least {least}; got {value}")
        if hints[field.name] is float and not 0 <= value < float("inf"):
            raise ValueError(f"{field.name} must be finite and not negative; got {value}")
    for name in ("dropout", "label_smoothing", "norm_momentum"):
        if not 0 <= getattr(config, name, 0.0) < 1:
            raise ValueError(f"{name} must be in [0, 1); got {getattr(config, name)}")
