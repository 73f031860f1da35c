"""Layers of all classes: their forms agree, and they can be pruned, mixed and trained."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lastax

from ..systems import RAGGED, compiled, few, filled_layer, loop, mimo, random_channels, seeds

# Fast compilation matters more than fast programs.
apply = compiled(lambda operator, u: operator(u))

LENGTH, CHANNELS, STATES = 13, 3, 4


@functools.cache
def draw(kind, *, key=0, bidirectional=False):
    return filled_layer(kind, CHANNELS, STATES, seed=key, bidirectional=bidirectional)


def inputs(channels=CHANNELS, length=LENGTH):
    return jnp.asarray(np.random.default_rng(1).normal(size=(length, channels)), jnp.float32)


@compiled
def system_of(layer):
    return layer.system()


def outputs(layer):
    """Outputs for `inputs()`, computed in float64 from the definition of the layer's system."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), layer)
        system = jax.tree.map(np.asarray, system_of(wide))
    return loop(mimo(system), np.asarray(inputs(), float))


kinds = pytest.mark.parametrize("kind", [lastax.S5, lastax.S4D, lastax.LRU])
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
pairs = pytest.mark.parametrize("conj_sym", [True, False], ids=["pairs", "single"])


# Systems of scalar channels


@pytest.mark.parametrize(("bidirectional", "conj_sym"), [(False, True), (True, False)])
@few
@given(seed=seeds, length=st.sampled_from([1, 2, 13, 40]))
def test_channels_match_the_definition(bidirectional, conj_sym, seed, length):
    system = random_channels(seed, bidirectional=bidirectional, conj_sym=conj_sym)
    u = np.random.default_rng(seed).normal(size=(length, len(RAGGED)))
    wanted = loop(mimo(system), u)
    with jax.enable_x64(True):
        np.testing.assert_allclose(apply(system, jnp.asarray(u)), wanted, rtol=0, atol=1e-10)


@pairs
def test_recurrence_in_chunks_and_steps(conj_sym):
    system = random_channels(3, conj_sym=conj_sym)
    u = np.random.default_rng(3).normal(size=(LENGTH, len(RAGGED)))
    with jax.enable_x64(True):
        whole = apply(system, jnp.asarray(u))
        first, state = compiled(system.run)(jnp.asarray(u[:5]))
        second, last = compiled(system.run)(jnp.asarray(u[5:]), state)
        np.testing.assert_allclose(jnp.concatenate([first, second]), whole, atol=1e-12)
        step = compiled(system.step)
        for k in range(5, LENGTH):
            state, y = step(state, jnp.asarray(u[k]))
            np.testing.assert_allclose(y, whole[k], atol=1e-12)
        np.testing.assert_allclose(state, last, atol=1e-12)
    with pytest.raises(ValueError, match="full sequence"):
        random_channels(0, bidirectional=True).step(state, jnp.asarray(u[0]))


@directions
@few
@given(seed=seeds)
@example(seed=185)  # The largest gain lies beside the second largest point of the grid.
def test_certificates_match_those_of_the_dense_system(bidirectional, seed):
    system = random_channels(seed, bidirectional=bidirectional)
    # Always four states, since every number of states compiles anew.
    keep = np.random.default_rng(seed).permutation(system.states) < 4
    same = mimo(system)
    for certificate in (lastax.analysis.error_hinf, lastax.analysis.error_h2):
        wanted = certificate(same, keep)
        np.testing.assert_allclose(certificate(system, keep), wanted, rtol=1e-8, atol=1e-12)
    # The bound per channel is valid, and not larger than the sum over all channels.
    bound = lastax.error_bound(system, keep)
    assert lastax.analysis.error_hinf(system, keep) <= bound * (1 + 1e-12)
    assert bound <= lastax.error_bound(same, keep)
    np.testing.assert_allclose(lastax.hinf_norms(system), lastax.hinf_norms(same), rtol=1e-12)
    np.testing.assert_allclose(
        lastax.analysis.magnitudes(system), lastax.analysis.magnitudes(same), rtol=1e-12
    )
    np.testing.assert_allclose(
        lastax.analysis.impulse_energies(system), lastax.analysis.impulse_energies(same), rtol=1e-12
    )


