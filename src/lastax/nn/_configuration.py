"""The configuration of a network, and the network that it describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import jax

from lastax._settings import check_settings, setting
from lastax._typing import PRNGKeyArray
from lastax.nn._blocks import Activation, Block, Gate, Gelu, Linear
from lastax.nn._encoder import Encoder, Pooling
from lastax.nn._initialization import (
    InitializeC,
    complex_normal_C,
    lecun_normal_C,
    truncated_standard_normal_C,
)
from lastax.nn._layer import Layer
from lastax.nn._lru import LRU
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.nn._normalization import BatchNorm, LayerNorm
from lastax.nn._precision import PRECISIONS
from lastax.nn._s4d import S4D
from lastax.nn._s4d_eigenvalues import S4D_EIGENVALUES
from lastax.nn._s5 import S5
from lastax.ssm._discretization import Discretization, discretize_bilinear, discretize_zoh
from lastax.ssm._scan_methods import ScanMethod


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of a network.

    The help text of each field is part of `lastax train --help`. Fields that apply to some layers
    only name these layers. Other layers ignore them, and `lastax train` refuses their flags.
    """

    layer: Literal["s5", "s4d", "lru"] = setting("s5", "State-space layer.")
    layers: int = setting(4, "Number of blocks.")
    channels: int = setting(64, "Channels H of every block.")
    states: int = setting(32, "Stored states per layer (s4d: per channel).")
    bidirectional: bool = setting(True, "Recurrences in both directions of time.")
    hippo_blocks: int = setting(1, "HiPPO blocks of the initial eigenvalues.", layers=("s5",))
    conj_sym: bool = setting(True, "One stored state per conjugate pair.", layers=("s5",))
    discretization: Literal["zoh", "bilinear"] = setting(
        "zoh", "Discretization rule.", layers=("s5", "s4d")
    )
    c_initialization: Literal["lecun_normal", "truncated_standard_normal", "complex_normal"] = (
        setting("lecun_normal", "Initial distribution of C.", layers=("s5",))
    )
    clip_eigenvalues: bool = setting(
        False, "Clipping of eigenvalues to negative real parts.", layers=("s5",)
    )
    eigenvalues: Literal["legs", "lin", "inv", "inv2", "quad", "real"] = setting(
        "legs", "Initial eigenvalues of each channel.", layers=("s4d",)
    )
    train_b: bool = setting(True, "Training of B.", layers=("s4d",))
    radius_minimum: float = setting(
        0.9, "Smallest initial modulus of eigenvalues.", layers=("lru",)
    )
    radius_maximum: float = setting(
        0.999, "Largest initial modulus of eigenvalues.", layers=("lru",)
    )
    phase_maximum: float = setting(
        6.28, "Largest initial angle of eigenvalues, in radians.", layers=("lru",)
    )
    scan_method: Literal["auto", "associative", "chunked", "sequential", "pallas"] = setting(
        "auto", "Scan algorithm; auto: by device and length."
    )
    step_minimum: float = setting(0.001, "Smallest initial step size.", layers=("s5", "s4d"))
    step_maximum: float = setting(0.1, "Largest initial step size.", layers=("s5", "s4d"))
    activation: Activation = setting("half_glu1", "Nonlinearity after each layer.")
    gelu: Gelu = setting("tanh", "Form of GELU.")
    norm: Literal["batch", "layer"] = setting("batch", "Normalization.")
    norm_epsilon: float | None = setting(
        None, "Number added to variances; None: 1e-5 (batch) or 1e-6 (layer)."
    )
    norm_momentum: float = setting(
        0.95, "Weight of old running statistics per training step.", below=1.0
    )
    prenorm: bool = setting(True, "Normalization before the layer instead of after the sum.")
    dropout: float = setting(0.0, "Dropout rate, with one mask for all steps.", below=1.0)
    pooling: Pooling = setting("mean", "Pooling over time.")
    mask_padding: bool = setting(True, "Exclusion of padding from statistics and recurrences.")
    # Not a flag: the records of the task are single sequences or pairs.
    head: Literal["classifier", "retrieval"] = setting("classifier", None)
    precision: Literal["float32", "tf32", "bfloat16"] = setting(
        "tf32", "Precision of products and activations; tf32 is float32 except on NVIDIA GPUs."
    )


