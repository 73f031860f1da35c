"""evaluate, score, prune and sweep on a trained run: what they answer, write and draw."""

import dataclasses
import json
import re
import shutil

import lastax.data
import numpy as np
import pytest
import safetensors.numpy
from lastax.cmd._console import pruning_key
from PIL import Image

import lastax


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluate_answers_with_one_object(cli, trained, split):
    answer = cli("evaluate", trained, "--split", split, "--json").answer
    assert answer["split"] == split
    assert answer["examples"] == {"validation": 394, "test": 841}[split]
    recorded = json.loads((trained / "results.json").read_text())[split]
    assert answer["accuracy"] == pytest.approx(recorded["accuracy"])
    assert answer["loss"] == pytest.approx(recorded["loss"], rel=1e-5)


def test_accuracy_does_not_depend_on_the_batch(cli, trained):
    answers = [
        cli("evaluate", trained, "--batch-size", size, "--json").answer for size in (50, 841)
    ]
    assert answers[0]["accuracy"] == pytest.approx(answers[1]["accuracy"])


def test_evaluate_agrees_with_answers_counted_one_by_one(cli, trained):
    _, model = lastax.training.load_run(trained)
    source = lastax.data.DATASETS["speech"].open(lastax.data.data_folder()).sources["validation"]
    records = [source[index] for index in range(40)]
    logits = lastax.predict(model, {"x": np.stack([record["x"] for record in records])})
    alone = [model(record["x"]) for record in records[:3]]
    np.testing.assert_allclose(logits[:3], np.stack(alone), rtol=1e-4, atol=1e-5)


def test_score_prints_a_row_a_layer(cli, trained):
    answer = cli("score", trained, "--method", "last", "--json").answer
    assert [len(layer["scores"]) for layer in answer["layers"]] == [4, 4]
    assert [max(layer["scores"]) for layer in answer["layers"]] == [1.0, 1.0]
    assert "largest H-inf" in cli("score", trained).stdout


def test_prune_writes_a_smaller_run_like_any_other(cli, trained, tmp_path):
    out = tmp_path / "small"
    answer = cli("prune", trained, "--ratio", 0.5, "--out", out, "--json").answer
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
    evaluated = cli("evaluate", out, "--split", "test", "--json").answer
    assert evaluated["accuracy"] == answer["test"]["after"]
    again = cli("prune", out, "--states", 2, "--out", tmp_path / "smaller", "--json").answer
    assert [layer["states_after"] for layer in again["layers"]] == [1, 1]


def test_prune_draws_what_it_did(cli, trained, tmp_path):
    cli("prune", trained, "--ratio", 0.5, "--out", tmp_path / "small")
    for name in ("poles.png", "states.png"):
        with Image.open(tmp_path / "small" / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(10**7)) > 20


def test_nothing_removed_nothing_changed(cli, trained, tmp_path):
    answer = cli("prune", trained, "--ratio", 0, "--out", tmp_path / "same", "--json").answer
    assert answer["test"]["before"] == answer["test"]["after"]
    before, after = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (trained, tmp_path / "same")
    )
    assert all((before[name] == after[name]).all() for name in before)


def test_max_loss_holds_on_the_validation_split(cli, trained, tmp_path):
    out = tmp_path / "small"
    answer = cli("prune", trained, "--max-loss", 3, "--out", out, "--json").answer
    lost = answer["validation"]["before"] - answer["validation"]["after"]
    assert 100 * lost <= 3 + 1e-6
    assert 2 <= answer["states_after"] <= 8


def test_a_refit_is_a_run_like_any_other(cli, trained, tmp_path):
    out = tmp_path / "small"
    options = ("--method", "calibrated", "--calibration", 5, "--budget", "uniform")
    answer = cli("prune", trained, "--ratio", 0.5, *options, "--out", out, "--json").answer
    assert answer["states_after"] == 4
    config = lastax.training.load_config(out)
    assert config.states == (2, 2)
    assert config.pruning["sequences"] == 5
    again = cli("evaluate", out, "--json").answer
    assert again["accuracy"] == pytest.approx(answer["test"]["after"])
    # What is pruned once more keeps account of which states of the first network are left.
    cli("prune", out, "--states", 2, "--out", tmp_path / "smaller")
    smaller = lastax.training.load_config(tmp_path / "smaller")
    counts = lastax.training.untrained_counts(config.model)
    for before, after in zip(
        lastax.training.kept_masks(config, counts), lastax.training.kept_masks(smaller, counts), strict=True
    ):
        assert not np.any(after & ~before)
        assert after.sum() == 1