def test_channels_may_be_empty_but_counts_must_add_up():
    system = random_channels(0)
    only = system.keep(system.channel == 2)
    assert only.counts == (0, 0, 5, 0)
    silent = apply(only, inputs(4))
    np.testing.assert_allclose(silent[:, 0], inputs(4)[:, 0] * system.D[0], rtol=1e-6)
    with pytest.raises(ValueError, match="9 states and 4 channels"):
        dataclasses.replace(system, counts=(3, 0, 5))


def test_float32_kernels_of_long_sequences():
    rng = np.random.default_rng(0)
    lam = (1 - 10 ** rng.uniform(-5, -1, 9)) * np.exp(1j * rng.uniform(-np.pi, np.pi, 9))
    weight = rng.normal(size=9) + 1j * rng.normal(size=9)
    single = jnp.asarray(lam, jnp.complex64), jnp.asarray(weight, jnp.complex64)
    kernel = compiled(lastax.ssm.channel_kernels)(*single, RAGGED, 16384)
    exact = np.zeros((4, 16384))
    rounded = np.asarray(single[0], complex)[:, None] ** np.arange(16384)
    channel = np.repeat(np.arange(4), RAGGED)
    np.add.at(exact, channel, (np.asarray(single[1], complex)[:, None] * rounded).real)
    np.testing.assert_allclose(kernel, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_kernels_have_the_gradient_of_the_exponential_form():
    lam = jnp.asarray([0.9 * np.exp(0.3j), 0.99 * np.exp(-2j), 0.5 + 0j])
    weight = jnp.asarray([1 + 1j, -0.5j, 2.0 + 0j])
    with jax.enable_x64(True):
        target = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40)))

        def plain(lam, weight):
            terms = jnp.exp(jnp.arange(40)[None] * jnp.log(lam)[:, None]) * weight[:, None]
            return jnp.stack([terms[:2].sum(0).real, terms[2].real])

        def energy(kernels):
            return lambda *both: jnp.sum(kernels(*both) * target)

        arguments = jnp.asarray(lam, complex), jnp.asarray(weight, complex)

        def kernels(lam, weight):
            return lastax.ssm.channel_kernels(lam, weight, (2, 1), 40)

        got, wanted = (
            compiled(jax.grad(energy(function), (0, 1)))(*arguments)
            for function in (kernels, plain)
        )
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("length", [1, 5, 64])
def test_convolution_matches_its_sum(length):
    rng = np.random.default_rng(0)
    u, ahead, back = (rng.normal(size=s) for s in ((length, 2), (2, length), (2, length)))
    wanted = np.zeros((length, 2))
    for k in range(length):
        for step in range(length):
            if k - step >= 0:
                wanted[k] += ahead[:, step] * u[k - step]
            if k + step < length:
                wanted[k] += back[:, step] * u[k + step]
    with jax.enable_x64(True):
        got = compiled(lastax.ssm.convolve)(*(jnp.asarray(a) for a in (u, ahead, back)))
    np.testing.assert_allclose(got, wanted, atol=1e-12)


# Layers


@kinds
@directions
def test_layer_applies_its_system(kind, bidirectional):
    layer = draw(kind, bidirectional=bidirectional)
    wanted, got = outputs(layer), apply(layer, inputs())
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@kinds
@directions
def test_with_system_sets_the_system(kind, bidirectional):
    layer, other = draw(kind, bidirectional=bidirectional), draw(kind, key=1)
    (system,) = lastax.systems(layer)
    (lam, B) = (lastax.systems(other)[0].lam, lastax.systems(other)[0].B)
    changed = dataclasses.replace(system, lam=lam, B=B, D=system.D + 1)
    written = layer.with_system(changed)
    assert jax.tree.structure(written) == jax.tree.structure(layer)
    (found,) = lastax.systems(written)
    for name in ("lam", "B", "C", "D"):
        wanted = getattr(changed, name)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=0, atol=2e-6 * scale)