DISCRETIZATIONS: Mapping[str, Discretization] = MappingProxyType(
    {"zoh": discretize_zoh, "bilinear": discretize_bilinear}
)

C_INITIALIZATIONS: Mapping[str, InitializeC] = MappingProxyType(
    {
        "lecun_normal": lecun_normal_C,
        "truncated_standard_normal": truncated_standard_normal_C,
        "complex_normal": complex_normal_C,
    }
)


def build_network(
    config: ModelConfig, *, input_size: int, classes: int, key: PRNGKeyArray, tokens: bool = False
) -> Network:
    """Draw the network that a configuration describes.

    Args:
        config: settings.
        input_size: number of input features, or of tokens.
        classes: number of logits.
        key: random key.
        tokens: records are integer token ids, shape `(L,)`, instead of features, shape `(L, d)`.

    Returns:
        A `Classifier`, or a `Retrieval` if `config.head` is `retrieval`.

    Raises:
        ValueError: if a setting has a value that is not allowed. The message names the setting.
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
        tokens=tokens,
        precision=PRECISIONS[config.precision],
    )
    if config.head == "classifier":
        return Classifier(encoder, Linear.initialize(config.channels, classes, key=head_key))
    return Retrieval(
        encoder,
        Linear.initialize(4 * config.channels, config.channels, key=hidden_key),
        Linear.initialize(config.channels, classes, key=head_key),
        gelu=config.gelu,
    )


def _s5(config: ModelConfig, key: PRNGKeyArray) -> Layer:
    return S5.initialize(
        config.channels,
        config.states,
        blocks=config.hippo_blocks,
        bidirectional=config.bidirectional,
        conj_sym=config.conj_sym,
        discretize=DISCRETIZATIONS[config.discretization],
        initialize_C=C_INITIALIZATIONS[config.c_initialization],
        clip_eigenvalues=config.clip_eigenvalues,
        step_range=(config.step_minimum, config.step_maximum),
        scan_method=_scan_method(config),
        key=key,
    )


def _s4d(config: ModelConfig, key: PRNGKeyArray) -> Layer:
    return S4D.initialize(
        config.channels,
        config.states,
        eigenvalues=S4D_EIGENVALUES[config.eigenvalues],
        train_B=config.train_b,
        bidirectional=config.bidirectional,
        discretize=DISCRETIZATIONS[config.discretization],
        step_range=(config.step_minimum, config.step_maximum),
        scan_method=_scan_method(config),
        key=key,
    )


def _lru(config: ModelConfig, key: PRNGKeyArray) -> Layer:
    return LRU.initialize(
        config.channels,
        config.states,
        radius_range=(config.radius_minimum, config.radius_maximum),
        phase_maximum=config.phase_maximum,
        bidirectional=config.bidirectional,
        scan_method=_scan_method(config),
        key=key,
    )


def _scan_method(config: ModelConfig) -> ScanMethod | None:
    return None if config.scan_method == "auto" else config.scan_method


# A new layer needs one entry here, and its name in `ModelConfig.layer`.
LAYERS: Mapping[str, Callable[[ModelConfig, PRNGKeyArray], Layer]] = MappingProxyType(
    {"s5": _s5, "s4d": _s4d, "lru": _lru}
)


def _build_block(config: ModelConfig, *, key: PRNGKeyArray) -> Block:
    layer_key, gate_key = jax.random.split(key)
    norm: BatchNorm | LayerNorm
    if config.norm == "batch":
        norm = BatchNorm.initialize(config.channels, momentum=config.norm_momentum)
    else:
        norm = LayerNorm.initialize(config.channels)
    if config.norm_epsilon is not None:
        norm = dataclasses.replace(norm, epsilon=config.norm_epsilon)
    layer = LAYERS[config.layer](config, layer_key)
    gate = Gate.initialize(config.channels, config.activation, gelu=config.gelu, key=gate_key)
    return Block(norm, layer, gate, prenorm=config.prenorm, dropout=config.dropout)
