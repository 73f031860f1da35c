"""Pruning with a refit: from calibration data to a smaller network."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax import _calibrate

from .calibration import KINDS, LENGTHS, data, kind_of, logits, network, rows
from .systems import loop, random_layer


@KINDS
def test_removing_nothing_changes_nothing(settings):
    model = network(**settings)
    same, report = lastax.refit(model, data(**kind_of(settings)), ratio=0)
    assert eqx.tree_equal(same, model)
    assert report.states_after == lastax.state_counts(model)
    assert report.divergence < 1e-9


@KINDS
def test_a_refit_is_better_than_truncation(settings):
    model, batch = network(**settings), data(**kind_of(settings))
    small, report = lastax.refit(model, batch, states=5)
    assert lastax.state_counts(small) == report.states_after
    assert sum(report.states_after) == 5
    assert (report.sequences, report.steps) == (6, 360 if "head" in settings else 180)
    for layer in report.layers:
        assert 0 < layer.error <= layer.error_truncated * (1 + 1e-6)
        assert layer.keep[layer.order[-layer.keep.sum() :]].all()
    truncated = lastax.keep_states(model, report.keep)
    wanted = logits(model, batch)
    assert report.divergence < lastax.calibration.mean_kl_divergence(wanted, logits(truncated, batch))
    measured = lastax.calibration.mean_kl_divergence(wanted, logits(small, batch))
    np.testing.assert_allclose(report.divergence, measured, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        ("s5", ("Lambda_re", "Lambda_im", "B", "log_step")),
        ("s4d", ("log_decay", "Lambda_im", "B")),
        ("lru", ("nu_log", "theta_log", "gamma_log", "B")),
    ],
)
def test_poles_and_inputs_of_kept_states_stay_to_the_bit(layer, names):
    model = network(layer=layer)
    small, report = lastax.refit(model, data(), states=4, linear_maps=False)
    pairs = zip(lastax.find_layers(model), lastax.find_layers(small), report.keep, strict=True)
    for before, after, keep in pairs:
        for name in names:
            assert (getattr(before, name)[keep] == getattr(after, name)).all()
    outside = [
        eqx.tree_at(lambda m: [block.layer for block in m.encoder.blocks], m, [None, None])
        for m in (model, small)
    ]
    assert eqx.tree_equal(*outside)


def test_layers_below_the_first_cut_stay_to_the_bit():
    model = network(layers=3)
    small, report = lastax.refit(model, data(), states=12, budget=lambda given: [5, 2, 5])
    assert report.states_after == [5, 2, 5]
    assert eqx.tree_equal(small.encoder.blocks[0], model.encoder.blocks[0])
    assert report.layers[0].error == 0
    # Its input has changed, so that it is fitted anew with all its states.
    assert 0 < report.layers[2].error < report.layers[2].error_truncated


def test_progress_names_the_layer_and_what_is_done_to_it():
    told = []
    lastax.refit(network(), data(), states=5, progress=told.append)
    for doing in ("measuring", "ordering states of", "probing", "refitting"):
        assert [f"{doing} layer {index}, of 2" in told for index in range(2)] == [True, True]


@pytest.mark.parametrize("layer", ["s5", "lru"])
def test_a_full_matrix_takes_the_place_of_states(layer):
    model, batch = network(layer=layer), data()
    # 6 channels, both ways: 36 weights, as many as a state has.
    small, report = lastax.refit(model, batch, states=7, dense_feedthrough=True)
    assert sum(report.states_after) == 7 - 2
    assert [layer.feedthrough_states for layer in report.layers] == [1, 1]
    assert all(layer.D.shape == (6, 6) for layer in lastax.find_layers(small))
    measured = lastax.calibration.mean_kl_divergence(logits(model, batch), logits(small, batch))
    np.testing.assert_allclose(report.divergence, measured, rtol=1e-2, atol=1e-6)
    # With the same states it does no worse on these data than a diagonal.
    _, diagonal = lastax.refit(model, batch, keep=report.keep, linear_maps=False)
    _, full = lastax.refit(model, batch, keep=report.keep, linear_maps=False, dense_feedthrough=True)
    assert full.layers[0].error < diagonal.layers[0].error
    again, more = lastax.refit(small, batch, states=4)
    assert more.states_after == lastax.state_counts(again)
    assert sum(more.states_after) == 4
    assert [layer.D.shape for layer in lastax.find_layers(again)] == [(6, 6)] * 2


def test_the_order_beside_a_full_matrix_is_by_what_it_cannot_give():
    """The first state is the input itself: it goes first, though it carries most."""
    model, batch = network(layers=1, conj_sym=False), data()
    layer = model.encoder.blocks[0].layer
    at_once = dataclasses.replace(
        layer,
        Lambda_re=layer.Lambda_re.at[0].set(-1e4),
        B=layer.B.at[0].set(1e4),
        C=layer.C.at[:, 0].set(30.0),
    )
    model = lastax.replace_layers(model, [at_once])
    _, diagonal = lastax.refit(model, batch, states=2)
    _, full = lastax.refit(model, batch, states=3, dense_feedthrough=True)
    assert diagonal.keep[0][0]
    assert full.layers[0].order[0] == 0


def test_what_cannot_have_a_full_matrix_is_named():
    with pytest.raises(ValueError, match="layer 0 has a system for each channel"):
        lastax.refit(network(layer="s4d"), data(), ratio=0.1, dense_feedthrough=True)
    with pytest.raises(ValueError, match="2 of which are for each layer's full D"):
        lastax.refit(network(), data(), states=3, dense_feedthrough=True)
    with pytest.raises(ValueError, match="the D of a S4D cannot be a matrix"):
        lastax.surgery.with_dense_feedthrough(network(layer="s4d"))


def test_a_diagonal_written_as_a_matrix_is_the_same_function():
    model, batch = network(), data()
    whole = lastax.surgery.with_dense_feedthrough(model)
    assert lastax.find_layers(whole)[0].D.shape == (6, 6)
    np.testing.assert_allclose(logits(whole, batch), logits(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dense_feedthrough", [False, True])
def test_the_first_layer_is_fitted_by_the_definition(dense_feedthrough):
    model, batch = network(layers=1), data()
    count = 2 + (1 if dense_feedthrough else 0)
    small, report = lastax.refit(model, batch, states=count, linear_maps=False, dense_feedthrough=dense_feedthrough)
    block, reduced = model.encoder.blocks[0], small.encoder.blocks[0]
    (system,), (fitted,) = lastax.systems(model), lastax.systems(small)
    hidden = jax.vmap(jax.vmap(model.encoder.embed))(batch["x"])
    u = np.asarray(jax.vmap(lambda x: block.norm(x)[0])(hidden), np.float64)
    y = np.concatenate([loop(system, sequence) for sequence in u])
    kept = system.keep(report.keep[0])
    truncated = np.concatenate([loop(kept, sequence) for sequence in u])
    answer = np.concatenate([loop(fitted, sequence) for sequence in u])
    energy = np.mean(y**2)
    np.testing.assert_allclose(
        report.layers[0].error, np.mean((y - answer) ** 2) / energy, rtol=1e-2
    )
    wanted = np.mean((y - truncated) ** 2) / energy
    np.testing.assert_allclose(report.layers[0].error_truncated, wanted, rtol=1e-3)
    # Nothing is better: moving any output weight raises the error.
    features = np.concatenate([lastax.calibration.state_features(reduced.layer.system(), s) for s in u])
    inputs = u.reshape(len(y), -1)[:, : None if dense_feedthrough else 1]
    columns = np.concatenate([features.reshape(len(y), -1), inputs], axis=1)
    best = np.linalg.lstsq(columns, y[:, 0])[0]
    least = np.mean((y[:, 0] - columns @ best) ** 2)
    np.testing.assert_allclose(np.mean((y[:, 0] - answer[:, 0]) ** 2), least, rtol=1e-2)


def test_the_order_of_sequences_does_not_matter():
    model, batch = network(), data()
    reports = [
        lastax.refit(model, rows(batch, order), states=4)[1]
        for order in (np.arange(6), np.array([3, 1, 5, 0, 4, 2]))
    ]
    for first, second in zip(reports[0].layers, reports[1].layers, strict=True):
        assert (first.order == second.order).all()
        np.testing.assert_allclose(first.error, second.error, rtol=1e-3)


def test_pieces_give_what_all_at_once_gives(monkeypatch):
    model, batch = network(), data(lengths=LENGTHS)
    whole = lastax.refit(model, batch, states=4)
    monkeypatch.setattr(_calibrate, "_DEVICE_VALUES", 2000)
    monkeypatch.setattr(_calibrate, "_HOST_VALUES", 300)
    assert len(_calibrate.calibration_chunks(batch, values_per_step=32)) == 3
    pieces = lastax.refit(model, [rows(batch, slice(0, 2)), rows(batch, slice(2, 6))], states=4)
    assert whole[1].states_after == pieces[1].states_after
    assert whole[1].steps == pieces[1].steps == LENGTHS.sum()
    for first, second in zip(whole[1].layers, pieces[1].layers, strict=True):
        np.testing.assert_allclose(first.error, second.error, rtol=1e-3)
    np.testing.assert_allclose(logits(whole[0], batch), logits(pieces[0], batch), atol=1e-2)


def test_one_long_sequence_is_bounded(monkeypatch):
    monkeypatch.setattr(_calibrate, "_DEVICE_VALUES", 1)
    monkeypatch.setattr(_calibrate, "_HOST_VALUES", 10_000)
    sizes = []
    rows_of = _calibrate.moments_of_rows

    def watched(slots, features, u, y):
        sizes.append(features.size + u.size + y.size)
        return rows_of(slots, features, u, y)

    monkeypatch.setattr(_calibrate, "moments_of_rows", watched)
    _, report = lastax.refit(network(), data(records=1, steps=16_384), states=4, budget="uniform")
    assert report.steps == 16_384
    assert max(sizes) <= 10_000


@pytest.mark.parametrize("mask_padding", [True, False])
def test_padding_and_filling_are_left_out(mask_padding):
    model = network(mask_padding=mask_padding)
    batch = data(lengths=LENGTHS)
    inside = np.arange(30) < LENGTHS[:, None]
    filled = {**batch, "weight": np.ones(6, np.float32)}
    # A row that only fills the batch up, of no use as data.
    filled = {k: np.concatenate([v, np.full_like(v[:1], 9)]) for k, v in filled.items()}
    filled["weight"][6] = 0
    if mask_padding:
        filled["x"][:6][~inside] = 1e3
    small, report = lastax.refit(model, batch, states=4)
    other, other_report = lastax.refit(model, filled, states=4)
    assert report.steps == other_report.steps == LENGTHS.sum()
    assert report.sequences == other_report.sequences == 6
    assert eqx.tree_equal(small, other, rtol=1e-3, atol=1e-4)
    if mask_padding:
        # The same as sequences of different lengths, each without padding.
        pieces = [{"x": batch["x"][[i], :length]} for i, length in enumerate(LENGTHS.tolist())]
        trimmed, _ = lastax.refit(model, pieces, states=4)
        assert eqx.tree_equal(small, trimmed, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("budget", list(lastax.calibration.BUDGETS))
def test_every_budget_keeps_exactly_what_is_asked_for(budget):
    small, report = lastax.refit(network(layers=3), data(), ratio=0.6, budget=budget)
    assert sum(lastax.state_counts(small)) == 6
    assert min(report.states_after) >= 1


def test_a_probe_spares_the_layer_that_matters():
    model = network()
    # The second layer says next to nothing.
    model = eqx.tree_at(
        lambda m: m.encoder.blocks[1].gate.gate.bias, model, replace_fn=lambda b: b - 12
    )
    _, report = lastax.refit(model, data(), states=6, budget="probe")
    assert report.states_after == [5, 1]


def test_states_chosen_elsewhere_are_refitted():
    model, batch = network(), data()
    plan = lastax.plan_pruning(model, ratio=0.6)
    _, report = lastax.refit(model, batch, keep=plan.keep)
    assert all((a == b).all() for a, b in zip(report.keep, plan.keep, strict=True))
    assert report.layers[0].order is None
    truncated = lastax.calibration.mean_kl_divergence(
        logits(model, batch), logits(lastax.keep_states(model, plan.keep), batch)
    )
    assert report.divergence < truncated


def test_one_calibration_serves_many_sizes():
    model, batch = network(), data()
    calibration = lastax.calibrate(model, batch)
    for states in (3, 6):
        small, report = calibration.refit(states=states)
        alone, again = lastax.refit(model, batch, states=states)
        assert eqx.tree_equal(small, alone)
        assert report.divergence == again.divergence


@pytest.mark.parametrize("budget", sorted(lastax.calibration.BUDGETS))
def test_bounds_of_layers_hold(budget):
    model, batch = network(), data()
    calibration = lastax.calibrate(model, batch)
    for bounds, counts in (
        ({"minimum": [1, 4]}, [1, 4]),
        ({"maximum": [4, 1]}, [4, 1]),
        ({"minimum": [2, 1], "maximum": [2, 5]}, [2, 3]),
    ):
        _, report = calibration.refit(states=5, budget=budget, linear_maps=False, **bounds)
        assert report.states_after == counts
    for bounds in ({"minimum": [3, 3]}, {"maximum": [2, 2]}):
        with pytest.raises(ValueError, match="5 states to keep, but 2 layers"):
            calibration.refit(states=5, budget=budget, **bounds)
    with pytest.raises(ValueError, match="cannot keep at least"):
        calibration.refit(states=5, minimum=[2, 1], maximum=[1, 5])
    with pytest.raises(ValueError, match="bounds for 1"):
        calibration.refit(states=5, minimum=[2])


def test_prune_with_data_is_a_refit():
    model, batch = network(), data()
    small = lastax.prune(model, ratio=0.6, calibration=batch)
    assert eqx.tree_equal(small, lastax.refit(model, batch, ratio=0.6)[0])
    calibration = lastax.calibrate(model, batch)
    assert eqx.tree_equal(small, lastax.prune(model, ratio=0.6, calibration=calibration))
    cut = lastax.prune(model, ratio=0.6, method="last", calibration=calibration)
    assert eqx.tree_equal(cut, lastax.prune(model, ratio=0.6))
    with pytest.raises(ValueError, match="give calibration="):
        lastax.prune(model, ratio=0.6, method=lastax.pruning.CALIBRATED)


@pytest.mark.parametrize("layer", ["s5", "s4d", "lru"])
def test_measured_energy_is_that_of_each_state_by_itself(layer):
    """By the definition: the mean square of what the first layer answers with one state alone."""
    model, batch = network(layer=layer, states=2), data()
    moments = lastax.calibrate(model, batch).moments
    systems = lastax.systems(model)
    scores = lastax.score_states(systems, "empirical-energy", moments=moments)[0]
    block = model.encoder.blocks[0]
    energies = np.zeros(systems[0].states)
    for x in batch["x"]:
        u = block.norm(model.encoder.embed(x))[0]
        for state in range(len(energies)):
            alone = block.layer.keep(np.arange(len(energies)) == state)
            energies[state] += np.mean((alone(u) - u * block.layer.D[None]) ** 2)
    np.testing.assert_allclose(scores, lastax.pruning.layer_adaptive(energies), rtol=1e-3)


@pytest.mark.parametrize("layer", ["s5", "s4d", "lru"])
def test_measured_balancing_serves_the_data_better(layer):
    """Half the states, no refit: nearer to the whole network's answers than white balancing."""
    model, batch = network(layer=layer), data(records=12)
    moved = {}
    for method in ("balanced", "empirical-balanced"):
        small = lastax.prune(model, ratio=0.6, method=method, calibration=batch)
        assert 2 <= sum(lastax.state_counts(small)) <= 0.4 * sum(lastax.state_counts(model))
        assert all(np.all(np.abs(system.lam) < 1) for system in lastax.systems(small))
        moved[method] = lastax.calibration.mean_kl_divergence(logits(model, batch), logits(small, batch))
    assert moved["empirical-balanced"] < moved["balanced"]


