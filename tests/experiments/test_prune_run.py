"""Options of pruning a run: what is rejected, and how folders are named."""

import dataclasses

import jax
import pytest

import lastax
from lastax.experiments import (
    CalibrationOptions,
    OptionError,
    PostProcessing,
    PruneOptions,
    prune_run,
)
from lastax.experiments._prune_results import pruning_record
from lastax.training import DataConfig, RunConfig, TrainingConfig

from ..runs import untrained_run
from ..training.test_train import Tones

MODEL = lastax.ModelConfig(layers=2, channels=4, states=4)
CONFIG = RunConfig(
    task="speech",
    seed=0,
    data=DataConfig("speech"),
    input_size=3,
    classes=2,
    length=9,
    model=MODEL,
    training=TrainingConfig(),
    states=(4, 4),
)
DENSE = CalibrationOptions(dense_feedthrough=True)


@pytest.mark.parametrize(
    ("options", "option", "words"),
    [
        ({"ratio": 0.5, "states": 3}, "ratio", "only one of"),
        ({"ratio": 1.0}, "ratio", "below 1, got 1.0"),
        ({"ratio": float("nan")}, "ratio", "nan"),
        ({"states": 1}, "states", "2 (one per layer) to 8"),
        ({"max_loss": float("inf")}, "max_loss", "0 to 100 percentage points"),
        ({"method": "lst"}, "method", "no 'lst'"),
        ({"compare_with": ("auto",)}, "compare_with", "no 'auto'; choose one of"),
        ({"calibration": DENSE}, "dense_feedthrough", "last-refitted, calibrated"),
        ({"distill": True}, "distill", "number of epochs"),
    ],
)
def test_options_that_do_not_suit_a_run(options, option, words):
    with pytest.raises(OptionError) as error:
        PruneOptions(**options).check(CONFIG)
    assert error.value.option == option
    assert words in error.value.reason
    assert str(error.value) == f"{option}: {error.value.reason}"


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "last-30"),
        ({"method": "auto"}, "auto-loss1"),
        ({"method": "auto", "ratio": 0.25}, "auto-25"),
        ({"method": "aire", "states": 5}, "aire-states5"),
        ({"method": "random", "ratio": 0.5, "seed": 2}, "random-50-seed2"),
        ({"method": "calibrated", "calibration": DENSE}, "calibrated-30-dense-feedthrough"),
        ({"finetune": 3}, "last-30-tuned3"),
        ({"finetune": 3, "finetune_rate": 0.3}, "last-30-tuned3-rate0.3"),
        (
            {"finetune": 3, "distill": True, "recalibrate_batch_norm": True},
            "last-30-recalibrated-distilled3",
        ),
    ],
)
def test_folders_are_named_after_the_options(options, label):
    chosen = PruneOptions(**options)
    chosen.check(CONFIG)
    assert chosen.label == label


def test_prunings_with_other_calibration_have_other_names():
    settings = (
        {},
        {"sequences": 256},
        {"sequences": 128},
        {"budget": "uniform"},
        {"reconstruct": 100},
        {"reconstruct": 50},
        {"sequences": 256, "reconstruct": 100},
    )
    labels = {
        PruneOptions("calibrated", calibration=CalibrationOptions(**some), seed=seed).label
        for some in settings
        for seed in (0, 1)
    }
    assert len(labels) == 2 * len(settings)
    assert {"calibrated-30", "calibrated-30-256seq-reconstructed100"} <= labels
    assert "calibrated-30-uniform-budget-seed1" in labels
    # Settings without an effect are no part of a name.
    unused = CalibrationOptions(sequences=8, budget="uniform")
    assert PruneOptions("last", calibration=unused, seed=3).label == "last-30"


