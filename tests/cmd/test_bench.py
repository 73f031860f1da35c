"""`lastax bench`: what it compares computes the same, and what it answers is complete."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lastax.cmd._measure import measure
from lastax.cmd._public import PublicS5, public_scan
from lastax.cmd.bench import SUITES, Shape

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


@pytest.mark.parametrize("suite", SUITES)
def test_programs_of_a_suite_agree(suite):
    """Whatever is timed under one heading returns one result, but for what was pruned."""
    build, baseline = SUITES[suite]
    results = {}
    for name, (function, arguments) in build(SMALL).items():
        what, _, who = name.partition("/")
        value = eqx.filter_jit(function)(*arguments)
        size = who.rpartition(" ")[0].replace("masked", "").replace("ours", "").strip()
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(value, eqx.is_array))]
        results.setdefault((what, size), {})[who] = leaves
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


def test_bench_answers_with_cases(cli, monkeypatch):
    monkeypatch.setitem(lastax.cmd.bench.SHAPES, "short", SMALL)
    answer = cli("bench", "recurrence", "--shape", "short", "--repeats", 2, "--json").answer
    assert {case["name"] for case in answer["cases"]} == {
        f"short/{what}/{who}"
        for what in ("forward", "gradient")
        for who in ("public", "associative", "sequential")
    }
    for case in answer["cases"]:
        assert case["ratio"] > 0
        assert len(case["times"]) == 2
        assert case["ratio"] == 1 or case["who"] != "public"