def test_moments_are_those_that_the_first_layer_is_chosen_by():
    model, batch = network(), data(lengths=LENGTHS)
    moments = lastax.calibrate(model, batch).moments
    assert [m.rows for m in moments] == [LENGTHS.sum()] * 2
    _, report = lastax.refit(model, batch, states=4)
    (system, _) = lastax.systems(model)
    left = moments[0].targets_without(lastax.calibration.feedthrough_weights(system))
    path = lastax.calibration.eliminate(moments[0].features, left, moments[0].width)
    assert (path.order[0] == report.layers[0].order).all()


def test_unstable_states_are_kept_and_named():
    model = network()
    model = eqx.tree_at(
        lambda m: m.encoder.blocks[0].layer.Lambda_re, model, replace_fn=lambda a: a.at[2].set(0.1)
    )
    with pytest.warns(lastax.surgery.UnstableStatesWarning, match=r"\[\[2\], \[\]\]"):
        _, report = lastax.refit(model, data(), states=2)
    assert report.layers[0].keep.tolist() == [False, False, True, False, False]


def test_one_input_channel_gives_rank_one_inputs():
    config = lastax.ModelConfig(layers=2, channels=6, states=5)
    model = lastax.build_network(config, input_size=1, classes=4, key=jax.random.key(0))
    batch = {"x": data()["x"][..., :1]}
    small, report = lastax.refit(model, batch, states=4)
    assert np.isfinite(logits(small, batch)).all()
    assert all(layer.error <= layer.error_truncated for layer in report.layers)


