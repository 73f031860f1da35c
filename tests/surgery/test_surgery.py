"""Layers in any PyTree: find them, replace them, and remove their states."""

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

from ..systems import few, random_layer, random_system, seeds

variants = pytest.mark.parametrize(
    ("bidirectional", "conj_sym"),
    [(False, True), (False, False), (True, True), (True, False)],
    ids=["uni-pairs", "uni-single", "bi-pairs", "bi-single"],
)
LENGTH, CHANNELS, STATES = 11, 3, 6
# Only two sizes, since each size compiles again.
MASKS = st.sampled_from([1, 4]).flatmap(
    lambda kept: st.permutations([True] * kept + [False] * (STATES - kept))
)


def inputs():
    return jnp.asarray(np.random.default_rng(0).normal(size=(LENGTH, CHANNELS)), jnp.float32)


@eqx.filter_jit
def apply(layer, u):
    return layer(u)


def masked(layer, mask):
    """The layer with zero input to the states outside the mask."""
    return dataclasses.replace(layer, B=layer.B * mask[:, None, None])


@variants
@few
@given(seed=seeds, mask=MASKS)
def test_removed_states_equal_masked_states(bidirectional, conj_sym, seed, mask):
    mask = np.array(mask)
    layer = random_layer(seed, states=STATES, bidirectional=bidirectional, conj_sym=conj_sym)
    (small,) = lastax.keep_states([layer], [mask])
    expected = apply(masked(layer, mask), inputs())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(apply(small, inputs()), expected, rtol=0, atol=2e-6 * scale)


@variants
def test_all_arrays_of_the_layer_shrink(bidirectional, conj_sym):
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
def test_layers_are_found_and_replaced_in_any_pytree(build):
    first, second = random_layer(0, states=4), random_layer(1, states=6, bidirectional=True)
    tree = build(first, second)
    assert lastax.find_layers(tree) == [first, second]
    assert lastax.state_counts(tree) == [4, 6]
    masks = [np.arange(4) % 2 == 0, np.arange(6) < 3]
    small = lastax.keep_states(tree, masks)
    assert lastax.state_counts(small) == [2, 3]
    expected = build(first.keep(masks[0]), second.keep(masks[1]))
    assert eqx.tree_equal(small, expected)
    assert lastax.state_counts(lastax.prune(tree, ratio=0.5, method="uniform-hinf")) == [2, 3]


def test_a_layer_is_a_model():
    layer = random_layer(0, states=4)
    assert lastax.find_layers(layer) == [layer]
    assert lastax.state_counts(lastax.prune(layer, ratio=0.5)) == [2]


class Decay(eqx.Module):
    """A custom layer: real poles, and only the three methods of `lastax.Layer`."""

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


def test_custom_layer_can_be_pruned():
    rates, gains = jnp.asarray([0.1, 1.0, 5.0]), jnp.asarray([[1.0, 2.0, 0.1]])
    custom, s5 = Decay(rates, gains), random_layer(0, states=4)
    small = lastax.prune({"custom": custom, "s5": s5}, states=3, method="uniform-hinf")
    assert isinstance(small["custom"], Decay)
    assert lastax.state_counts(small) == [1, 2]
    # The norms are 1/(1 - exp(-0.1)), 2/(1 - exp(-1)) and about 0.1, so the first state remains.
    np.testing.assert_array_equal(small["custom"].rate, rates[:1])
    u = jnp.ones((5, 1))
    powers = np.exp(-0.1) ** np.arange(5)
    np.testing.assert_allclose(small["custom"](u)[:, 0], np.cumsum(powers), rtol=1e-5)


def test_object_without_keep_is_no_layer():
    class NoKeep(eqx.Module):
        def system(self, step_rescale=1.0):
            raise AssertionError

        def __call__(self, u):
            raise AssertionError

    with pytest.raises(ValueError, match="no state-space layer in this list: a layer is a node"):
        lastax.find_layers([NoKeep(), jnp.ones(3), random_system(0), lastax.S5])


def test_systems_are_float64_on_the_host():
    layer = random_layer(0)
    (system,) = lastax.systems([layer])
    assert all(isinstance(a, np.ndarray) for a in jax.tree.leaves(system))
    Lambda = np.asarray(layer.Lambda_re, float) + 1j * np.asarray(layer.Lambda_im, float)
    step = np.exp(np.asarray(layer.log_step, float))
    np.testing.assert_allclose(system.lam, np.exp(Lambda * step), rtol=1e-14)
    assert not jax.config.read("jax_enable_x64")


def test_model_without_layers_raises():
    with pytest.raises(ValueError, match="no state-space layer in this dict"):
        lastax.prune({"weight": jnp.ones(3)}, ratio=0.5)


@pytest.mark.parametrize(
    "masks", [[np.ones(4, bool)], [np.ones(4, bool), np.ones(5, bool)]], ids=["number", "length"]
)
def test_wrong_number_or_length_of_masks_raises(masks):
    layers = [random_layer(0, states=4), random_layer(1, states=6)]
    with pytest.raises(
        ValueError, match=r"layers have \[4, 6\] states, but the masks have lengths"
    ):
        lastax.keep_states(layers, masks)