EIGENVALUES = {
    "lin": lambda n, N: -0.5 - np.pi * n * 1j,
    "inv": lambda n, N: -0.5 - 1j * (N**2 / (2 * n + 1) - N) / np.pi,
    "inv2": lambda n, N: -0.5 - 1j * (N**2 / (n + 1) - N) / np.pi,
    "quad": lambda n, N: -0.5 - 1j * (4 * n**2 + 4 * n + 1) / np.pi,
    "real": lambda n, N: -(n + 1.0),
}


@pytest.mark.parametrize("name", EIGENVALUES)
@pytest.mark.parametrize("states", [1, 2, 7])
def test_s4d_eigenvalues_match_their_formulas(name, states):
    Lambda, B = lastax.nn.S4D_EIGENVALUES[name](states)
    wanted = [EIGENVALUES[name](n, 2 * states) for n in range(states)]
    np.testing.assert_allclose(Lambda, wanted, rtol=1e-14)
    np.testing.assert_array_equal(B, np.ones(states, complex))


@pytest.mark.parametrize("name", lastax.nn.S4D_EIGENVALUES)
def test_s4d_eigenvalues_are_stable_halves_of_conjugate_pairs(name):
    Lambda, B = lastax.nn.S4D_EIGENVALUES[name](8)
    assert Lambda.shape == B.shape == (8,)
    assert Lambda.dtype == B.dtype == np.complex128
    assert np.all(Lambda.real < 0)
    assert np.all(Lambda.imag <= 0)
    assert len(np.unique(Lambda)) == 8
    config = lastax.ModelConfig(layer="s4d", layers=1, states=8, channels=2, eigenvalues=name)
    network = lastax.build_network(config, input_size=1, classes=2, key=jax.random.key(0))
    layer = network.encoder.blocks[0].layer
    got = -np.exp(layer.log_decay) + 1j * layer.Lambda_im
    np.testing.assert_allclose(got, np.tile(Lambda, 2), rtol=1e-6)


def test_inv2_is_inv_at_half_integer_positions():
    """`inv2` at `n` is `inv` at `n / 2`, so the even entries of `inv2` are the first of `inv`."""
    (inv, _), (inv2, _) = lastax.nn.s4d_inv(8), lastax.nn.s4d_inv2(8)
    np.testing.assert_allclose(inv2[::2], inv[:4], rtol=1e-14)


def test_differences_of_quadratic_frequencies_are_linear():
    frequencies = -lastax.nn.s4d_quad(8)[0].imag
    np.testing.assert_allclose(np.diff(frequencies, 2), 8 / np.pi, rtol=1e-13)
    np.testing.assert_allclose(frequencies[0], 1 / np.pi, rtol=1e-14)


@pytest.mark.parametrize("start", lastax.nn.S4D_EIGENVALUES)
@pytest.mark.parametrize("discretize", [lastax.discretize_zoh, lastax.discretize_bilinear])
@pytest.mark.parametrize("train_B", [True, False])
def test_s4d_options(start, discretize, train_B):
    layer = lastax.S4D.initialize(
        CHANNELS,
        STATES,
        key=jax.random.key(0),
        eigenvalues=lastax.nn.S4D_EIGENVALUES[start],
        discretize=discretize,
        train_B=train_B,
    )
    assert (layer.B is None) != train_B
    (system,) = lastax.systems(layer)
    assert np.all(np.abs(system.lam) < 1)
    written = layer.with_system(dataclasses.replace(system, B=2 * system.B))
    through = np.asarray(layer.D, float)[None] * np.asarray(inputs(), float)
    y = (outputs(layer) - through) * 2 + through
    np.testing.assert_allclose(outputs(written), y, rtol=0, atol=1e-4 * np.abs(y).max())
    # Rescaling the steps is the same as larger step sizes.
    twice = dataclasses.replace(layer, log_step=layer.log_step + np.log(2.0))
    assert eqx.tree_equal(layer.system(2.0), twice.system(), rtol=1e-5, atol=1e-6)


