"""`lastax bench`: compared programs compute the same, and its results are complete."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lastax
from lastax.cmd import _console
from lastax.cmd.bench import _gpu, _kernel, _layer, _prune, _recurrence, _state_penalty, _train_step
from lastax.cmd.bench._comparison import check_ratios
from lastax.cmd.bench._measure import compile_programs, run_in_turns
from lastax.cmd.bench._paper import DATA
from lastax.cmd.bench._programs import (
    ALL_SHAPES,
    GPU_METHODS,
    METHODS,
    PAPER_SHAPES,
    Shape,
)
from lastax.cmd.bench._prune import seconds_to_prune
from lastax.cmd.bench._recurrence import layer_recurrence_programs
from lastax.cmd.bench._reference import ReferenceS5, reference_network, reference_scan

SUITES = [module.SUITE for module in (_recurrence, _layer, _kernel, _train_step, _prune)]
# It has programs that no other suite has.
OF_LAYERS = _gpu.SUITES["recurrence"][0]

SMALL = Shape(batch=2, length=12, channels=4, states=6, layers=2)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("conj_sym", [False, True])
def test_reference_layer_equals_s5(getkey, bidirectional, conj_sym):
    layer = lastax.S5.initialize(4, 6, bidirectional=bidirectional, conj_sym=conj_sym, key=getkey())
    u = jax.random.normal(getkey(), (12, 4))
    keep = np.array([True, False, True, True, False, True])
    reference = ReferenceS5.of(layer)
    assert reference.keep(keep).layer.B.shape == layer.B.shape  # masked, not removed

    @eqx.filter_jit
    def results(one):
        """Outputs, outputs without some states, and gradients."""
        gradient = eqx.filter_grad(lambda one: jnp.sum(one(u) ** 2))
        return one(u), one.keep(keep)(u), gradient(one)

    (got, kept, gradient), (expected, removed, expected_gradient) = map(results, (reference, layer))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(kept, removed, rtol=1e-4, atol=1e-5)
    assert eqx.tree_equal(expected_gradient, gradient.layer, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_reference_scan_is_the_recurrence(getkey, reverse):
    b = jax.random.normal(getkey(), (9, 3, 2)) @ jnp.array([1, 1j])
    lam = jnp.array([0.9, 0.5j, -0.99])
    states, _ = lastax.diagonal_scan(lam + 0j, b, reverse=reverse)
    np.testing.assert_allclose(reference_scan(lam + 0j, b, reverse=reverse), states, rtol=1e-4)


def test_reference_network_equals_network(getkey):
    """One training step: loss, running statistics and parameters.

    Predictions are compared in `test_programs_of_a_suite_agree`.
    """
    config = lastax.ModelConfig(layers=1, channels=6, states=4)
    network = lastax.build_network(config, input_size=3, classes=5, key=getkey())
    reference = reference_network(network)
    batch = {"x": jax.random.normal(getkey(), (4, 12, 3)), "label": jnp.arange(4)}
    # Gradient descent: Adam would amplify rounding errors of gradients that are zero.
    optimizer, key, trained = optax.sgd(0.1), getkey(), []
    for one in (reference, network):
        state = lastax.training.TrainState.initialize(one, optimizer)
        step = eqx.filter_jit(lastax.training.train_step)
        state, metrics = step(state, batch, optimizer=optimizer, key=key)
        trained.append((float(metrics.loss), named_arrays(state.model)))
    (loss, arrays), (expected_loss, expected_arrays) = trained
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert arrays.keys() == expected_arrays.keys()
    for name, expected in expected_arrays.items():
        np.testing.assert_allclose(arrays[name], expected, rtol=1e-3, atol=1e-4, err_msg=name)


def named_arrays(network):
    """Arrays by their names in the network of `lastax`."""
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array))
    names = {jax.tree_util.keystr(path): leaf for path, leaf in arrays}
    return {
        name.replace(".layer.layer", ".layer"): leaf
        for name, leaf in names.items()
        if not name.endswith(".layer.mask")
    }


@functools.cache
def small_programs(suite):
    return suite.programs(SMALL)


@pytest.mark.parametrize("suite", [*SUITES, OF_LAYERS], ids=lambda suite: suite.name)
def test_programs_of_a_suite_agree(suite):
    """Programs of one operation return the same values if they have the same states.

    Parameters after a training step are compared in `test_reference_network_equals_network`,
    gradients of a layer in `test_reference_layer_equals_s5`, and those of a recurrence in the suite
    of `diagonal_scan`: here they only have to be defined.
    """
    compared = {}
    for name, program in small_programs(suite).items():
        operation, _, implementation = name.partition("/")
        assert program.work.operations > 0
        assert program.work.bytes > 0
        if operation == "training" or (
            "gradient" in operation and suite in (_layer.SUITE, OF_LAYERS)
        ):
            assert eqx.filter_eval_shape(program.function, *program.arguments) is not None
        elif "30 %" not in name and "80 %" not in name:  # as 50 %, with other sizes
            compared[name] = program

    @eqx.filter_jit
    def run(arguments):
        return {name: compared[name].function(*values) for name, values in arguments.items()}

    results = {}
    for name, value in run({name: one.arguments for name, one in compared.items()}).items():
        operation, _, implementation = name.partition("/")
        size = implementation.replace("masked", "").replace("lastax", "")
        size = size.strip() if size.endswith("%") else ""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(value, eqx.is_array))]
        if suite is OF_LAYERS and implementation == "reference":
            leaves = [np.concatenate([leaf.real, leaf.imag], axis=-1) for leaf in leaves]
        results.setdefault((operation, size), {})[implementation] = leaves
    assert any(suite.baseline in same for same in results.values())
    for same in results.values():
        first, *others = same.values()
        for other in others:
            for one, two in zip(first, other, strict=True):
                np.testing.assert_allclose(two, one, rtol=2e-3, atol=2e-3)


def test_measuring_counts_every_repeat_and_goes_on_after_a_failure():
    square = jnp.ones((8, 8))
    functions = {"a": lambda x: x @ x, "b": lambda x: x + 1, "fails": lambda x: x @ x[:3]}
    programs = {name: (function, (square,)) for name, function in functions.items()}
    seen, failed = [], []

    def record(name, error):
        failed.append((name, type(error)))

    compiled = compile_programs(programs, threads=2, on_progress=seen.append, on_failure=record)
    assert seen == list(programs)
    assert failed == [("fails", TypeError)]
    results = run_in_turns(compiled, repeats=4, seconds=1e-3)
    assert results.keys() == {"a", "b"}
    for result in results.values():
        assert len(result.times) == 4
        assert min(result.times) <= result.median <= max(result.times)
        assert result.compile_seconds > 0


def test_gpu_benchmark_without_a_gpu_prints_a_message(cli, tmp_path):
    result = cli("bench", "gpu", "--out", tmp_path / "gpu.json")
    assert result.status == 0
    assert "found no GPU" in result.stdout
    assert not (tmp_path / "gpu.json").exists()


def test_each_penalty_takes_part_in_its_training_step():
    """With each of them, the parameters after the step are different ones."""
    programs = _state_penalty.SUITE.programs(dataclasses.replace(SMALL, layers=1))
    names = [f"training/lastax, {name}" for name in lastax.analysis.STATE_PENALTIES]
    assert list(programs) == ["training/lastax", *names]
    inputs = []
    for program in programs.values():
        state, _ = eqx.filter_jit(program.function)(*program.arguments)
        (layer,) = lastax.surgery.find_layers(state.model)
        inputs.append(np.asarray(layer.B))
    for first, second in itertools.combinations(inputs, 2):
        assert not np.array_equal(first, second)


def test_gpu_suites_have_the_sizes_of_the_presets():
    for name, shape in PAPER_SHAPES.items():
        task = name.removeprefix("paper/")
        preset = lastax.training.TASKS[task].presets["s5", "paper"]
        model, batch = preset.model, preset.training.batch_size
        sizes = (batch, DATA[task].length, model.channels, model.states)
        assert dataclasses.astuple(shape)[:4] == sizes
    programs = small_programs(OF_LAYERS)
    assert {name.partition("/")[2] for name in programs} == {"reference", *GPU_METHODS}


def test_gpu_benchmark_runs_to_its_end_and_reports_failures(cli, tmp_path, monkeypatch):
    """On a CPU: tables, the file, and the other programs if one of them fails."""

    def programs(shape):
        found = layer_recurrence_programs(shape, ("associative",))
        one, other = found["forward/reference"], found["forward/associative"]
        fails = dataclasses.replace(one, function=lambda lam, b: lam @ b)
        named = {"reference": one, "lastax, tf32": other, "lastax": fails}
        return {f"forward/{name}": program for name, program in named.items()}

    suite = _gpu.Suite("recurrence", "", programs)
    monkeypatch.setattr(_gpu, "SUITES", {"recurrence": (suite, ()), "depth": (suite, ())})
    file = tmp_path / "gpu.json"
    ended = cli("bench", "gpu", "--dry-run", "--repeats", 2, "--out", file)
    assert ended.status == 1
    assert "bench gpu: 2 programs failed" in ended.stderr
    # The sizes are tiny, so the numbers must not pass for a measurement.
    assert ended.stdout.count("recurrence: dry run") == len(_gpu.SUITES)
    assert "GFLOP/s" not in ended.stdout
    content = json.loads(file.read_text())
    assert content["dry_run"] is True
    assert set(content["failed"]) == {f"{name} tiny/forward/lastax" for name in _gpu.SUITES}
    for suite in content["suites"]:
        cases = {case["implementation"]: case for case in suite["cases"]}
        assert cases.keys() == {"reference", "lastax, tf32"}
        ratio = cases["reference"]["median_seconds"] / cases["lastax, tf32"]["median_seconds"]
        assert cases["lastax, tf32"]["speedup"] == pytest.approx(ratio)
        assert suite["gigaflops_by_precision"].keys() == lastax.nn.PRECISIONS.keys()


@pytest.mark.slow
def test_all_programs_of_the_gpu_benchmark_run(cli, tmp_path):
    file = tmp_path / "gpu.json"
    assert cli("bench", "gpu", "--dry-run", "--repeats", 1, "--out", file).status == 0
    content = json.loads(file.read_text())
    assert not content["failed"]
    assert [suite["suite"] for suite in content["suites"]] == list(_gpu.SUITES)
    cases = {case["name"]: case for suite in content["suites"] for case in suite["cases"]}
    assert cases["tiny/training/lastax 80 %"]["speedup_over_masked"] > 0
    assert cases["tiny/training/reference"]["precision"] == "tf32"
    for name in lastax.nn.PRECISIONS:
        assert cases[f"tiny/training/lastax, {name}"]["precision"] == name


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(ALL_SHAPES, "short", SMALL)
    return ("bench", "recurrence", "--shape", "short", "--repeats", 2)


@pytest.fixture
def ratios(tmp_path):
    """Write a file with one speedup of all programs of `tiny`."""

    def write(speedup):
        path = tmp_path / f"{speedup}.json"
        names = (f"short/{o}/{m}" for o in ("forward", "gradient") for m in METHODS)
        path.write_text(json.dumps({"recurrence": {name: {"speedup": speedup} for name in names}}))
        return path

    return write


def test_results_have_a_case_per_program(cli, tiny, ratios, tmp_path):
    """One call measures, stores, draws and compares with speedups that every machine reaches."""
    figure, stored = tmp_path / "speed.png", tmp_path / "stored.json"
    files = ("--plot", figure, "--store", stored, "--check", ratios(1e-3))
    results = cli(*tiny, *files, "--json").result
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert {case["name"] for case in results["cases"]} == {
        f"short/{operation}/{implementation}"
        for operation in ("forward", "gradient")
        for implementation in ("reference", *METHODS)
    }
    assert results["gigaflops"] > 0
    assert results["gigabytes_per_second"] > 0
    for case in results["cases"]:
        assert case["speedup"] > 0
        assert len(case["times"]) == 2
        assert case["speedup"] == 1 or case["implementation"] != "reference"
        assert case["share_of_roofline"] == pytest.approx(
            case["roofline_seconds"] / case["median_seconds"]
        )
    kept = json.loads(stored.read_text())["recurrence"]
    assert {name: one["speedup"] for name, one in kept.items()} == {
        case["name"]: round(case["speedup"], 3)
        for case in results["cases"]
        if case["implementation"] != "reference"
    }
    with pytest.raises(lastax.serialization.RunError, match=r"worse than in .*speedup"):
        check_ratios(ratios(1e3), _recurrence.SUITE, results["cases"])
    stored.write_text("{}")
    with pytest.raises(lastax.serialization.RunError, match="has no ratio of recurrence"):
        check_ratios(stored, _recurrence.SUITE, results["cases"])


def test_slower_programs_are_found(cli, tiny, ratios, monkeypatch):
    """The check fails against speedups that no machine reaches, after a table that is not cut."""
    monkeypatch.setattr(_recurrence, "METHODS", METHODS[-1:])
    monkeypatch.setattr(_console.out, "width", 60)
    ended = cli(*tiny, "--check", ratios(1e3))
    assert ended.status == 1
    assert "worse than" in ended.stderr
    table = ended.stdout.partition("this machine")[0]
    assert max(map(len, table.splitlines())) <= 60
    assert "…" not in table
    assert "speedup" in table
    assert "roofline" in table


def test_stored_ratios_belong_to_programs():
    """`make bench-check` compares every program of lastax with a ratio in docs/performance.json."""
    path = Path(__file__).parents[2] / "docs" / "performance.json"
    for name, stored in json.loads(path.read_text()).items():
        (suite,) = (suite for suite in SUITES if suite.name == name)
        assert {program.partition("/")[0] for program in stored} == set(ALL_SHAPES) - set(
            PAPER_SHAPES
        )
        names = {n for n in small_programs(suite) if suite.checks(n.rpartition("/")[2])}
        assert {program.partition("/")[2] for program in stored} == names
        for ratios in stored.values():
            assert ratios.keys() <= {"speedup", "temporary_ratio", "speedup_over_masked"}


def test_pruning_is_timed():
    assert 0 < seconds_to_prune(SMALL) < 60


def test_every_full_scale_task_has_published_sizes():
    tasks = {
        name
        for name, task in lastax.training.TASKS.items()
        if any(size == "paper" for _, size in task.presets)
    }
    assert set(DATA) == tasks


@pytest.mark.slow
def test_full_scale_presets_are_measured_and_estimated(cli, monkeypatch):
    monkeypatch.setitem(DATA, "smnist", dataclasses.replace(DATA["smnist"], length=56))
    results = json.loads(cli("bench", "paper", "--task", "smnist", "--json").stdout)
    s5, lru = results["cases"]
    assert (s5["layer"], lru["layer"]) == ("s5", "lru")
    # 4 blocks of 96 channels and 64 pairs: embedding, norm, gate, layer, head.
    layer = 64 * 3 + 4 * 64 * 96 + 96
    assert s5["parameters"] == 4 * (layer + 96**2 + 96 + 2 * 96) + 2 * 96 + 96 * 10 + 10
    assert s5["steps"] == 150 * 1080
    # u B, x C and the gate; the backward pass costs twice the forward pass.
    per_position = 4 * (8 * 96 * 64 + 2 * 96**2)
    assert s5["operations_per_step"] == 3 * 50 * 56 * per_position
    assert s5["measured_seconds"] > 0
    share = 50 / 2
    assert s5["estimated_seconds"] == share * s5["measured_seconds"] * s5["steps"]
    assert s5["estimated_gpu_seconds"] == s5["operations_per_step"] * s5["steps"] / 1e13


def test_tasks_without_full_scale_presets_are_rejected(cli):
    result = cli("bench", "paper", "--task", "speech")
    assert result.status == 1
    assert "speech has no full-scale preset" in result.stderr


@pytest.mark.parametrize("implementation", ["masked 80 %", "lastax"])
def test_only_pruned_networks_are_judged(implementation, tmp_path):
    """Neither masked networks nor the baseline can fail the check of `bench prune`."""
    name = f"short/forward/{implementation}"
    stored = tmp_path / "stored.json"
    pruned = {"short/forward/lastax 80 %": {"speedup": 1.5}}
    stored.write_text(json.dumps({"prune": {name: {"speedup": 10.0}} | pruned}))
    cases = [
        {"name": name, "shape": "short", "implementation": implementation, "speedup": 1.0}
        for name, implementation in (
            (name, implementation),
            ("short/forward/lastax 80 %", "lastax 80 %"),
        )
    ]
    with pytest.raises(lastax.serialization.RunError) as caught:
        check_ratios(stored, _prune.SUITE, cases)
    assert "lastax 80 % speedup 1.00, was 1.50" in str(caught.value)
    assert f"{name} speedup" not in str(caught.value)