def test_fewer_steps_than_columns_will_do():
    model, batch = network(), data(records=1, steps=7)
    small, report = lastax.refit(model, batch, states=4)
    assert np.isfinite(logits(small, batch)).all()
    assert report.sequences == 1


def test_one_token_sequence():
    config = lastax.ModelConfig(layers=1, channels=6, states=5)
    model = lastax.build_network(config, input_size=11, classes=4, key=jax.random.key(0))
    batch = {"x": np.random.default_rng(0).integers(0, 11, (4, 20))}
    small, _ = lastax.refit(model, batch, states=2)
    assert lastax.state_counts(small) == [2]


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {"ratio": 0.5}, "no sequence was given; one is the least"),
        ({"x": np.zeros((0, 30, 3), np.float32)}, {"ratio": 0.5}, "no sequence was given"),
        (
            {"x": np.where(np.arange(6)[:, None, None] == 4, np.nan, data()["x"])},
            {"ratio": 0.5},
            r"records \[4\] hold values that are not finite",
        ),
        (
            {**data(), "length": np.array([1, 2, 31, 4, 0, 6])},
            {"ratio": 0.5},
            r"records \[2, 4\] have a length that is not in 1 to 30",
        ),
        (data(), {"states": 1}, "1 states to keep, but 2 layers"),
        (data(), {"states": 11}, "11 states to keep, but 2 layers"),
        (data(), {"ratio": 1.0}, r"ratio must be in \[0, 1\)"),
        (data(), {}, "give one of ratio=, states= and keep="),
        (data(), {"ratio": 0.5, "states": 3}, "give one of"),
        (data(), {"ratio": 0.5, "budget": "probes"}, "no budget 'probes'; there are uniform"),
        (data(), {"states": 5, "budget": lambda given: [5, 0]}, "the budget gives"),
        (data(), {"keep": [np.ones(5, bool), np.zeros(5, bool)]}, r"layers \[1\] would lose all"),
        (data(), {"keep": [np.ones(5, bool)]}, r"the masks are for \[5\]"),
    ],
)
def test_what_cannot_be_done_is_named(batches, options, message):
    with pytest.raises(ValueError, match=message):
        lastax.refit(network(), batches, **options)


