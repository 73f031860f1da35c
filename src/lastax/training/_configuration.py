"""What describes a task: its data, the network for it, and how that is trained.

Each field is one setting: `lastax train` has a flag of its name for those that a user may set.
`_presets.py` has the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from lastax._settings import setting
from lastax.nn._configuration import ModelConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are read. None: the data set knows no such setting."""

    name: str = dataclasses.field(metadata={"help": None})
    level: Literal["easy", "intermediate", "hard"] | None = setting(
        None, "Contours of how many paddles: 6, 9 or 14."
    )
    normalization: Literal["standard", "published"] | None = setting(
        None, "One mean and deviation for all steps, or one for each, as published."
    )
    validation: Literal["held-out", "published"] | None = setting(
        None, "What to choose the best epoch by: a tenth of train, or, as published, test."
    )
    features: Literal["raw", "log-mel", "mfcc"] | None = setting(
        None, "What a step of sound is: a sample, or a frame of 10 ms."
    )
    rate: int | None = setting(None, "Samples a second that sound is brought to.")
    data: str | None = setting(None, "Your own data: a folder or a file.")
    length: int | None = setting(None, "Use so many steps of each record, from its start.")
    every: int = setting(1, "Use every so many of these steps alone: a lower rate.")
    skip_bad: bool = setting(False, "Leave damaged records out, instead of stopping at the first.")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained."""

    epochs: int = setting(30, "Passes over the training set.")
    epoch_batches: int = setting(0, "Or: so many batches an epoch; 0: one pass.", least=0)
    batch_size: int = setting(50, "Sequences in a batch, over all devices.")
    learning_rate: float = setting(0.008, "Rate of everything but the layers' dynamics.")
    ssm_learning_rate: float = setting(0.002, "Rate of the layers' dynamics.")
    weight_decay: float = setting(0.05, "Decoupled weight decay.")
    grouping: Literal["standard", "BandCdecay", "BfastandCdecay", "noBCdecay"] = setting(
        "standard", "Which parameters count as dynamics, by the published names."
    )
    step_size_global: bool = setting(False, "Train step sizes like all other parameters.")
    schedule: Literal["warmup-cosine", "published"] = setting(
        "warmup-cosine", "Course of the rates."
    )
    warmup_epochs: int = setting(1, "Epochs of linear warm-up.", least=0)
    minimum_learning_rate: float = setting(0.0, "Where the cosine ends.")
    anneal: bool = setting(True, "Let the rates fall along a cosine.")
    label_smoothing: float = setting(0.0, "Share of the target spread over all classes.")
    remat: bool = setting(False, "Less memory: compute what is inside a block twice.")
    augment: bool = setting(True, "Vary training examples, where the task knows how.")


@dataclasses.dataclass(frozen=True)
class Preset:
    """A network and a training that suit each other, and how much of each record they get.

    `length` and `every` are those of `DataConfig`.
    """

    model: ModelConfig
    training: TrainingConfig
    length: int | None = None
    every: int = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, and presets for them by (kind of layer, size); the first is the one to begin with."""

    data: DataConfig
    presets: Mapping[tuple[str, str], Preset]

    def data_for(self, preset: Preset) -> DataConfig:
        """The data of the task, as `preset` reads them."""
        return dataclasses.replace(self.data, length=preset.length, every=preset.every)