@pytest.fixture(scope="module")
def small_network():
    preset = lastax.training.TASKS["speech"].presets["s5", "small"]
    return lastax.build_network(preset.model, input_size=40, classes=10, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("length", "expected"), [(101, (256, 100)), (400, (192, 100)), (2048, (64, 0))]
)
def test_larger_tasks_get_less_calibration(small_network, length, expected):
    chosen = lastax.experiments.default_calibration(small_network, length)
    assert (chosen.sequences, chosen.reconstruct) == expected
    assert dataclasses.replace(chosen, sequences=64, reconstruct=0) == CalibrationOptions()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PruneOptions("calibrated", ratio=0.5), (256, 100)),
        (PruneOptions("calibrated", max_loss=1.0), (64, 0)),
        (PruneOptions("calibrated", calibration=CalibrationOptions(8)), (8, 0)),
        (PruneOptions("last"), (64, 0)),
    ],
)
def test_a_run_is_pruned_with_the_calibration_of_its_network(
    tmp_path, monkeypatch, options, expected
):
    """The defaults of `lastax prune`; the pruning itself is left out."""
    untrained_run(tmp_path / "run", MODEL)
    used = []

    def make_reducer(model, config, batch, calibration, **settings):
        used.append((calibration.sequences, calibration.reconstruct, batch))
        raise RuntimeError

    module = "lastax.experiments._prune_run"
    monkeypatch.setattr(f"{module}.make_reducer", make_reducer)
    monkeypatch.setattr(f"{module}.calibration_batch", lambda data, sequences, **_: sequences)
    with pytest.raises(RuntimeError):
        prune_run(tmp_path / "run", Tones(), options)
    assert used == [(*expected, expected[0] if options.needs_calibration else None)]


def test_calibration_data_are_drawn_only_if_needed():
    assert not PruneOptions(ratio=0.5).needs_calibration
    assert PruneOptions(compare_with=("calibrated",)).needs_calibration
    assert PruneOptions(recalibrate_batch_norm=True).needs_calibration
    assert dataclasses.replace(
        PruneOptions(), calibration=CalibrationOptions(reconstruct=5)
    ).needs_calibration


def test_rows_of_post_processing_differ():
    labels = {step.label("last", 3) for step in PostProcessing}
    assert len(labels) == len(PostProcessing)
    assert PostProcessing.DISTILLED.label("last", 3) == "last + 3 epochs, distilled"


@pytest.mark.parametrize(
    ("options", "method", "expected"),
    [
        (PruneOptions("auto"), "aire", {"max_loss": 1.0}),
        (PruneOptions("auto"), "calibrated", {"max_loss": 1.0, "budget": "probe"}),
        (PruneOptions("auto", states=5), "last", {"states": 5}),
        (PruneOptions("empirical-energy"), "empirical-energy", {"sequences": 64}),
        (PruneOptions("last", compare_with=("calibrated",)), "last", {}),
    ],
)
def test_the_record_of_a_pruning_has_what_its_method_used(options, method, expected):
    record = pruning_record(options, CalibrationOptions(), method)
    assert record["method"] == method
    assert expected.items() <= record.items()
    uses_data = lastax.METHODS[method].needs_calibration
    assert ("sequences" in record, "budget" in record) == (uses_data, method == "calibrated")


def test_a_method_that_fails_in_a_comparison_does_not_stop_the_pruning(tmp_path, monkeypatch):
    model = lastax.ModelConfig(layers=1, channels=4, states=4, bidirectional=False)
    settings = {"input_size": 2, "classes": 2, "length": 16}
    untrained_run(tmp_path / "run", model, **settings)
    reduce = lastax.pruning.Reducer.reduce

    def fail(reducer, method, **amount):
        if method == "balanced":
            raise ValueError("an unstable state")
        return reduce(reducer, method, **amount)

    monkeypatch.setattr(lastax.pruning.Reducer, "reduce", fail)
    failed = []
    options = PruneOptions("last", ratio=0.5, compare_with=("balanced", "aire"))
    pruned = prune_run(
        tmp_path / "run", Tones(), options, on_failure=lambda *given: failed.append(given[0])
    )
    assert failed == ["balanced"]
    assert pruned.results["compared"].keys() == {"aire"}
    assert lastax.state_counts(lastax.load(pruned.folder)) == [2]
