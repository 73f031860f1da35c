"""Refits of models, layers and systems of classes that lastax does not know."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from ..calibration_helpers import data
from ..systems import random_layer


class Chain(NamedTuple):
    """A foreign model: two layers with a tanh between them, and nothing else."""

    parts: list[Any]


@dataclasses.dataclass(frozen=True)
class ChainForward(lastax.BlockwiseForward):
    """The least that a foreign model gives."""

    def enter(self, model, x, length):
        return lastax.nn.HiddenStates(x, jnp.ones(x.shape[:2], bool), None)

    def blocks(self, model):
        return model.parts

    def before(self, block, states):
        return states.hidden

    def after(self, block, states, y):
        return states._replace(hidden=jnp.tanh(y))

    def features(self, model, states):
        return states.hidden.mean(axis=1)


def test_a_foreign_model_is_refitted_through_its_blockwise_forward():
    model = Chain([random_layer(seed, states=5) for seed in (0, 1)])
    moved = lambda first, second: float(np.mean((first - second) ** 2))  # noqa: E731
    small, report = lastax.refit(model, data(), states=4, forward=ChainForward(), divergence=moved)
    assert isinstance(small, Chain)
    assert lastax.state_counts(small) == report.states_after
    assert sum(report.states_after) == 4


@pytest.mark.parametrize("name", ["enter", "blocks", "before", "after", "features"])
def test_a_forward_pass_that_lacks_a_method_is_refused(name):
    incomplete = type("Incomplete", (ChainForward,), {name: getattr(lastax.BlockwiseForward, name)})
    model = Chain([random_layer(0, states=3)])
    with pytest.raises(ValueError, match=f"calibrate: Incomplete lacks {name};"):
        lastax.calibrate(model, data(), forward=incomplete())


def test_a_class_in_the_place_of_a_forward_pass_is_refused():
    with pytest.raises(ValueError, match=r"is the class ChainForward; pass an object"):
        lastax.calibrate(Chain([random_layer(0, states=3)]), data(), forward=ChainForward)


@pytest.mark.parametrize("method", ["head", "linears"])
def test_linear_maps_of_other_classes_are_refused(method):
    other = eqx.nn.Linear(3, 3, key=jax.random.key(0))

    class WithOther(ChainForward):
        def head(self, model):
            return other if method == "head" else None

        def linears(self, block):
            return (other,) if method == "linears" else ()

    model = Chain([random_layer(0, states=3)])
    message = rf"refit: {method} of WithOther returns equinox\S+\.Linear; .*lastax\.nn\.Linear"
    with pytest.raises(ValueError, match=message):
        lastax.refit(model, data(), states=2, forward=WithOther())


class Residual(eqx.Module):
    """A foreign model that can be called: two layers with skip connections."""

    parts: list[Any]

    def __call__(self, x):
        for layer in self.parts:
            x = x + jnp.tanh(layer(x))
        return x.mean(axis=0)


@dataclasses.dataclass(frozen=True)
class ResidualForward(ChainForward):
    """The forward pass of `Residual`, with one of several faults."""

    fault: str = ""

    def enter(self, model, x, length):
        return super().enter(model, 2 * x if self.fault == "enter" else x, length)

    def after(self, block, states, y):
        skipped = 0 if self.fault == "no skip connection" else states.hidden
        return states._replace(hidden=skipped + jnp.tanh(y))

    def features(self, model, states):
        return states.hidden[:, -1] if self.fault == "pooling" else states.hidden.mean(axis=1)


class ResidualWithKey(Residual):
    def __call__(self, x, *, key):
        return super().__call__(x)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("enter", "at the input of the layer of block 0"),
        ("no skip connection", "at the input of the layer of block 1"),
        ("pooling", "behind the layer of block 1"),
    ],
)
def test_a_wrong_forward_pass_is_refused_with_the_place_where_it_goes_wrong(fault, where):
    model, batch = Residual([random_layer(seed, states=5) for seed in (0, 1)]), data()
    lastax.calibrate(model, batch, forward=ResidualForward())
    x = jnp.asarray(batch["x"])
    states = ResidualForward(fault).enter(model, x, None)
    for layer in model.parts:
        states = ResidualForward(fault).after(layer, states, jax.vmap(layer)(states.hidden))
    found, wanted = ResidualForward(fault).features(model, states), jax.vmap(model)(x)
    difference = float(jnp.abs(found - wanted).max() / jnp.abs(wanted).max())
    message = rf"differ from those of the model by {difference:.2g} of .* begins {where}"
    with pytest.raises(ValueError, match=message):
        lastax.calibrate(model, batch, forward=ResidualForward(fault))
    with pytest.raises(ValueError, match=f"reconstruct: .* begins {where}"):
        lastax.reconstruct(model, model, batch, forward=ResidualForward(fault))


def test_a_model_that_is_called_otherwise_is_not_compared():
    model = ResidualWithKey([random_layer(seed, states=5) for seed in (0, 1)])
    with pytest.warns(lastax.calibration.UncheckedForwardWarning, match="define model_outputs"):
        lastax.calibrate(model, data(), forward=ResidualForward())

    class WithKey(ResidualForward):
        def model_outputs(self, model, x):
            return jax.vmap(lambda x: model(x, key=None))(x)

    lastax.calibrate(model, data(), forward=WithKey())
    with pytest.raises(ValueError, match="behind the layer of block 1"):
        lastax.calibrate(model, data(), forward=WithKey("pooling"))


class OneAChannel(eqx.Module):
    """A foreign kind of layer that is its own system: states of single channels, ragged."""

    lam: Any
    B: Any
    C: Any
    D: Any
    channel: tuple[int, ...] = eqx.field(static=True)

    @property
    def states(self):
        return len(self.channel)

    def system(self, step_rescale=1.0):
        return self

    def __call__(self, u, *, step_rescale=1.0):
        states, _ = lastax.diagonal_scan(self.lam, self.B[None] * u[:, self.channel])
        y = 2 * (self.C[None] * states).real
        return jnp.zeros_like(u).at[:, self.channel].add(y) + self.D[None] * u

    def keep(self, mask):
        kept = tuple(np.array(self.channel)[mask].tolist())
        arrays = (self.lam[mask], self.B[mask], self.C[mask])
        return OneAChannel(*arrays, self.D, kept)

    def with_system(self, system):
        return system


@lastax.calibration.state_features.register(OneAChannel)
def _features(system, u):
    states, _ = lastax.diagonal_scan(system.lam, system.B[None] * u[:, system.channel])
    return jnp.stack([2 * states.real, -2 * states.imag], axis=-1)


@lastax.calibration.state_slots.register(OneAChannel)
def _slots(system):
    channel = np.array(system.channel)
    slots = np.full((len(system.D), max(np.bincount(channel))), -1)
    for number in range(len(slots)):
        own = np.flatnonzero(channel == number)
        slots[number, : len(own)] = own
    return slots


@lastax.calibration.output_weights.register(OneAChannel)
def _weights(system):
    slots = _slots(system)
    C = np.where(slots >= 0, np.asarray(system.C)[slots], 0)
    return np.stack([C.real, C.imag], axis=-1).reshape(len(slots), -1, 1)


@lastax.calibration.with_output_weights.register(OneAChannel)
def _with_weights(system, weights, D):
    slots = _slots(system)
    pairs = weights.reshape(*slots.shape, 2)[slots >= 0]
    C = np.zeros(system.states, np.complex64)
    C[slots[slots >= 0]] = pairs[:, 0] + 1j * pairs[:, 1]
    return dataclasses.replace(system, C=jnp.asarray(C), D=jnp.asarray(D, jnp.float32))


def one_a_channel(seed):
    rng = np.random.default_rng(seed)
    channel = (0, 0, 0, 0, 1, 1, 2, 2, 2)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape), jnp.complex64)

    lam = normal(9)
    lam = 0.9 * lam / jnp.abs(lam)
    D = jnp.asarray(rng.normal(size=3), jnp.float32)
    return OneAChannel(lam, normal(9), normal(9), D, channel)


def test_a_foreign_system_class_needs_four_registered_functions():
    model, batch = Chain([one_a_channel(0), one_a_channel(1)]), data()
    moved = lambda first, second: float(np.mean((first - second) ** 2))  # noqa: E731
    options = {"forward": ChainForward(), "divergence": moved, "budget": "relative-error"}
    same, _ = lastax.refit(model, batch, ratio=0, **options)
    assert eqx.tree_equal(same, model)
    small, report = lastax.refit(model, batch, states=7, **options)
    assert sum(lastax.state_counts(small)) == 7
    for layer in report.layers:
        assert layer.error < layer.error_truncated
    # The first layer answers as its report says.
    u = batch["x"]
    y, answer = (np.asarray(jax.vmap(m.parts[0])(u), np.float64) for m in (model, small))
    error = np.mean((y - answer) ** 2) / np.mean(y**2)
    np.testing.assert_allclose(report.layers[0].error, error, rtol=1e-2)


def test_half_precision_layers_are_refitted_in_single_precision():
    wide = Residual([random_layer(seed, states=5) for seed in (0, 1)])
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide)
    moved = lambda first, second: float(np.mean((first - second) ** 2))  # noqa: E731
    options = {"states": 6, "forward": ResidualForward(), "divergence": moved}
    small, report = lastax.refit(half, data(), **options)
    _, single = lastax.refit(wide, data(), keep=report.keep, **{**options, "states": None})
    assert {leaf.dtype for leaf in jax.tree.leaves(small)} == {jnp.dtype(jnp.bfloat16)}
    assert lastax.state_counts(small) == report.states_after
    for layer, other in zip(report.layers, single.layers, strict=True):
        np.testing.assert_allclose(layer.error, other.error, rtol=0.2, atol=1e-4)


class Crossed(eqx.Module):
    """A foreign model whose fields do not have the order of its forward pass."""

    late: Any
    early: Any

    def __call__(self, x):
        return jnp.tanh(self.late(jnp.tanh(self.early(x)))).mean(axis=0)


class CrossedForward(ChainForward):
    def blocks(self, model):
        return [model.early, model.late]

    def with_blocks(self, model, blocks):
        return Crossed(late=blocks[1], early=blocks[0])


def moved(first, second):
    return float(np.mean((first - second) ** 2))


def test_masks_and_limits_have_the_order_of_find_layers():
    model = Crossed(random_layer(0, states=5), random_layer(1, states=4))
    plan = lastax.plan_pruning(model, states=5)
    assert [len(mask) for mask in plan.keep] == [5, 4]
    options = {"forward": CrossedForward(), "divergence": moved}
    small, report = lastax.refit(model, data(), keep=plan.keep, **options)
    assert lastax.state_counts(small) == [int(mask.sum()) for mask in plan.keep]
    for mask, kept in zip(plan.keep, report.keep, strict=True):
        np.testing.assert_array_equal(mask, kept)
    small, report = lastax.refit(model, data(), states=4, minimum=[3, 1], maximum=[3, 4], **options)
    assert lastax.state_counts(small) == report.states_after == [3, 1]
    # The report describes the model that it comes with.
    assert lastax.state_counts(lastax.keep_states(model, report.keep)) == [3, 1]


def test_moments_have_the_order_of_find_layers():
    model = Crossed(random_layer(0, states=5), random_layer(1, states=4))
    calibration = lastax.calibrate(model, data(), forward=CrossedForward(), divergence=moved)
    early, late = calibration.moments
    assert calibration.layer_moments == [late, early]


def test_a_forward_pass_that_leaves_a_layer_out_is_refused():
    class Short(ChainForward):
        def blocks(self, model):
            return model.parts[:1]

    model = Chain([random_layer(seed, states=4) for seed in (0, 1)])
    with pytest.raises(ValueError, match=r"refit: forward.blocks leaves out layers \[1\]"):
        lastax.refit(model, data(), states=4, forward=Short(), divergence=moved)


def test_a_calibration_knows_the_forward_pass_of_the_reconstruction():
    model = Chain([random_layer(seed, states=4) for seed in (0, 1)])
    calibration = lastax.calibrate(model, data(), forward=ChainForward(), divergence=moved)
    reducer = lastax.pruning.Reducer(model, calibration, reconstruction_steps=1)
    assert sum(reducer.reduce("last", states=4).states_after) == 4
