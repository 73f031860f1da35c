"""Removed states are gone, and nothing else has changed."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

import lastax

from .systems import few, random_layer, random_system, seeds

variants = pytest.mark.parametrize(
    ("bidirectional", "conj_sym"),
    [(False, True), (False, False), (True, True), (True, False)],
    ids=["uni-pairs", "uni-real", "bi-pairs", "bi-real"],
)
LENGTH, CHANNELS, STATES = 11, 3, 6
# Two sizes alone, since each is compiled anew.
MASKS = st.sampled_from([1, 4]).flatmap(
    lambda kept: st.permutations([True] * kept + [False] * (STATES - kept))
)


def inputs():
    return jnp.asarray(np.random.default_rng(0).normal(size=(LENGTH, CHANNELS)), jnp.float32)


@eqx.filter_jit
def apply(layer, u):
    return layer(u)


def silenced(layer, mask):
    """The layer with its states as they are, but those out of the mask hear nothing."""
    return dataclasses.replace(layer, B=layer.B * mask[:, None, None])


def network(getkey, layers):
    blocks = tuple(
        lastax.nn.Block(
            lastax.nn.LayerNorm.initialize(CHANNELS),
            layer,
            lastax.nn.Gate.initialize(CHANNELS, "half_glu1", key=getkey()),
        )
        for layer in layers
    )
    encoder = lastax.nn.Encoder(lastax.nn.Linear.initialize(2, CHANNELS, key=getkey()), blocks)
    return lastax.Classifier(encoder, lastax.nn.Linear.initialize(CHANNELS, 4, key=getkey()))


@variants
@few
@given(seed=seeds, mask=MASKS)
def test_removed_is_masked(bidirectional, conj_sym, seed, mask):
    mask = np.array(mask)
    layer = random_layer(seed, states=STATES, bidirectional=bidirectional, conj_sym=conj_sym)
    (small,) = lastax.keep_states([layer], [mask])
    wanted = apply(silenced(layer, mask), inputs())
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(apply(small, inputs()), wanted, rtol=0, atol=2e-6 * scale)


@variants
def test_no_trace_of_a_removed_state_is_left(bidirectional, conj_sym):
    layer = random_layer(0, states=STATES, bidirectional=bidirectional, conj_sym=conj_sym)
    mask = np.array([True, False, True, False, False, True])
    (small,) = lastax.keep_states([layer], [mask])
    states_last = {"C", "C_reverse"}
    for name in ("Lambda_re", "Lambda_im", "B", "C", "C_reverse", "log_step"):
        before, after = getattr(layer, name), getattr(small, name)
        if before is None:
            assert after is None
        else:
            kept = before[:, mask] if name in states_last else before[mask]
            np.testing.assert_array_equal(after, kept)
    np.testing.assert_array_equal(small.D, layer.D)
    for name in ("conj_sym", "discretize", "clip_eigenvalues"):
        assert getattr(small, name) == getattr(layer, name)
    assert type(small) is type(layer)
    assert layer.Lambda_re.shape == (STATES,)


class Pair(NamedTuple):
    first: object
    second: object


class Holder(eqx.Module):
    inner: object
    weight: jax.Array


PYTREES = {
    "layer": lambda a, b: [a, b],
    "dict": lambda a, b: {"a": a, "text": "kept", "b": {"deep": b, "number": 3}},
    "tuple": lambda a, b: (a, (None, b), 1.5),
    "named_tuple": lambda a, b: Pair(a, [b]),
    "module": lambda a, b: Holder(Holder([a, b], jnp.ones(2)), jnp.zeros(3)),
    "mixed": lambda a, b: [jax.nn.relu, {"x": Pair(a, Holder(b, jnp.ones(1)))}],
}


@pytest.mark.parametrize("build", PYTREES.values(), ids=PYTREES)
def test_any_pytree(build):
    first, second = random_layer(0, states=4), random_layer(1, states=6, bidirectional=True)
    tree = build(first, second)
    assert lastax.find_layers(tree) == [first, second]
    assert lastax.state_counts(tree) == [4, 6]
    masks = [np.arange(4) % 2 == 0, np.arange(6) < 3]
    small = lastax.keep_states(tree, masks)
    assert lastax.state_counts(small) == [2, 3]
    wanted = build(first.keep(masks[0]), second.keep(masks[1]))
    assert eqx.tree_equal(small, wanted)
    assert lastax.state_counts(lastax.prune(tree, ratio=0.5, method="uniform-hinf")) == [2, 3]


def test_single_layer_is_a_model():
    layer = random_layer(0, states=4)
    assert lastax.find_layers(layer) == [layer]
    assert lastax.state_counts(lastax.prune(layer, ratio=0.5)) == [2]


class Decay(eqx.Module):
    """Somebody's own layer: one real pole a channel, and only the three methods."""

    rate: jax.Array
    gain: jax.Array

    def system(self, step_rescale=1.0):
        channels = self.gain.shape[0]
        lam = jnp.exp(-self.rate * step_rescale) + 0j
        B = jnp.ones((self.rate.shape[0], channels)) + 0j
        C, D = self.gain + 0j, jnp.zeros(channels, self.gain.dtype)
        return lastax.System(lam, B, C, None, D, conj_sym=False)

    def __call__(self, u, *, step_rescale=1.0):
        return self.system(step_rescale)(u)

    def keep(self, mask):
        return Decay(self.rate[mask], self.gain[:, mask])