def test_lru_eigenvalues_are_uniform_in_a_ring():
    options = {"radius_range": (0.5, 0.9), "phase_maximum": 1.0}
    layer = compiled(lambda key: lastax.LRU.initialize(2, 500, key=key, **options))(
        jax.random.key(0)
    )
    (system,) = lastax.systems(layer)
    radius, angle = np.abs(system.lam), np.angle(system.lam)
    assert 0.5 <= radius.min() < 0.53
    assert 0.89 < radius.max() <= 0.9
    assert 0 < angle.min() < 0.02
    assert 0.98 < angle.max() <= 1
    # Uniform in |lam|^2.
    assert np.mean(radius**2) == pytest.approx((0.25 + 0.81) / 2, abs=0.03)
    gamma = np.sqrt(1 - radius**2)
    B = lastax.nn.as_complex(layer.B)
    np.testing.assert_allclose(system.B, gamma[:, None] * B, rtol=1e-5)
    assert np.std(layer.B) == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match="radius_range must ascend"):
        lastax.LRU.initialize(2, 3, key=jax.random.key(0), radius_range=(0.9, 0.5))


def test_lru_at_half_the_sampling_rate():
    """Two steps with the same input are one step of twice the length."""
    layer = draw(lastax.LRU)
    slow = inputs()
    fast = jnp.repeat(slow, 2, axis=0)
    at_ends = apply(layer, fast)[1::2] - layer.D[None] * slow
    rescaled = compiled(lambda layer, u: layer(u, step_rescale=2.0))
    y = rescaled(layer, slow) - layer.D[None] * slow
    np.testing.assert_allclose(y, at_ends, rtol=0, atol=1e-5 * np.abs(y).max())


@kinds
@pytest.mark.parametrize("step_rescale", [0, -1.0])
def test_a_step_size_that_is_not_positive_is_refused(kind, step_rescale):
    layer = draw(kind)
    with pytest.raises(ValueError, match=f"{kind.__name__}: step_rescale must be positive, got"):
        layer(inputs(), step_rescale=step_rescale)


@kinds
@pytest.mark.parametrize(("sizes", "name"), [((0, 4), "channels"), ((4, 0), "states")])
def test_a_layer_without_channels_or_states_is_refused(kind, sizes, name):
    message = f"{kind.__name__}.initialize: {name} must be at least 1, got 0"
    with pytest.raises(ValueError, match=message):
        kind.initialize(*sizes, key=jax.random.key(0))


# Surgery


