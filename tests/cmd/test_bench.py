"""`lastax bench`: what it compares computes the same, and what it answers is complete."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lastax.cmd._bench_paper import DATA
from lastax.cmd._measure import measure
from lastax.cmd._programs import METHODS, SHAPES, Shape, seconds_to_prune
from lastax.cmd._public import PublicS5, public_scan, published
from lastax.cmd.bench import SUITES

import lastax

SMALL = Shape(batch=2, length=12, channels=4, states=6, layers=2)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("conj_sym", [False, True])
def test_the_public_way_computes_the_same(getkey, bidirectional, conj_sym):
    layer = lastax.S5.initialize(4, 6, bidirectional=bidirectional, conj_sym=conj_sym, key=getkey())
    u = jax.random.normal(getkey(), (30, 4))
    keep = np.array([True, False, True, True, False, True])
    public = PublicS5.of(layer)
    np.testing.assert_allclose(public(u), layer(u), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(public.keep(keep)(u), layer.keep(keep)(u), rtol=1e-4, atol=1e-5)
    assert public.keep(keep).layer.B.shape == layer.B.shape  # masked, not removed

    def energy(one):
        return jnp.sum(one(u) ** 2)

    ours = eqx.filter_grad(energy)(layer)
    theirs = eqx.filter_grad(energy)(public).layer
    assert eqx.tree_equal(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_public_scan_is_the_recurrence(getkey, reverse):
    b = jax.random.normal(getkey(), (9, 3, 2)) @ jnp.array([1, 1j])
    lam = jnp.array([0.9, 0.5j, -0.99])
    states, _ = lastax.diagonal_scan(lam + 0j, b, reverse=reverse)
    np.testing.assert_allclose(public_scan(lam + 0j, b, reverse=reverse), states, rtol=1e-4)


def test_the_public_network_computes_the_same(getkey):
    """In evaluation, and in a step of training: loss, moved statistics and parameters."""
    config = lastax.ModelConfig(layers=2, channels=6, states=4)
    network = lastax.build_network(config, input_size=3, classes=5, key=getkey())
    public = published(network)
    batch = {"x": jax.random.normal(getkey(), (4, 20, 3)), "label": jnp.arange(4)}
    theirs, ours = lastax.predict(public, batch), lastax.predict(network, batch)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    # Plain descent: what Adam makes of a gradient of rounding errors differs.
    optimizer, key, moved = optax.sgd(0.1), getkey(), []
    for one in (public, network):
        state = lastax.training.TrainState.initialize(one, optimizer)
        state, metrics = lastax.training.train_step(state, batch, optimizer=optimizer, key=key)
        moved.append((metrics.loss, named(state.model)))
    assert float(moved[0][0]) == pytest.approx(float(moved[1][0]), rel=1e-4)
    assert moved[0][1].keys() == moved[1][1].keys()
    for name, ours in moved[1][1].items():
        np.testing.assert_allclose(moved[0][1][name], ours, rtol=1e-3, atol=1e-4, err_msg=name)


def named(network):
    """Arrays under the names that they have in a network of ours."""
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array))
    names = {jax.tree_util.keystr(path): leaf for path, leaf in arrays}
    return {
        name.replace(".layer.layer", ".layer"): leaf
        for name, leaf in names.items()
        if not name.endswith(".layer.mask")
    }


@pytest.mark.parametrize("suite", SUITES)
def test_programs_of_a_suite_agree(suite):
    """Whatever is timed under one heading returns one result, but for what was pruned."""
    build, baseline = SUITES[suite]
    results = {}
    for name, program in build(SMALL).items():
        what, _, who = name.partition("/")
        value = eqx.filter_jit(program.function)(*program.arguments)
        size = who.rpartition(" ")[0].replace("masked", "").replace("ours", "").strip()
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(value, eqx.is_array))]
        results.setdefault((what, size), {})[who] = leaves
        assert program.work.operations > 0
        assert program.work.bytes > 0
    assert any(baseline in same for same in results.values())
    for (what, _), same in results.items():
        if what in ("forward", "gradient") and suite != "layer":
            first, *others = same.values()
            for other in others:
                for one, two in zip(first, other, strict=True):
                    np.testing.assert_allclose(two, one, rtol=2e-3, atol=2e-3)


def test_measuring_counts_every_repeat():
    programs = {name: (lambda x: x @ x, (jnp.ones((8, 8)),)) for name in ("a", "b")}
    seen = []
    results = measure(programs, repeats=4, on_program=seen.append)
    assert seen == ["a", "b"]
    for result in results.values():
        assert len(result.times) == 4
        assert min(result.times) <= result.median <= max(result.times)
        assert result.compile_seconds > 0


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(SHAPES, "short", SMALL)
    return ("bench", "recurrence", "--shape", "short", "--repeats", 2)


def test_bench_answers_with_cases(cli, tiny):
    answer = cli(*tiny, "--json").answer
    assert {case["name"] for case in answer["cases"]} == {
        f"short/{what}/{who}" for what in ("forward", "gradient") for who in ("public", *METHODS)
    }
    assert answer["gigaflops"] > 0
    assert answer["gigabytes_per_second"] > 0
    for case in answer["cases"]:
        assert case["ratio"] > 0
        assert len(case["times"]) == 2
        assert case["ratio"] == 1 or case["who"] != "public"
        assert case["share_of_roofline"] == pytest.approx(
            case["roofline_seconds"] / case["median_seconds"]
        )


def test_bench_draws(cli, tiny, tmp_path):
    cli(*tiny, "--plot", tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_of_speed_is_found(cli, tiny, tmp_path):
    """Compared with ratios that no machine reaches, it fails; with modest ones it does not."""
    path = tmp_path / "ratios.json"
    cli(*tiny, "--store", path)
    stored = json.loads(path.read_text())
    for factor, status in ((1e-3, 0), (1e3, 1)):
        changed = {
            name: {"ratio": factor * ratios["ratio"]}
            for name, ratios in stored["recurrence"].items()
        }
        path.write_text(json.dumps({"recurrence": changed}))
        ended = cli(*tiny, "--check", path)
        assert ended.status == status
        assert ("slower than" in ended.stderr) == (status == 1)
    path.write_text("{}")
    ended = cli(*tiny, "--check", path)
    assert ended.status == 1
    assert "no ratio" in ended.stderr


def test_pruning_is_timed_as_the_program_does_it():
    assert 0 < seconds_to_prune(SMALL) < 60


def test_the_table_of_full_scale_data_names_every_full_scale_task():
    tasks = {
        name
        for name, task in lastax.training.TASKS.items()
        if any(size == "paper" for _, size in task.presets)
    }
    assert set(DATA) == tasks


@pytest.mark.slow
def test_full_scale_presets_are_stepped_and_estimated(cli, monkeypatch):
    monkeypatch.setitem(DATA, "smnist", dataclasses.replace(DATA["smnist"], length=56))
    answer = json.loads(cli("bench", "paper", "--task", "smnist", "--json").stdout)
    s5, lru = answer["cases"]
    assert (s5["layer"], lru["layer"]) == ("s5", "lru")
    # 4 blocks of 96 channels and 64 pairs: embedding, norm, gate, layer, head.
    layer = 64 * 3 + 4 * 64 * 96 + 96
    assert s5["parameters"] == 4 * (layer + 96**2 + 96 + 2 * 96) + 2 * 96 + 96 * 10 + 10
    assert s5["steps"] == 150 * 1080
    # u B, x C and the gate, forward and twice that backward.
    row = 4 * (8 * 96 * 64 + 2 * 96**2)
    assert s5["operations_a_step"] == 3 * 50 * 56 * row
    assert s5["measured_seconds"] > 0
    share = 50 / 2
    assert s5["estimated_seconds_here"] == share * s5["measured_seconds"] * s5["steps"]
    assert s5["estimated_gpu_seconds"] == s5["operations_a_step"] * s5["steps"] / 1e13


def test_tasks_without_full_scale_presets_are_named(cli):
    result = cli("bench", "paper", "--task", "speech")
    assert result.status == 1
    assert "speech has no full-scale preset" in result.stderr