def test_layer_of_somebody_else():
    rates, gains = jnp.asarray([0.1, 1.0, 5.0]), jnp.asarray([[1.0, 2.0, 0.1]])
    mine, ours = Decay(rates, gains), random_layer(0, states=4)
    small = lastax.prune({"mine": mine, "ours": ours}, states=3, method="uniform-hinf")
    assert isinstance(small["mine"], Decay)
    assert lastax.state_counts(small) == [1, 2]
    # Norms 1/(1 - exp(-0.1)), 2/(1 - exp(-1)) and about 0.1: the first stays.
    np.testing.assert_array_equal(small["mine"].rate, rates[:1])
    u = jnp.ones((5, 1))
    powers = np.exp(-0.1) ** np.arange(5)
    np.testing.assert_allclose(small["mine"](u)[:, 0], np.cumsum(powers), rtol=1e-5)


def test_two_methods_do_not_make_a_layer():
    class NoKeep(eqx.Module):
        def system(self, step_rescale=1.0):
            raise AssertionError

        def __call__(self, u):
            raise AssertionError

    with pytest.raises(ValueError, match="no state-space layer in this list: a layer is a node"):
        lastax.find_layers([NoKeep(), jnp.ones(3), random_system(0), lastax.S5])


@pytest.mark.parametrize("method", sorted(set(lastax.METHODS) - {"random"}))
def test_nothing_removed_changes_no_bit(method, getkey):
    layers = [random_layer(i, states=4, bidirectional=bool(i)) for i in range(2)]
    model = network(getkey, layers)
    moments = [lastax.calibration.white_moments(system) for system in lastax.systems(model)]
    options = {"method": method, "length": LENGTH, "moments": moments}
    same = lastax.plan_pruning(model, ratio=0.0, **options).apply(model)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(LENGTH, 2)), jnp.float32)
    np.testing.assert_array_equal(same(x), model(x))
    assert eqx.tree_equal(same, model)


@pytest.mark.parametrize("method", sorted(lastax.METHODS))
def test_every_method_keeps_the_highest_scores(method, getkey):
    """Exactly the count; no removed state of a layer scores more than a kept one of it."""
    layers = [random_layer(i, states=6) for i in range(3)]
    options = {"ratio": 0.5, "method": method, "length": 20, "key": getkey()}
    moments = [lastax.calibration.white_moments(system) for system in lastax.systems(layers)]
    plan = lastax.plan_pruning(layers, **options, moments=moments)
    assert sum(plan.states_after) == 9
    assert plan.states_before == [6, 6, 6]
    assert min(plan.states_after) >= 1
    for scores, keep in zip(plan.scores, plan.keep, strict=True):
        assert scores[keep].min() >= scores[~keep].max(initial=-np.inf)
    if method.startswith("uniform"):
        assert plan.states_after == [3, 3, 3]
    small = plan.apply(layers)
    if lastax.METHODS[method].measured:
        with pytest.raises(ValueError, match="goes by real data: give calibration="):
            lastax.prune(layers, **options)
    else:
        assert eqx.tree_equal(lastax.prune(layers, **options), small)
    assert lastax.state_counts(small) == plan.states_after
    kept = lastax.keep_states(layers, plan.keep)
    # New states take the places, and nothing but the places, of those that are kept.
    assert eqx.tree_equal(small, kept) == (lastax.METHODS[method].reduce is None)
    assert jax.tree.structure(small) == jax.tree.structure(kept)


def test_own_method():
    first_states = lastax.Method(
        score=lambda system, given: -np.arange(system.states) * 1.0,
        select=lastax.select_global,
        summary="the first states of each layer",
    )
    layers = [random_layer(0, states=4), random_layer(1, states=2)]
    plan = lastax.plan_pruning(layers, states=4, method=first_states)
    assert [keep.tolist() for keep in plan.keep] == [[True, True, False, False], [True, True]]


def test_pruned_network_is_the_masked_one(getkey):
    layers = [random_layer(i, states=5, bidirectional=True) for i in range(2)]
    model = network(getkey, layers)
    plan = lastax.plan_pruning(model, ratio=0.4)
    masked = eqx.tree_at(
        lambda m: [block.layer for block in m.encoder.blocks],
        model,
        [silenced(layer, keep) for layer, keep in zip(layers, plan.keep, strict=True)],
    )
    x = jnp.asarray(np.random.default_rng(1).normal(size=(LENGTH, 2)), jnp.float32)
    small = lastax.prune(model, ratio=0.4)
    assert sum(lastax.state_counts(small)) == 6
    np.testing.assert_allclose(apply(small, x), apply(masked, x), rtol=0, atol=1e-5)
    assert np.abs(apply(small, x) - apply(model, x)).max() > 1e-4


