"""evaluate, score, prune and sweep on a trained run: what they print, write and draw."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import lastax
import lastax.data
from lastax.experiments import pruning_key
from lastax.serialization import load_arrays


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluate_prints_one_object(cli, trained, split):
    answer = cli("evaluate", trained, "--split", split, "--json").result
    assert answer["split"] == split
    assert answer["examples"] == {"validation": 394, "test": 841}[split]
    recorded = json.loads((trained / "results.json").read_text())[split]
    assert answer["accuracy"] == pytest.approx(recorded["accuracy"])
    assert answer["loss"] == pytest.approx(recorded["loss"], rel=1e-5)


def test_accuracy_does_not_depend_on_the_batch(cli, trained):
    answers = [
        cli("evaluate", trained, "--batch-size", size, "--json").result for size in (50, 841)
    ]
    assert answers[0]["accuracy"] == pytest.approx(answers[1]["accuracy"])


def test_predictions_of_a_batch_are_those_of_single_records(cli, trained):
    _, model = lastax.training.load_run(trained)
    source = lastax.data.DATASETS["speech"].open(lastax.data.data_folder()).sources["validation"]
    records = [source[index] for index in range(40)]
    logits = lastax.predict(model, {"x": np.stack([record["x"] for record in records])})
    alone = [model(record["x"]) for record in records[:3]]
    np.testing.assert_allclose(logits[:3], np.stack(alone), rtol=1e-4, atol=1e-5)


def test_score_has_one_row_per_layer(cli, trained):
    answer = cli("score", trained, "--method", "last", "--json").result
    assert [len(layer["scores"]) for layer in answer["layers"]] == [4, 4]
    assert [max(layer["scores"]) for layer in answer["layers"]] == [1.0, 1.0]
    assert "largest H-inf" in cli("score", trained).stdout


def test_prune_writes_a_smaller_run_like_any_other(cli, trained, tmp_path):
    out = tmp_path / "small"
    answer = cli("prune", trained, "--ratio", 0.5, "--out", out, "--json").result
    assert answer["states_before"] == 8
    assert answer["states_after"] == 4
    left = [layer["states_after"] for layer in answer["layers"]]
    assert sum(left) == 4
    weights = safetensors.numpy.load_file(out / "model.safetensors")
    for index, count in enumerate(left):
        prefix = f"encoder.blocks.{index}.layer."
        shapes = {
            name.removeprefix(prefix): weights[name].shape for name in weights if prefix in name
        }
        assert shapes == {
            "Lambda_re": (count,),
            "Lambda_im": (count,),
            "B": (count, 8, 2),
            "C": (8, count, 2),
            "C_reverse": (8, count, 2),
            "D": (8,),
            "log_step": (count,),
        }
        layer = answer["layers"][index]
        assert layer["parameters_after"] == sum(np.prod(shape) for shape in shapes.values())
        assert layer["bytes_after"] == 4 * layer["parameters_after"]
    assert (out / "model.safetensors").stat().st_size < (
        trained / "model.safetensors"
    ).stat().st_size
    evaluated = cli("evaluate", out, "--split", "test", "--json").result
    assert evaluated["accuracy"] == answer["test"]["after"]
    again = cli("prune", out, "--states", 2, "--out", tmp_path / "smaller", "--json").result
    assert [layer["states_after"] for layer in again["layers"]] == [1, 1]


def test_prune_draws_eigenvalues_and_states(cli, trained, tmp_path):
    shown = cli("prune", trained, "--ratio", 0.5, "--out", tmp_path / "small").stdout
    assert "H-infinity" in shown
    for name in ("poles.png", "states.png"):
        with Image.open(tmp_path / "small" / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(10**7)) > 20


def test_nothing_removed_nothing_changed(cli, trained, tmp_path):
    answer = cli("prune", trained, "--ratio", 0, "--out", tmp_path / "same", "--json").result
    assert answer["test"]["before"] == answer["test"]["after"]
    before, after = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (trained, tmp_path / "same")
    )
    assert all((before[name] == after[name]).all() for name in before)


def test_max_loss_holds_on_the_validation_split(cli, trained, tmp_path):
    out = tmp_path / "small"
    answer = cli("prune", trained, "--max-loss", 3, "--out", out, "--json").result
    lost = answer["validation"]["before"] - answer["validation"]["after"]
    assert 100 * lost <= 3 + 1e-6
    assert 2 <= answer["states_after"] <= 8


def test_a_refitted_run_can_be_evaluated_and_pruned_again(cli, trained, tmp_path):
    out = tmp_path / "small"
    options = ("--method", "calibrated", "--calibration", 5, "--budget", "uniform", "--fast")
    answer = cli("prune", trained, "--ratio", 0.5, *options, "--out", out, "--json").result
    assert answer["states_after"] == 4
    config = lastax.training.load_config(out)
    assert config.states == (2, 2)
    assert config.pruning["sequences"] == 5
    again = cli("evaluate", out, "--json").result
    assert again["accuracy"] == pytest.approx(answer["test"]["after"])
    # Masks of a run that is pruned twice refer to the states of the first network.
    cli("prune", out, "--states", 2, "--out", tmp_path / "smaller")
    smaller = lastax.training.load_config(tmp_path / "smaller")
    counts = lastax.training.untrained_counts(config.model)
    for before, after in zip(
        lastax.training.kept_masks(config, counts),
        lastax.training.kept_masks(smaller, counts),
        strict=True,
    ):
        assert not np.any(after & ~before)
        assert after.sum() == 1


def test_calibrated_networks_are_reconstructed_unless_it_must_be_fast(
    cli, trained, tmp_path, monkeypatch
):
    read = []
    monkeypatch.setattr(
        "lastax.training._runs.load_arrays", lambda path: read.append(path) or load_arrays(path)
    )
    options = ("--method", "calibrated", "--calibration", 8, "--budget", "uniform", "--ratio", 0.5)
    divergence = {}
    for name, more, steps, words in (
        ("default", (), 100, "100 steps of reconstruction (--fast: 64 and none)"),
        ("fast", ("--fast",), 0, "no reconstruction"),
    ):
        shown = cli("prune", trained, *options, *more, "--out", tmp_path / name).stdout
        assert f"calibration: 8 sequences, {words}" in " ".join(shown.split())
        assert lastax.training.load_config(tmp_path / name).pruning["reconstruct"] == steps
        layers = lastax.training.load_results(tmp_path / name)["layers"]
        divergence[name] = sum(layer["output_error"] for layer in layers)
    assert read == 2 * [trained / "model.safetensors"]
    # Error on the calibration data, which reconstruction minimizes.
    assert divergence["default"] < divergence["fast"]


def test_methods_are_compared_at_the_same_number_of_states(cli, trained, tmp_path):
    options = ("--ratio", 0.5, "--compare-with", "calibrated", "--compare-with", "aire", "--json")
    answer = cli("prune", trained, *options, "--out", tmp_path / "small").result
    assert set(answer["compared"]) == {"calibrated", "aire"}
    alone = cli(
        "prune", trained, "--method", "aire", "--ratio", 0.5, "--out", tmp_path / "aire", "--json"
    ).result
    assert answer["compared"]["aire"]["test"] == pytest.approx(alone["test"]["after"])


def test_certificates_and_fidelity_are_reported(cli, trained, tmp_path):
    out = tmp_path / "small"
    answer = cli("prune", trained, "--ratio", 0.5, "--out", out, "--json").result
    (_, model), (_, small) = lastax.training.load_run(trained), lastax.training.load_run(out)
    for told, pair in zip(
        answer["certificates"],
        zip(lastax.systems(model), lastax.systems(small), strict=True),
        strict=True,
    ):
        assert told == pytest.approx(lastax.certify(*pair)._asdict())
        assert 0 < told["hinf"] <= told["bound"] * (1 + 1e-9)
    for split in ("validation", "test"):
        assert 0 < answer[split]["agreement"] <= 1
        assert answer[split]["kl_divergence"] > 0
    assert lastax.training.load_results(out)["certificates"] == answer["certificates"]
    shown = cli("prune", trained, "--ratio", 0, "--out", tmp_path / "same").stdout
    assert "it does not bound the error of the network's output" in " ".join(shown.split())
    assert "same prediction as before: 100.00 %; KL divergence: 0.000 nats" in shown


@pytest.mark.slow
def test_auto_keeps_the_fewest_states(cli, trained, tmp_path):
    out = tmp_path / "small"
    options = ("--method", "auto", "--calibration", 8, "--budget", "uniform", "--json")
    ended = cli("prune", trained, *options, "--max-loss", 4, "--out", out)
    answer = ended.result
    lost = answer["validation"]["before"] - answer["validation"]["after"]
    assert 100 * lost <= 4 + 1e-6
    tried = re.findall(r"^([\w-]+), (\d+) of 8 states", ended.stderr, flags=re.MULTILINE)
    assert len({method for method, _ in tried}) == 4
    for method in {method for method, _ in tried} - {answer["method"]}:
        # Options without effect on a method are refused.
        budget = ("--budget", "uniform") if method == "calibrated" else ()
        data = ("--calibration", 8) if lastax.METHODS[method].needs_calibration else ()
        chosen = ("--method", method, *data, *budget, "--max-loss", 4, "--json")
        alone = cli("prune", trained, *chosen, "--out", tmp_path / method).result
        assert alone["states_after"] >= answer["states_after"]
    assert lastax.training.load_config(out).pruning["method"] == answer["method"]


def test_a_dense_feedthrough_counts_as_states(cli, trained, tmp_path):
    out = tmp_path / "full"
    options = (
        "--method",
        "calibrated",
        "--calibration",
        8,
        "--budget",
        "uniform",
        "--dense-feedthrough",
        "--fast",
    )
    answer = cli("prune", trained, "--states", 7, *options, "--out", out, "--json").result
    # 8 channels, bidirectional: 64 weights, and a state has 48.
    assert answer["feedthrough_states"] == 4
    assert answer["states_after"] == 3
    weights = safetensors.numpy.load_file(out / "model.safetensors")
    assert weights["encoder.blocks.0.layer.D"].shape == (8, 8)
    again = cli("evaluate", out, "--json").result
    assert again["accuracy"] == pytest.approx(answer["test"]["after"])
    less = cli("prune", out, "--states", 2, "--out", tmp_path / "less", "--json").result
    assert less["states_after"] == 2
    assert lastax.training.load_config(tmp_path / "less").dense_feedthrough
    shown = cli("prune", trained, "--states", 7, *options).stdout
    assert "counts as 4 more states" in shown
    # A refit is judged on its data; its worst case is only shown on request.
    assert "on the calibration data" in " ".join(shown.split())
    assert "H-infinity" not in shown
    other = ("--method", "last-refitted", "--calibration", 8, "--dense-feedthrough")
    refused = ((*options, "--states", 4), (*options, "--ratio", 0.9), (*other, "--ratio", 0.9))
    for arguments in refused:
        few = cli("prune", trained, *arguments)
        assert few.status == 1
        assert "dense feedthrough" in few.stderr
    assert cli("prune", trained, "--method", "last", "--dense-feedthrough").status == 2


@pytest.mark.slow
def test_pruned_tuned_and_distilled(cli, trained, tmp_path):
    options = ("--ratio", 0.5, "--finetune", 1, "--finetune-rate", 1, "--json")
    answers = {}
    variants = {"tuned": (), "distilled": ("--distill",)}
    variants |= {"recalibrated": ("--recalibrate-batch-norm",)}
    for name, more in (variants | {"reconstructed": ("--reconstruct", 20)}).items():
        some = options if name in ("tuned", "distilled") else (*options[:2], "--json")
        out = tmp_path / name
        answers[name] = cli("prune", trained, *some, *more, "--out", out).result
        again = cli("evaluate", out, "--json").result
        assert again["accuracy"] == pytest.approx(answers[name]["test"]["after"])
        assert lastax.training.load_config(out).states == tuple(
            layer["states_after"] for layer in answers[name]["layers"]
        )
    tuned, distilled = (
        lastax.training.load_config(tmp_path / name) for name in ("tuned", "distilled")
    )
    assert tuned.pruning["finetune"] == 1
    assert not tuned.pruning["distill"]
    assert distilled.pruning["distill"]
    assert lastax.training.load_config(tmp_path / "recalibrated").pruning["recalibrate_batch_norm"]
    assert lastax.training.load_config(tmp_path / "reconstructed").pruning["reconstruct"] == 20
    reconstructed, recalibrated = (
        answers[name]["validation"]["kl_divergence"] for name in ("reconstructed", "recalibrated")
    )
    assert reconstructed < recalibrated
    # The labels of the run are smoothed; the outputs of its teacher are not.
    assert answers["tuned"]["test"] != answers["distilled"]["test"]


@pytest.mark.parametrize(
    ("layer", "methods"), [("s4d", ("last-per-channel", "calibrated")), ("lru", ("balanced",))]
)
def test_other_layers_are_trained_pruned_and_scored(cli, tmp_path, layer, methods):
    rng = np.random.default_rng(0)
    np.savez("own.npz", x_train=rng.normal(size=(60, 9, 2)), y_train=np.arange(60) % 3)
    run = tmp_path / layer
    small = ("--layers", 2, "--channels", 4, "--states", 2, "--epochs", 1, "--batch-size", 10)
    data = ("--task", "arrays", "--data", "own.npz")
    ended = cli("train", *data, "--layer", layer, *small, "--out", run, "--json")
    assert ended.status == 0, ended.stderr
    total = sum(lastax.training.load_config(run).states)
    assert total == (16 if layer == "s4d" else 4)
    for method in methods:
        out = tmp_path / method
        fast = ("--fast",) if method == "calibrated" else ()
        options = ("--method", method, "--ratio", 0.5, "--out", out, *fast)
        answer = cli("prune", run, *options, "--json").result
        assert 2 <= answer["states_after"] <= total // 2
        reached = cli("evaluate", out, "--json").result["accuracy"]
        assert reached == pytest.approx(answer["test"]["after"])
    scores = cli("score", run, "--json").result
    assert sum(len(layer["scores"]) for layer in scores["layers"]) == total


def test_prune_prints_a_table(cli, trained, tmp_path):
    shown = cli("prune", trained, "--out", tmp_path / "small").stdout
    assert "pp)" in shown
    assert "all" in shown
    assert "poles.png" in shown


def test_scores_are_compared(cli, trained):
    answer = cli("score", trained, "--compare", "--json").result
    assert "random" not in answer["methods"]
    assert "balanced" not in answer["methods"]
    for layer in answer["layers"]:
        assert layer["last"]["global-hinf"] == pytest.approx(1)
        assert layer["lamp"]["global-magnitude"] == pytest.approx(1)
        for one, row in layer.items():
            assert all(value == layer[other][one] for other, value in row.items())
            assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in row.values())
    shown = cli("score", trained, "--compare", "--method", "aire").stdout
    assert "rank correlation with aire" in shown
    assert cli("score", trained, "--compare", "--method", "balanced").status == 2


def test_random_pruning_draws_differ_between_runs(trained, tmp_path):
    config = lastax.training.load_config(trained)
    other = dataclasses.replace(config, seed=1)
    keys = [pruning_key(each, 0) for each in (config, other)]
    _, model = lastax.training.load_run(trained)
    first, second = (
        lastax.plan_pruning(model, ratio=0.5, method="random", key=key).scores for key in keys
    )
    assert not np.array_equal(first[0], second[0])


def test_runs_are_found_at_any_depth(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "mine")
    shutil.copytree(trained, tmp_path / "a" / "b" / "c")
    shutil.copytree(trained, tmp_path / ".hidden")
    assert {path.name for path in lastax.training.find_runs(tmp_path)} == {"mine", "c"}
    (tmp_path / "mine" / "model.safetensors").unlink()
    (tmp_path / "mine" / "results.json").unlink()
    assert [path.name for path in lastax.training.find_runs(tmp_path, finished=False)] == ["mine"]