@kinds
@directions
def test_pruned_layer_equals_masked_layer(kind, bidirectional):
    layer = draw(kind, bidirectional=bidirectional)
    system = jax.tree.map(np.asarray, system_of(layer))
    states = system.states
    mask = np.random.default_rng(0).random(states) < 0.4
    small = layer.keep(mask)
    assert lastax.state_counts(small) == [mask.sum()]
    column = mask.reshape(-1, *[1] * (system.B.ndim - 1))
    masked = mimo(dataclasses.replace(system, B=np.where(column, system.B, 0)))
    wanted = loop(masked, np.asarray(inputs(), float))
    np.testing.assert_allclose(outputs(small), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    for array in jax.tree.leaves(eqx.filter(small, eqx.is_array)):
        assert states not in array.shape or states in (CHANNELS, 2)


class Leaky(eqx.Module):
    """A layer class of another library with only the three methods: real leaky integrators."""

    decay: jax.Array
    gain: jax.Array
    mix: jax.Array

    def system(self, step_rescale=1.0):
        lam = jnp.exp(-step_rescale * jnp.exp(self.decay))
        return lastax.System(
            lam=lam + 0j,
            B=self.gain + 0j,
            C=self.mix + 0j,
            C_reverse=None,
            D=jnp.zeros(self.mix.shape[0], self.decay.dtype),
            conj_sym=False,
        )

    def __call__(self, u, *, step_rescale=1.0):
        return self.system(step_rescale)(u)

    def keep(self, mask):
        return Leaky(self.decay[mask], self.gain[mask], self.mix[:, mask])


def leaky(seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((6,), (6, CHANNELS), (CHANNELS, 6))
    return Leaky(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


@functools.cache
def mixed_network():
    layers = [draw(lastax.S5), draw(lastax.S4D, bidirectional=True), draw(lastax.LRU), leaky()]
    blocks = tuple(
        lastax.nn.Block(
            lastax.nn.BatchNorm.initialize(CHANNELS, momentum=0.9),
            layer,
            lastax.nn.Gate(None, None, "gelu"),
        )
        for layer in layers
    )
    keys = jax.random.split(jax.random.key(9))
    encoder = lastax.nn.Encoder(lastax.nn.Linear.initialize(2, CHANNELS, key=keys[0]), blocks)
    return lastax.Classifier(encoder, lastax.nn.Linear.initialize(CHANNELS, 2, key=keys[1]))


@pytest.mark.parametrize(
    "method",
    sorted(name for name, method in lastax.METHODS.items() if not method.needs_calibration),
)
def test_mixed_networks_prune_by_every_method(method):
    model = mixed_network()
    assert lastax.state_counts(model) == [STATES, STATES * CHANNELS, STATES, 6]
    options = {"length": 20, "key": jax.random.key(0)}
    if lastax.METHODS[method].reduce is not None:
        with pytest.raises(ValueError, match="Leaky"):
            lastax.prune(model, states=10, method=method, **options)
        layers = [block.layer for block in model.encoder.blocks[:3]]
        small = lastax.prune(layers, states=10, method=method, **options)
        assert 3 <= sum(lastax.state_counts(small)) <= 10
        return
    small = lastax.prune(model, states=10, method=method, **options)
    assert sum(lastax.state_counts(small)) == 10
    assert eqx.filter_eval_shape(small, inputs(2)).shape == (2,)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(small))


@kinds
@directions
@pytest.mark.parametrize("method", ["last", "balanced"])
def test_expanded_layers_compute_the_same_outputs(kind, bidirectional, method):
    layers = [draw(kind, key=key, bidirectional=bidirectional) for key in range(2)]
    plan = lastax.plan_pruning(layers, ratio=0.6, method=method)
    small = plan.apply(layers)
    large = lastax.surgery.expand_to_original(layers, small, plan.keep)
    assert jax.tree.structure(large) == jax.tree.structure(layers)
    assert lastax.state_counts(large) == lastax.state_counts(layers)
    assert lastax.state_counts(small) == plan.states_after
    for one, other in zip(small, large, strict=True):
        wanted = outputs(one)
        np.testing.assert_allclose(outputs(other), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_mixed_networks_train():
    model = lastax.prune(mixed_network(), ratio=0.5)
    optimizer = lastax.training.make_optimizer(1e-2, 1e-2, weight_decay=0.01)
    state = lastax.training.TrainState.initialize(model, optimizer)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 16)
    x = rng.normal(size=(16, 8, 2)) + label[:, None, None]
    batch = {"x": x.astype(np.float32), "label": label.astype(np.int32)}
    step = compiled(
        lambda state: lastax.training.train_step(
            state, batch, optimizer=optimizer, key=jax.random.key(0)
        )
    )
    losses = []
    for _ in range(40):
        state, metrics = step(state)
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.3 * losses[0]
    assert lastax.state_counts(state.model) == lastax.state_counts(model)
    changed = jax.tree.map(
        lambda a, b: bool(np.any(a != b)),
        *(lastax.nn.split_trainable(m)[0].encoder.blocks for m in (model, state.model)),
    )
    assert all(jax.tree.leaves(changed))


def test_parameter_group_of_state_space_parameters():
    groups = lastax.training.parameter_groups(lastax.nn.split_trainable(mixed_network())[0])
    kinds = [block.layer for block in groups.encoder.blocks[:3]]
    ssm = {
        name
        for layer in kinds
        for name, group in vars(layer).items()
        if isinstance(group, str) and group == "ssm"
    }
    assert ssm == {
        "Lambda_re", "Lambda_im", "log_step", "log_decay", "nu_log", "theta_log", "gamma_log", "B",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["s5", "lru", "s4d"])
def test_gradients_of_float32_parameters_on_float64_inputs_are_float32(kind):
    config = lastax.ModelConfig(layer=kind, layers=1, channels=4, states=4)
    model = lastax.build_network(config, input_size=3, classes=2, key=jax.random.key(0))
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 200, 3)))
        assert x.dtype == jnp.float64
        gradient = eqx.filter_grad(lambda one: jnp.sum(lastax.predict(one, {"x": x})))(model)
    for array in jax.tree.leaves(eqx.filter(gradient, eqx.is_inexact_array)):
        assert array.dtype == jnp.float32