def test_a_model_of_another_kind_says_how_data_pass():
    with pytest.raises(ValueError, match="give forward="):
        lastax.refit([random_layer(0)], data(), ratio=0.5)


class Chain(NamedTuple):
    """A foreign model: two layers with a tanh between them, and nothing else."""

    parts: list[Any]


@dataclasses.dataclass(frozen=True)
class ChainStages(lastax.BlockwiseForward):
    """The least that a foreign model gives."""

    def enter(self, model, x, length):
        return lastax.nn.HiddenStates(x, jnp.ones(x.shape[:2], bool), None)

    def blocks(self, model):
        return model.parts

    def before(self, block, stream):
        return stream.hidden

    def after(self, block, stream, y):
        return stream._replace(hidden=jnp.tanh(y))

    def features(self, model, stream):
        return stream.hidden.mean(axis=1)


def test_a_foreign_model_is_pruned_through_its_stages():
    model = Chain([random_layer(seed, states=5) for seed in (0, 1)])
    moved = lambda first, second: float(np.mean((first - second) ** 2))  # noqa: E731
    small, report = lastax.refit(model, data(), states=4, forward=ChainStages(), divergence=moved)
    assert isinstance(small, Chain)
    assert lastax.state_counts(small) == report.states_after
    assert sum(report.states_after) == 4


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


