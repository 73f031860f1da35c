"""The presets of every task, as plain data. `lastax train --task NAME --size SIZE` trains them.

The size `paper` follows the public LAST scripts for S5 (Smith et al., ICLR 2023; Gwak et al.,
NeurIPS 2024). Where those count both states of a conjugate pair, `states` here counts the stored
one. S4D and LRU have tables of their own. The size `small` trains in ten minutes or less on two
cores.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lastax.nn._configuration import ModelConfig
from lastax.training._configuration import DataConfig, Preset, Task, TrainingConfig

# fmt: off
_PAPER: Mapping[str, Preset] = MappingProxyType({
    "listops": Preset(
        ModelConfig(
            layers=8, channels=128, states=8, hippo_blocks=8, c_initialization="lecun_normal",
            activation="half_glu2", dropout=0.0, norm_momentum=0.95, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=40, warmup_epochs=1, batch_size=50, ssm_learning_rate=0.001,
            learning_rate=0.003, weight_decay=0.04, grouping="BfastandCdecay",
        ),
    ),
    "text": Preset(
        ModelConfig(
            layers=6, channels=256, states=96, hippo_blocks=12, c_initialization="lecun_normal",
            activation="half_glu2", dropout=0.1, norm_momentum=0.95, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=35, warmup_epochs=0, batch_size=50, ssm_learning_rate=0.001,
            learning_rate=0.004, weight_decay=0.07, grouping="standard", step_size_global=True,
        ),
    ),
    # 5 epochs as in LAST; S5's own script has 20.
    "retrieval": Preset(
        ModelConfig(
            layers=6, channels=128, states=128, hippo_blocks=16,
            c_initialization="truncated_standard_normal", activation="half_glu1", dropout=0.0,
            norm_momentum=0.95, step_minimum=0.001, head="retrieval",
        ),
        TrainingConfig(
            epochs=5, warmup_epochs=1, batch_size=32, ssm_learning_rate=0.001,
            learning_rate=0.002, weight_decay=0.05, grouping="standard", step_size_global=True,
        ),
    ),
    "image": Preset(
        ModelConfig(
            layers=6, channels=512, states=192, hippo_blocks=3, c_initialization="lecun_normal",
            activation="half_glu1", dropout=0.1, norm_momentum=0.95, step_minimum=0.001,
            clip_eigenvalues=True,
        ),
        TrainingConfig(
            epochs=250, warmup_epochs=1, batch_size=50, ssm_learning_rate=0.001,
            learning_rate=0.0045, weight_decay=0.07, grouping="BfastandCdecay",
        ),
    ),
    "pathfinder": Preset(
        ModelConfig(
            layers=6, channels=192, states=128, hippo_blocks=8,
            c_initialization="truncated_standard_normal", activation="half_glu1", dropout=0.05,
            norm_momentum=0.9, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=200, warmup_epochs=1, batch_size=64, ssm_learning_rate=0.0009,
            learning_rate=0.0045, weight_decay=0.03, grouping="standard",
        ),
    ),
    "pathx": Preset(
        ModelConfig(
            layers=6, channels=128, states=128, hippo_blocks=16,
            c_initialization="complex_normal", activation="half_glu1", dropout=0.0,
            norm_momentum=0.9, step_minimum=0.0001,
        ),
        TrainingConfig(
            epochs=75, warmup_epochs=1, batch_size=32, ssm_learning_rate=0.0006,
            learning_rate=0.0018, weight_decay=0.06, grouping="BandCdecay",
        ),
    ),
    "speech35": Preset(
        ModelConfig(
            layers=6, channels=96, states=64, hippo_blocks=16, c_initialization="lecun_normal",
            activation="half_glu1", dropout=0.1, norm_momentum=0.95, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=40, warmup_epochs=1, batch_size=16, ssm_learning_rate=0.002,
            learning_rate=0.008, weight_decay=0.04, grouping="noBCdecay",
        ),
    ),
    # LAST's script, which has unidirectional layers.
    "smnist": Preset(
        ModelConfig(
            layers=4, channels=96, states=64, hippo_blocks=1, bidirectional=False,
            c_initialization="truncated_standard_normal", activation="half_glu1", dropout=0.1,
            norm_momentum=0.95, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=150, warmup_epochs=1, batch_size=50, ssm_learning_rate=0.002,
            learning_rate=0.008, weight_decay=0.01, grouping="standard",
        ),
    ),
})

# The S4D scripts of the published comparison are not public. These follow the nearest ones: the
# older configurations in the S4 repository, which follow the S4D paper (Gu et al., NeurIPS 2022),
# with S4D-LegS. A, B and the step sizes have a learning rate of their own. Warm-up is counted in
# steps there.
_PAPER_S4D: Mapping[str, Preset] = MappingProxyType({
    "listops": Preset(
        ModelConfig(
            layer="s4d", layers=8, channels=128, states=32, activation="full_glu", dropout=0.0,
            norm_momentum=0.9, prenorm=False, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=40, warmup_epochs=1, batch_size=50, ssm_learning_rate=0.001,
            learning_rate=0.01, weight_decay=0.05, grouping="standard",
        ),
    ),
    "text": Preset(
        ModelConfig(
            layer="s4d", layers=6, channels=256, states=32, activation="full_glu", dropout=0.0,
            norm_momentum=0.9, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=32, warmup_epochs=1, batch_size=16, ssm_learning_rate=0.001,
            learning_rate=0.01, weight_decay=0.05, grouping="standard",
        ),
    ),
    "retrieval": Preset(
        ModelConfig(
            layer="s4d", layers=6, channels=256, states=32, activation="full_glu", dropout=0.0,
            norm_momentum=0.9, step_minimum=0.001, head="retrieval",
        ),
        TrainingConfig(
            epochs=20, warmup_epochs=1, batch_size=64, ssm_learning_rate=0.001,
            learning_rate=0.01, weight_decay=0.05, grouping="standard",
        ),
    ),
    "image": Preset(
        ModelConfig(
            layer="s4d", layers=6, channels=512, states=32, activation="full_glu", dropout=0.1,
            norm="layer", prenorm=False, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=200, warmup_epochs=1, batch_size=50, ssm_learning_rate=0.001,
            learning_rate=0.01, weight_decay=0.05, grouping="standard",
        ),
    ),
    # There C has the rate of the dynamics too, with decay; here without.
    "pathfinder": Preset(
        ModelConfig(
            layer="s4d", layers=6, channels=256, states=32, activation="full_glu", dropout=0.0,
            norm_momentum=0.9, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=200, warmup_epochs=1, batch_size=64, ssm_learning_rate=0.001,
            learning_rate=0.004, weight_decay=0.03, grouping="noBCdecay",
        ),
    ),
    "pathx": Preset(
        ModelConfig(
            layer="s4d", layers=6, channels=256, states=32, activation="full_glu", dropout=0.0,
            norm_momentum=0.9, step_minimum=0.0001,
        ),
        TrainingConfig(
            epochs=50, warmup_epochs=1, batch_size=16, ssm_learning_rate=0.0005,
            learning_rate=0.001, weight_decay=0.05, grouping="noBCdecay",
        ),
    ),
    "speech35": Preset(
        ModelConfig(
            layer="s4d", layers=6, channels=128, states=32, activation="full_glu", dropout=0.0,
            norm_momentum=0.9, step_minimum=0.001,
        ),
        TrainingConfig(
            epochs=40, warmup_epochs=1, batch_size=16, ssm_learning_rate=0.001,
            learning_rate=0.01, weight_decay=0.05, grouping="standard",
        ),
    ),
})

# LRUs as trained for the compression of Hankel singular values (CompreSSM configurations, 2025).
# Those count steps; the number of epochs here amounts to the same. Unidirectional, without
# conjugate pairs. Pathfinder was the easy level there.
_PAPER_LRU: Mapping[str, Preset] = MappingProxyType({
    "listops": Preset(
        ModelConfig(
            layer="lru", layers=6, channels=128, states=256, bidirectional=False,
            activation="full_glu", dropout=0.0, norm_momentum=0.9,
        ),
        TrainingConfig(
            epochs=27, warmup_epochs=3, batch_size=32, ssm_learning_rate=0.0005,
            learning_rate=0.001, weight_decay=0.05, grouping="standard",
        ),
    ),
    "text": Preset(
        ModelConfig(
            layer="lru", layers=1, channels=256, states=192, bidirectional=False,
            activation="full_glu", dropout=0.2, norm_momentum=0.9,
        ),
        TrainingConfig(
            epochs=71, warmup_epochs=7, batch_size=32, ssm_learning_rate=0.0001,
            learning_rate=0.001, weight_decay=0.05, grouping="standard",
        ),
    ),
    "retrieval": Preset(
        ModelConfig(
            layer="lru", layers=6, channels=128, states=256, bidirectional=False,
            activation="full_glu", dropout=0.1, norm_momentum=0.9, head="retrieval",
        ),
        TrainingConfig(
            epochs=43, warmup_epochs=4, batch_size=64, ssm_learning_rate=0.0005,
            learning_rate=0.001, weight_decay=0.05, grouping="standard",
        ),
    ),
    "pathfinder": Preset(
        ModelConfig(
            layer="lru", layers=6, channels=192, states=256, bidirectional=False,
            activation="full_glu", dropout=0.0, norm_momentum=0.9,
        ),
        TrainingConfig(
            epochs=200, warmup_epochs=20, batch_size=64, ssm_learning_rate=0.00025,
            learning_rate=0.001, weight_decay=0.05, grouping="standard",
        ),
    ),
    "smnist": Preset(
        ModelConfig(
            layer="lru", layers=1, channels=8, states=256, bidirectional=False,
            activation="full_glu", dropout=0.1, norm_momentum=0.9,
        ),
        TrainingConfig(
            epochs=185, warmup_epochs=0, batch_size=50, ssm_learning_rate=0.0004,
            learning_rate=0.0004, weight_decay=0.0, grouping="standard", anneal=False,
        ),
    ),
    "scifar": Preset(
        ModelConfig(
            layer="lru", layers=6, channels=512, states=384, bidirectional=False,
            activation="full_glu", dropout=0.1, norm_momentum=0.9,
        ),
        TrainingConfig(
            epochs=200, warmup_epochs=20, batch_size=50, ssm_learning_rate=0.00025,
            learning_rate=0.001, weight_decay=0.05, grouping="standard",
        ),
    ),
})

# These count steps instead of passes, so that the time does not depend on the size of the data set.
# A comment says which tasks stay at chance in that time.
_NARROW = ModelConfig(
    layers=4, channels=32, states=16, hippo_blocks=1, c_initialization="lecun_normal",
    activation="half_glu1", dropout=0.0, norm_momentum=0.9, step_minimum=0.001,
    clip_eigenvalues=True,
)

_BRIEF = TrainingConfig(
    epochs=3, epoch_batches=400, warmup_epochs=1, batch_size=32, ssm_learning_rate=0.002,
    learning_rate=0.008, weight_decay=0.05, grouping="standard",
)

_SMALL: Mapping[str, Preset] = MappingProxyType({
    "listops": Preset(_NARROW, replace(_BRIEF, epochs=5, epoch_batches=240, batch_size=16)),
    "text": Preset(_NARROW, _BRIEF, length=1024),
    "retrieval": Preset(replace(_NARROW, head="retrieval"), replace(_BRIEF, epochs=2), length=512),
    "image": Preset(_NARROW, _BRIEF),
    # Stays at chance: contours of 14 paddles need a hundred times as many steps.
    "pathfinder": Preset(_NARROW, replace(_BRIEF, epochs=2)),
    # Stays at chance: a check that it runs, on a few thousand pictures.
    "pathx": Preset(_NARROW, replace(_BRIEF, epochs=2, epoch_batches=100, batch_size=2)),
    # At 2 kHz.
    "speech35": Preset(_NARROW, replace(_BRIEF, epochs=2, batch_size=16), every=8),
    "smnist": Preset(
        replace(_NARROW, bidirectional=False), replace(_BRIEF, epochs=6, epoch_batches=300)
    ),
    # Bundled, ten words of unseen speakers: 88 % on test after 2.5 minutes.
    "speech": Preset(
        ModelConfig(dropout=0.1, clip_eigenvalues=True), TrainingConfig(label_smoothing=0.1)
    ),
})

# fmt: on


def _with_layer(preset: Preset, **layer: Any) -> Preset:
    return replace(preset, model=replace(preset.model, **layer))


def _task(data: DataConfig, *, like: str | None = None) -> Task:
    """The task of a data set. The presets are those of `like`, if it has none of its own."""
    name = like or data.name
    small = _SMALL[name]
    presets = {
        ("s5", "small"): small,
        # As S5, with other layers: 16 pairs per channel, or as many real dimensions as S5.
        ("s4d", "small"): _with_layer(small, layer="s4d", states=16),
        ("lru", "small"): _with_layer(small, layer="lru", states=2 * small.model.states),
    }
    for kind, table in (("s5", _PAPER), ("s4d", _PAPER_S4D), ("lru", _PAPER_LRU)):
        preset = table.get(data.name, table.get(name))
        if preset is not None:
            presets[kind, "paper"] = preset
    return Task(data, MappingProxyType(presets))


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "speech": _task(DataConfig("speech", features="log-mel")),
        "speech35": _task(DataConfig("speech35", normalization="standard")),
        "listops": _task(DataConfig("listops")),
        "text": _task(DataConfig("text", validation="held-out")),
        "retrieval": _task(DataConfig("retrieval")),
        "image": _task(DataConfig("image")),
        "pathfinder": _task(DataConfig("pathfinder", level="hard")),
        "pathx": _task(DataConfig("pathx", level="hard")),
        # S5 and LAST have no scripts for `psmnist` and `scifar`; the nearest use the same pictures.
        "smnist": _task(DataConfig("smnist")),
        "psmnist": _task(DataConfig("psmnist"), like="smnist"),
        "scifar": _task(DataConfig("scifar", normalization="standard"), like="image"),
        "audio-folder": _task(
            DataConfig("audio-folder", features="log-mel", rate=16000), like="speech"
        ),
        "arrays": _task(DataConfig("arrays"), like="speech"),
    }
)