def test_removing_all_states_of_a_layer_raises():
    layers = [random_layer(0, states=4), random_layer(1, states=6)]
    with pytest.raises(ValueError, match=r"layers \[1\] would lose all their states"):
        lastax.keep_states(layers, [np.ones(4, bool), np.zeros(6, bool)])


@pytest.mark.parametrize(
    "mask", [np.ones(12, bool), np.ones(3, bool), np.ones(8, int)], ids=["long", "short", "ints"]
)
def test_wrong_mask_raises(getkey, mask):
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


@pytest.mark.parametrize("kind", [lastax.S5, lastax.S4D], ids=["s5", "s4d"])
def test_what_cannot_be_read_is_named_in_one_line(kind):
    layer = kind.initialize(2, 4, key=jax.random.key(1))
    stacked = jax.tree.map(lambda leaf: np.stack(3 * [leaf]), layer)
    masks = [np.ones(lastax.state_counts(layer)[0], bool)]
    uses = {
        "prune": lambda model: lastax.prune(model, ratio=0.5),
        "keep_states": lambda model: lastax.keep_states(model, masks),
    }
    without_C = eqx.tree_at(lambda layer: layer.C, layer, None)
    for name, use in uses.items():
        with pytest.raises(
            ValueError, match=rf"^{name}: layer 0 .* holds 3 layers stacked .*\)\]$"
        ):
            use(stacked)
        with pytest.raises(ValueError, match=rf"^{name}: layer 0 .* holds None in .*C.*combine"):
            use(without_C)
    traced = "prune: needs arrays with values, .* outside jit, vmap and grad"
    for transform, model in ((eqx.filter_jit, layer), (eqx.filter_vmap, stacked)):
        with pytest.raises(ValueError, match=traced):
            transform(uses["prune"])(model)
    (system,) = lastax.systems(layer)
    double = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), system)
    for name, use in {
        "certify": lambda: lastax.certify(double, double),
        "score_states": lambda: lastax.score_states([double]),
        "hinf_norms": lambda: lastax.hinf_norms(double),
    }.items():
        with pytest.raises(ValueError, match=rf"{name}: lam has shape .* 2 stacked systems"):
            use()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(lastax.S5, jnp.bfloat16), (lastax.S4D, jnp.float16), (lastax.LRU, jnp.bfloat16)],
    ids=["s5-bfloat16", "s4d-float16", "lru-bfloat16"],
)
def test_half_precision_layers_are_pruned_in_single_precision(kind, dtype):
    layer = kind.initialize(2, 4, key=jax.random.key(1))
    half = jax.tree.map(lambda leaf: leaf.astype(dtype), layer)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    assert lastax.state_counts(half) == lastax.state_counts(layer)
    for method in ("last", "balanced"):
        plan = lastax.plan_pruning(half, ratio=0.5, method=method)
        same = lastax.plan_pruning(wide, ratio=0.5, method=method)
        np.testing.assert_array_equal(plan.scores[0], same.scores[0])
        expected = jax.tree.map(lambda leaf: leaf.astype(dtype), same.apply(wide))
        assert eqx.tree_equal(plan.apply(half), expected)


def test_a_layer_that_is_used_twice_counts_once_and_stays_one():
    shared, other = random_layer(0, states=4), random_layer(1, states=6)
    model = {"first": shared, "between": other, "last": shared}
    assert lastax.state_counts(model) == [6, 4]
    copied = jax.tree.map(lambda leaf: leaf, model)
    for tied in (model, copied):
        small = lastax.prune(tied, states=5)
        assert small["first"] is small["last"]
        assert sum(lastax.state_counts(small)) == 5
    # Layers of equal values are not one layer.
    assert lastax.state_counts([shared, jax.tree.map(jnp.copy, shared)]) == [4, 4]
    again = dataclasses.replace(shared, scan_method="sequential")
    assert lastax.state_counts([shared, again]) == [4, 4]


def test_masks_alone_give_the_shapes_of_a_pruned_model():
    mask = np.array([True, False, True, True])

    def build():
        return {"layer": lastax.S5.initialize(2, 4, key=jax.random.key(0)), "scale": jnp.ones(3)}

    expected = jax.tree.map(lambda leaf: leaf.shape, lastax.keep_states(build(), [mask]))
    whole = eqx.filter_eval_shape(build)
    for small in (
        eqx.filter_eval_shape(lambda: lastax.keep_states(build(), [mask])),
        lastax.keep_states(whole, [mask]),
    ):
        assert jax.tree.map(lambda leaf: leaf.shape, small) == expected
    assert lastax.state_counts(whole) == [4]
    with pytest.raises((ValueError, TypeCheckError), match=r"masks must have values|keep"):
        eqx.filter_eval_shape(lastax.keep_states, build(), [mask])