def test_methods_are_shown_beside_each_other(cli, trained, tmp_path):
    options = ("--ratio", 0.5, "--beside", "calibrated", "--beside", "aire", "--json")
    answer = cli("prune", trained, *options, "--out", tmp_path / "small").answer
    assert set(answer["beside"]) == {"calibrated", "aire"}
    alone = cli(
        "prune", trained, "--method", "aire", "--ratio", 0.5, "--out", tmp_path / "aire", "--json"
    ).answer
    assert answer["beside"]["aire"]["test"] == pytest.approx(alone["test"]["after"])


def test_certificates_and_fidelity_are_told(cli, trained, tmp_path):
    out = tmp_path / "small"
    answer = cli("prune", trained, "--ratio", 0.5, "--out", out, "--json").answer
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
        assert answer[split]["divergence"] > 0
    assert lastax.training.load_results(out)["certificates"] == answer["certificates"]
    shown = cli("prune", trained, "--ratio", 0, "--out", tmp_path / "same").stdout
    assert "says nothing of the network's answers" in shown
    assert "100.00 % answered as before, divergence 0.000 nats" in shown


@pytest.mark.slow
def test_auto_takes_what_does_best_on_validation(cli, trained, tmp_path):
    out = tmp_path / "small"
    options = ("--method", "auto", "--calibration", 8, "--budget", "uniform", "--json")
    ended = cli("prune", trained, *options, "--max-loss", 4, "--out", out)
    answer = ended.answer
    lost = answer["validation"]["before"] - answer["validation"]["after"]
    assert 100 * lost <= 4 + 1e-6
    tried = re.findall(r"^([\w-]+), (\d+) of 8 states", ended.stderr, flags=re.MULTILINE)
    assert len({method for method, _ in tried}) == 4
    for method in {method for method, _ in tried} - {answer["method"]}:
        alone = cli(
            "prune",
            trained,
            "--method",
            method,
            *options[2:],
            "--max-loss",
            4,
            "--out",
            tmp_path / method,
        ).answer
        assert alone["states_after"] >= answer["states_after"]
    assert lastax.training.load_config(out).pruning["method"] == answer["method"]


def test_a_full_matrix_counts_as_states(cli, trained, tmp_path):
    out = tmp_path / "full"
    options = ("--method", "calibrated", "--calibration", 8, "--budget", "uniform", "--full-D")
    answer = cli("prune", trained, "--states", 7, *options, "--out", out, "--json").answer
    # 8 channels, both ways: 64 weights, a state has 48.
    assert answer["feedthrough_states"] == 4
    assert answer["states_after"] == 3
    weights = safetensors.numpy.load_file(out / "model.safetensors")
    assert weights["encoder.blocks.0.layer.D"].shape == (8, 8)
    again = cli("evaluate", out, "--json").answer
    assert again["accuracy"] == pytest.approx(answer["test"]["after"])
    less = cli("prune", out, "--states", 2, "--out", tmp_path / "less", "--json").answer
    assert less["states_after"] == 2
    assert lastax.training.load_config(tmp_path / "less").dense_feedthrough
    assert "count for 4 more states" in cli("prune", trained, "--states", 7, *options).stdout
    refused = (("--states", 4), ("--ratio", 0.9), ("--ratio", 0.9, "--method", "last-refitted"))
    for amount in refused:
        few = cli("prune", trained, *options, *amount)
        assert few.status == 1
        assert "full D" in few.stderr
    assert cli("prune", trained, "--method", "last", "--full-D").status == 2