def test_systems_are_float64_on_the_host():
    layer = random_layer(0)
    (system,) = lastax.systems([layer])
    assert all(isinstance(a, np.ndarray) for a in jax.tree.leaves(system))
    Lambda = np.asarray(layer.Lambda_re, float) + 1j * np.asarray(layer.Lambda_im, float)
    step = np.exp(np.asarray(layer.log_step, float))
    np.testing.assert_allclose(system.lam, np.exp(Lambda * step), rtol=1e-14)
    assert not jax.config.read("jax_enable_x64")


def test_model_without_layers():
    with pytest.raises(ValueError, match="no state-space layer in this dict"):
        lastax.prune({"weight": jnp.ones(3)}, ratio=0.5)


@pytest.mark.parametrize(
    "masks", [[np.ones(4, bool)], [np.ones(4, bool), np.ones(5, bool)]], ids=["number", "length"]
)
def test_masks_that_do_not_fit(masks):
    layers = [random_layer(0, states=4), random_layer(1, states=6)]
    with pytest.raises(ValueError, match=r"layers have \[4, 6\] states, but the masks are for"):
        lastax.keep_states(layers, masks)


def test_no_layer_may_lose_all():
    layers = [random_layer(0, states=4), random_layer(1, states=6)]
    with pytest.raises(ValueError, match=r"layers \[1\] would lose all their states"):
        lastax.keep_states(layers, [np.ones(4, bool), np.zeros(6, bool)])


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0])
def test_ratio_outside_its_range(ratio):
    with pytest.raises(ValueError, match=r"ratio must be in \[0, 1\)"):
        lastax.prune(random_layer(0), ratio=ratio)


@pytest.mark.parametrize("given_", [{}, {"ratio": 0.5, "states": 3}], ids=["neither", "both"])
def test_either_ratio_or_states(given_):
    with pytest.raises(ValueError, match="give either ratio= or states="):
        lastax.prune(random_layer(0), **given_)


@pytest.mark.parametrize("states", [0, 7])
def test_impossible_number_of_states(states):
    with pytest.raises(ValueError, match=r"1 layers of \[6\] states allow 1 to 6"):
        lastax.prune(random_layer(0), states=states)


def test_unknown_method_names_those_there_are():
    with pytest.raises(ValueError, match=r"no pruning method 'lest'; there are random, .*last"):
        lastax.prune(random_layer(0), ratio=0.5, method="lest")


def test_what_a_method_lacks():
    with pytest.raises(ValueError, match="random pruning needs a key"):
        lastax.prune(random_layer(0), ratio=0.5, method="random")
    with pytest.raises(ValueError, match="needs the length of the sequences"):
        lastax.prune(random_layer(0), ratio=0.5, method="last-finite-horizon")


def test_random_pruning_follows_its_key(getkey):
    layers = [random_layer(0, states=20), random_layer(1, states=20)]
    key, other = getkey(), getkey()
    plan = lastax.plan_pruning(layers, ratio=0.5, method="random", key=key)
    again = lastax.plan_pruning(layers, ratio=0.5, method="random", key=key)
    assert [keep.tolist() for keep in plan.keep] == [keep.tolist() for keep in again.keep]
    moved = lastax.plan_pruning(layers, ratio=0.5, method="random", key=other)
    assert any(np.any(a != b) for a, b in zip(plan.keep, moved.keep, strict=True))
    assert np.any(plan.scores[0] != plan.scores[1])


def unstable_layer(states=4):
    layer = random_layer(0, states=states)
    return dataclasses.replace(layer, Lambda_re=layer.Lambda_re.at[1].set(0.5))


@pytest.mark.parametrize("method", ["last", "lamp", "uniform-magnitude", "last-published"])
def test_unstable_states_are_kept_with_a_warning(method):
    layers = [random_layer(1, states=4), unstable_layer()]
    with pytest.warns(lastax.surgery.UnstableStatesWarning, match=r"a layer: \[\[\], \[1\]\]"):
        small = lastax.prune(layers, states=2, method=method)
    assert lastax.state_counts(small) == [1, 1]
    np.testing.assert_array_equal(small[1].Lambda_re, [0.5])


def test_too_few_states_for_the_unstable_ones():
    layer = unstable_layer()
    layer = dataclasses.replace(layer, Lambda_re=layer.Lambda_re.at[2].set(0.1))
    with pytest.raises(ValueError, match="too few to keep every unstable one"):
        lastax.prune(layer, states=1)


@pytest.mark.parametrize(
    "mask", [np.ones(12, bool), np.ones(3, bool), np.ones(8, int)], ids=["long", "short", "ints"]
)
def test_masks_of_the_wrong_kind_are_refused(getkey, mask):
    layer = lastax.S5.initialize(3, 8, key=getkey())
    (system,) = lastax.systems(layer)
    for use in (
        lambda: layer.keep(mask),
        lambda: system.keep(mask),
        lambda: lastax.error_bound(system, mask),
        lambda: lastax.analysis.error_hinf(system, mask),
        lambda: lastax.analysis.error_h2(system, mask),
    ):
        with pytest.raises((ValueError, TypeCheckError)):
            use()
