"""The table of presets, against the flags of the published scripts."""

import dataclasses
import json

import equinox as eqx
import jax
import pytest

import lastax
import lastax.data

# Flags of LAST's bin/run_experiments/*.sh, with the defaults of its run_train.py filled in.
FLAGS = """
task        n_layers d_model ssm_size_base blocks C_init activation bsz epochs warmup_end ssm_lr_base lr_factor weight_decay p_dropout opt_config dt_global clip_eigs dt_min bn_momentum bidirectional
listops     8 128  16  8 lecun   half_glu2 50  40 1 .001  3   .04 0   BfastandCdecay F F .001  .95 T
text        6 256 192 12 lecun   half_glu2 50  35 0 .001  4   .07 .1  standard       T F .001  .95 T
retrieval   6 128 256 16 trunc   half_glu1 32   5 1 .001  2   .05 0   standard       T F .001  .95 T
image       6 512 384  3 lecun   half_glu1 50 250 1 .001  4.5 .07 .1  BfastandCdecay F T .001  .95 T
pathfinder  6 192 256  8 trunc   half_glu1 64 200 1 .0009 5   .03 .05 standard       F F .001  .9  T
pathx       6 128 256 16 complex half_glu1 32  75 1 .0006 3   .06 0   BandCdecay     F F .0001 .9  T
speech35    6  96 128 16 lecun   half_glu1 16  40 1 .002  4   .04 .1  noBCdecay      F F .001  .95 T
smnist      4  96 128  1 trunc   half_glu1 50 150 1 .002  4   .01 .1  standard       F F .001  .95 F
psmnist     4  96 128  1 trunc   half_glu1 50 150 1 .002  4   .01 .1  standard       F F .001  .95 F
scifar      6 512 384  3 lecun   half_glu1 50 250 1 .001  4.5 .07 .1  BfastandCdecay F T .001  .95 T
"""  # noqa: E501
NAMES, *ROWS = (line.split() for line in FLAGS.strip().splitlines())
C_INITIALIZATIONS = {
    "lecun": "lecun_normal",
    "trunc": "truncated_standard_normal",
    "complex": "complex_normal",
}
PRESETS = {
    f"{name}-{kind}-{size}": (task, preset)
    for name, task in lastax.training.TASKS.items()
    for (kind, size), preset in task.presets.items()
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_paper_presets_are_the_published_flags(row):
    flag = dict(zip(NAMES, row, strict=True))
    truth = {"T": True, "F": False}
    preset = lastax.training.TASKS[flag["task"]].presets["s5", "paper"]
    model, training = preset.model, preset.training
    assert preset.length is None
    assert preset.every == 1
    assert model == lastax.ModelConfig(
        layer="s5",
        layers=int(flag["n_layers"]),
        channels=int(flag["d_model"]),
        # Of conjugate pairs one state is stored.
        states=int(flag["ssm_size_base"]) // 2,
        hippo_blocks=int(flag["blocks"]),
        bidirectional=truth[flag["bidirectional"]],
        conj_sym=True,
        discretization="zoh",
        c_initialization=C_INITIALIZATIONS[flag["C_init"]],
        clip_eigenvalues=truth[flag["clip_eigs"]],
        step_minimum=float(flag["dt_min"]),
        step_maximum=0.1,
        activation=flag["activation"],
        norm="batch",
        norm_momentum=float(flag["bn_momentum"]),
        prenorm=True,
        dropout=float(flag["p_dropout"]),
        pooling="mean",
        head="retrieval" if flag["task"] == "retrieval" else "classifier",
    )
    assert training.learning_rate == pytest.approx(
        float(flag["lr_factor"]) * float(flag["ssm_lr_base"])
    )
    assert training == lastax.training.TrainingConfig(
        epochs=int(flag["epochs"]),
        epoch_batches=0,
        batch_size=int(flag["bsz"]),
        learning_rate=training.learning_rate,
        ssm_learning_rate=float(flag["ssm_lr_base"]),
        weight_decay=float(flag["weight_decay"]),
        grouping=flag["opt_config"],
        step_size_global=truth[flag["dt_global"]],
        warmup_epochs=int(flag["warmup_end"]),
        minimum_learning_rate=0.0,
        anneal=True,
        label_smoothing=0.0,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_network(name):
    task, preset = PRESETS[name]
    for part in (task.data, preset.model, preset.training):
        lastax.training.check_settings(part)
    network = eqx.filter_eval_shape(
        lambda: lastax.build_network(preset.model, input_size=3, classes=2, key=jax.random.key(0))
    )
    each = preset.model.states * (preset.model.channels if preset.model.layer == "s4d" else 1)
    assert lastax.training.untrained_counts(preset.model) == (each,) * preset.model.layers
    pairs = task.data.name == "retrieval"
    assert isinstance(network, lastax.nn.Retrieval if pairs else lastax.Classifier)


def test_every_data_set_is_a_task_and_names_its_settings():
    assert lastax.training.TASKS.keys() == lastax.data.DATASETS.keys()
    for name, task in lastax.training.TASKS.items():
        assert task.data.name == name
        options = set(lastax.data.DATASETS[name].options)
        given = {k for k, v in dataclasses.asdict(task.data).items() if v is not None}
        # A path is the user's own; what acts on any records is everyone's.
        assert given - {"name", "every", "skip_bad"} == options - {"data"}


def test_speech_trains_as_it_did():
    preset = next(iter(lastax.training.TASKS["speech"].presets.values()))
    assert preset.model == lastax.ModelConfig(dropout=0.1, clip_eigenvalues=True)
    assert preset.training == lastax.training.TrainingConfig(label_smoothing=0.1)


def test_a_run_remembers_its_data(tmp_path):
    preset = lastax.training.TASKS["text"].presets["s5", "small"]
    data = lastax.training.DataConfig(
        "text", validation="published", length=7, every=2, skip_bad=True
    )
    config = lastax.training.RunConfig(
        task="text",
        seed=1,
        data=data,
        input_size=3,
        classes=2,
        length=4,
        labels=("neg", "pos"),
        vocabulary=("<pad>", "<unk>", "ü"),
        size="small",
        model=preset.model,
        training=preset.training,
        states=(preset.model.states,) * preset.model.layers,
    )
    lastax.training.save_config(tmp_path, config)
    assert lastax.training.load_config(tmp_path) == config


# Type checks, on in these tests, may come before our own and word it otherwise.
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"name": "text", "level": "extreme"}}, "level.*easy"),
        ({"data": {"name": "text", "length": 0}}, "length must be at least 1"),
        ({"data": {"name": "text", "length": True}}, "length"),
        ({"data": {"name": "text", "colour": "red"}}, "colour"),
        ({"vocabulary": ["a"]}, "1 tokens, for an input of 3"),
        ({"labels": [1, 2]}, "labels"),
    ],
    ids=str,
)
def test_damaged_records_of_data_are_named(tmp_path, changes, words):
    test_a_run_remembers_its_data(tmp_path)
    path = tmp_path / lastax.training.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(lastax.serialization.RunError, match=f"(?s)is damaged.*{words}"):
        lastax.training.load_config(tmp_path)