@pytest.mark.slow
def test_pruned_tuned_and_distilled(cli, trained, tmp_path):
    options = ("--ratio", 0.5, "--finetune", 1, "--finetune-rate", 1, "--json")
    answers = {}
    ways = {"tuned": (), "distilled": ("--distill",), "norms": ("--norms",)}
    for name, more in (ways | {"polished": ("--polish", 20)}).items():
        some = options if name in ("tuned", "distilled") else (*options[:2], "--json")
        out = tmp_path / name
        answers[name] = cli("prune", trained, *some, *more, "--out", out).answer
        again = cli("evaluate", out, "--json").answer
        assert again["accuracy"] == pytest.approx(answers[name]["test"]["after"])
        assert lastax.training.load_config(out).states == tuple(
            layer["states_after"] for layer in answers[name]["layers"]
        )
    tuned, distilled = (lastax.training.load_config(tmp_path / name) for name in ("tuned", "distilled"))
    assert tuned.pruning["finetune"] == 1
    assert not tuned.pruning["distill"]
    assert distilled.pruning["distill"]
    assert lastax.training.load_config(tmp_path / "norms").pruning["norms"]
    assert lastax.training.load_config(tmp_path / "polished").pruning["polish"] == 20
    polished, norms = (answers[name]["validation"]["divergence"] for name in ("polished", "norms"))
    assert polished < norms
    # The trained run's own labels are smoothed; its teacher's answers are not.
    assert answers["tuned"]["test"] != answers["distilled"]["test"]


@pytest.mark.parametrize("layer", ["s4d", "lru"])
def test_other_layers_go_all_the_way(cli, tmp_path, layer):
    run = tmp_path / layer
    small = ("--layers", 2, "--channels", 4, "--states", 2, "--epochs", 1, "--epoch-batches", 2)
    cli("train", "--task", "speech", "--layer", layer, *small, "--out", run, "--json")
    total = sum(lastax.training.load_config(run).states)
    assert total == (16 if layer == "s4d" else 4)
    for method in ("last-per-channel", "balanced", "calibrated"):
        out = tmp_path / method
        answer = cli(
            "prune", run, "--method", method, "--ratio", 0.5, "--out", out, "--json"
        ).answer
        assert 2 <= answer["states_after"] <= total // 2
        reached = cli("evaluate", out, "--json").answer["accuracy"]
        assert reached == pytest.approx(answer["test"]["after"])
    scores = cli("score", run, "--json").answer
    assert sum(len(layer["scores"]) for layer in scores["layers"]) == total


def test_prune_shows_a_table_for_people(cli, trained, tmp_path):
    shown = cli("prune", trained, "--out", tmp_path / "small").stdout
    assert "points)" in shown
    assert "all" in shown
    assert "poles.png" in shown


def test_scores_are_compared(cli, trained):
    answer = cli("score", trained, "--compare", "--json").answer
    assert "random" not in answer["methods"]
    assert "balanced" not in answer["methods"]
    for layer in answer["layers"]:
        assert layer["last"]["global-hinf"] == pytest.approx(1)
        assert layer["lamp"]["global-magnitude"] == pytest.approx(1)
        for one, row in layer.items():
            assert all(value == layer[other][one] for other, value in row.items())
            assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in row.values())
    shown = cli("score", trained, "--compare", "--method", "aire").stdout
    assert "rank agreement with aire" in shown
    assert cli("score", trained, "--compare", "--method", "balanced").status == 2


def test_random_pruning_draws_anew_for_each_run(trained, tmp_path):
    config = lastax.training.load_config(trained)
    other = dataclasses.replace(config, seed=1)
    keys = [pruning_key(0, each) for each in (config, other)]
    _, model = lastax.training.load_run(trained)
    first, second = (
        lastax.plan_pruning(model, ratio=0.5, method="random", key=key).scores for key in keys
    )
    assert not np.array_equal(first[0], second[0])


def test_runs_are_found_however_deep_they_lie(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "mine")
    shutil.copytree(trained, tmp_path / "a" / "b" / "c")
    shutil.copytree(trained, tmp_path / ".hidden")
    assert {path.name for path in lastax.training.find_runs(tmp_path)} == {"mine", "c"}
    (tmp_path / "mine" / "model.safetensors").unlink()
    (tmp_path / "mine" / "results.json").unlink()
    assert [path.name for path in lastax.training.find_runs(tmp_path, finished=False)] == ["mine"]
