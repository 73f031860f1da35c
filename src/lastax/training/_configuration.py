"""Configuration of data and training, presets, and tasks.

Each field is one setting. `lastax train` has a flag of the same name for each setting with a help
text. The values for each task are in `_presets.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from lastax._settings import setting
from lastax.nn._configuration import ModelConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data set to read, and how. None means that the data set has no such setting."""

    name: str = dataclasses.field(metadata={"help": None})
    level: Literal["easy", "intermediate", "hard"] | None = setting(
        None, "Number of paddles per contour: 6, 9 or 14."
    )
    normalization: Literal["standard", "published", "per-image"] | None = setting(
        None, "Scale of the inputs (docs/data.md)."
    )
    validation: Literal["held-out", "published"] | None = setting(
        None, "Validation split: a tenth of train, or test as published."
    )
    features: Literal["raw", "log-mel", "mfcc"] | None = setting(
        None, "One step of sound: a sample, or a 10 ms frame."
    )
    rate: int | None = setting(None, "Sampling rate of sounds, in samples per second.")
    data: str | None = setting(None, "Your own data: a folder or a file.")
    length: int | None = setting(None, "Number of steps to use of each record.")
    every: int = setting(1, "Use every N-th step, for a lower sampling rate.")
    skip_bad: bool = setting(False, "Leave damaged records out.")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained."""

    epochs: int = setting(30, "Passes over the training set.")
    epoch_batches: int = setting(0, "Batches per epoch; 0 for one pass.", least=0)
    batch_size: int = setting(50, "Sequences per batch, over all devices.")
    learning_rate: float = setting(0.008, "Learning rate of everything except the dynamics.")
    ssm_learning_rate: float = setting(0.002, "Learning rate of the layers' dynamics.")
    weight_decay: float = setting(0.05, "Decoupled weight decay.")
    grouping: Literal["standard", "BandCdecay", "BfastandCdecay", "noBCdecay"] = setting(
        "standard", "Parameters that count as dynamics, by published name."
    )
    step_size_global: bool = setting(False, "Train step sizes like all other parameters.")
    schedule: Literal["warmup-cosine", "published"] = setting(
        "warmup-cosine", "Learning rate schedule."
    )
    warmup_epochs: int = setting(1, "Epochs of linear warm-up.", least=0)
    minimum_learning_rate: float = setting(0.0, "Learning rate at the end of the cosine.")
    anneal: bool = setting(True, "Decay the learning rates along a cosine.")
    label_smoothing: float = setting(0.0, "Share of the target spread over all classes.", below=1.0)
    state_penalty: Literal["none", "modal", "hankel"] = setting(
        "none", "Term of the loss that makes states redundant."
    )
    penalty_weight: float = setting(1.0, "Weight of this term.")
    penalty_warmup: float = setting(
        0.67, "Share of the epochs in which this weight rises linearly from 0.", most=1.0
    )
    reduce_during_training: float = setting(
        0.0, "Share of states to remove during training.", below=1.0
    )
    reduce_epochs: int = setting(2, "Remove states at the ends of the first N epochs.")
    reduce_method: str = setting("aire", "Pruning method that chooses these states.")
    reduce_tolerance: float = setting(
        1.0, "Largest accepted fall of validation accuracy, in percentage points."
    )
    remat: bool = setting(False, "Recompute layers in the backward pass; implies --scan-layers.")
    scan_layers: bool = setting(False, "Compile layers of equal shapes once, as one scan.")
    augment: bool = setting(True, "Augment training examples, where the task supports it.")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of a network and of its training that suit each other.

    Attributes:
        model: the network.
        training: the training.
        length: as in `DataConfig`.
        every: as in `DataConfig`.
    """

    model: ModelConfig
    training: TrainingConfig
    length: int | None = None
    every: int = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, and presets for it.

    Attributes:
        data: how the data are read.
        presets: by kind of layer and size; the first one is the default.
    """

    data: DataConfig
    presets: Mapping[tuple[str, str], Preset]

    def data_for(self, preset: Preset) -> DataConfig:
        """The data of the task, as `preset` reads them."""
        return dataclasses.replace(self.data, length=preset.length, every=preset.every)