def test_a_kind_with_a_system_a_channel_needs_four_answers_alone():
    model, batch = Chain([one_a_channel(0), one_a_channel(1)]), data()
    moved = lambda first, second: float(np.mean((first - second) ** 2))  # noqa: E731
    options = {"stages": ChainStages(), "divergence": moved, "budget": "relative-error"}
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


@KINDS
@pytest.mark.parametrize("padded", [True, False])
def test_remeasured_statistics_are_those_of_one_big_batch(settings, padded):
    kind = kind_of(settings)
    lengths = np.stack([LENGTHS, LENGTHS[::-1]], axis=1) if kind["retrieval"] else LENGTHS
    batch = data(**kind, lengths=lengths if padded else None)
    model = network(**settings)
    small = lastax.prune(model, ratio=0.5)
    found = lastax.recalibrate_batch_norm(small, [rows(batch, slice(0, 4)), rows(batch, slice(4, 6))])
    instant = jax.tree.map(
        lambda node: (
            dataclasses.replace(node, momentum=0.0) if isinstance(node, lastax.nn.BatchNorm) else node
        ),
        small,
        is_leaf=lambda node: isinstance(node, lastax.nn.BatchNorm),
    )
    _, wanted = eqx.filter_vmap(
        lambda x, length: instant.forward(x, length, axis="batch"),
        in_axes=(0, eqx.if_array(0)),
        out_axes=(0, None),
        axis_name="batch",
    )(batch["x"], batch.get("length"))
    for one, other in zip(found.encoder.blocks, wanted.encoder.blocks, strict=True):
        if isinstance(one.norm, lastax.nn.BatchNorm):
            for name in ("mean", "variance"):
                first, second = (getattr(b.norm.running, name) for b in (one, other))
                np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
        assert one.norm.scale is not None


def test_padding_counts_where_the_network_does_not_mask_it():
    model, batch = network(mask_padding=False, layers=1), data(lengths=LENGTHS)
    found = lastax.recalibrate_batch_norm(model, batch).encoder.blocks[0].norm.running
    whole = lastax.recalibrate_batch_norm(model, {"x": batch["x"]}).encoder.blocks[0].norm.running
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-6)


@pytest.mark.parametrize("discretize", [lastax.discretize_zoh, lastax.discretize_bilinear])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_layer_takes_a_system(discretize, bidirectional):
    layer = dataclasses.replace(random_layer(0, bidirectional=bidirectional), discretize=discretize)
    wanted = dataclasses.replace(
        random_layer(1, bidirectional=bidirectional), discretize=discretize
    ).system()
    # Two states are as they were.
    own = layer.system()
    lam, B = wanted.lam.at[:2].set(own.lam[:2]), wanted.B.at[:2].set(own.B[:2])
    wanted = dataclasses.replace(wanted, lam=lam, B=B)
    moved = layer.with_system(wanted)
    assert eqx.tree_equal(moved.system(), wanted, rtol=1e-4, atol=1e-5)
    assert (moved.log_step == layer.log_step).all()
    for name in ("Lambda_re", "Lambda_im", "B"):
        assert (getattr(moved, name)[:2] == getattr(layer, name)[:2]).all()
    assert eqx.tree_equal(layer.with_system(own), layer)


def test_a_layer_refuses_a_system_of_other_shape():
    layer = random_layer(0)
    with pytest.raises(ValueError, match="the layer has 6 states"):
        layer.with_system(random_layer(0, states=5).system())
    with pytest.raises(ValueError, match="directions"):
        layer.with_system(random_layer(0, bidirectional=True).system())
    other = dataclasses.replace(layer, discretize=lambda *a: lastax.discretize_zoh(*a))
    with pytest.raises(ValueError, match="no inverse"):
        other.with_system(random_layer(1).system())
