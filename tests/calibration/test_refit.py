"""Pruning with a refit: from calibration data to a smaller model."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import lastax
from lastax.calibration import _chunk_moments, _chunks

from ..calibration_helpers import KINDS, LENGTHS, calibrated, data, kind_of, logits, network, rows
from ..systems import loop, random_layer


@KINDS
def test_a_refit_that_removes_nothing_returns_an_equal_model(settings):
    model, calibration = network(**settings), calibrated(**settings)
    same, report = lastax.refit(model, calibration, ratio=0)
    assert eqx.tree_equal(same, model)
    assert report.states_after == lastax.state_counts(model)
    assert report.divergence < 1e-9


@KINDS
def test_a_refit_has_a_smaller_error_than_truncation(settings):
    model, batch = network(**settings), data(**kind_of(settings))
    small, report = lastax.refit(model, calibrated(**settings), states=5)
    assert lastax.state_counts(small) == report.states_after
    assert sum(report.states_after) == 5
    assert (report.sequences, report.steps) == (6, 360 if "head" in settings else 180)
    for layer in report.layers:
        assert 0 < layer.error <= layer.error_truncated * (1 + 1e-6)
        assert layer.keep[layer.order[-layer.keep.sum() :]].all()
    truncated = lastax.keep_states(model, report.keep)
    wanted = logits(model, batch)
    assert report.divergence < lastax.calibration.mean_kl_divergence(
        wanted, logits(truncated, batch)
    )
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
def test_eigenvalues_and_input_maps_of_kept_states_are_unchanged(layer, names):
    model = network(layer=layer)
    small, report = lastax.refit(model, calibrated(layer=layer), states=4, linear_maps=False)
    # The report computes the errors from moments, `layer_errors` from the outputs.
    errors = lastax.calibration.layer_errors(model, small, data())
    np.testing.assert_allclose([layer.error for layer in report.layers], errors, rtol=1e-2)
    pairs = zip(lastax.find_layers(model), lastax.find_layers(small), report.keep, strict=True)
    for before, after, keep in pairs:
        for name in names:
            assert (getattr(before, name)[keep] == getattr(after, name)).all()
    outside = [
        eqx.tree_at(lambda m: [block.layer for block in m.encoder.blocks], m, [None, None])
        for m in (model, small)
    ]
    assert eqx.tree_equal(*outside)


def test_poles_of_scalar_channels_are_fitted_too():
    settings = {"layer": "s4d", "train_b": False, "bidirectional": False}
    model, calibration = network(**settings), calibrated(**settings)
    _, kept = lastax.refit(model, calibration, states=8, poles=False, linear_maps=False)
    small, report = lastax.refit(model, calibration, keep=kept.keep, linear_maps=False)
    errors = lastax.calibration.layer_errors(model, small, data())
    np.testing.assert_allclose([layer.error for layer in report.layers], errors, rtol=1e-2)
    # Inputs of the first layer are the same in both.
    assert report.layers[0].error < 0.9 * kept.layers[0].error
    assert report.layers[0].error_truncated == kept.layers[0].error_truncated
    before, after = (lastax.find_layers(one)[0] for one in (model, small))
    keep = report.keep[0]
    assert (before.Lambda_im[keep] != after.Lambda_im).any()
    assert (before.log_step == after.log_step).all()
    assert lastax.state_counts(small) == report.states_after


def test_poles_are_fitted_to_sequences_of_several_shapes():
    model = network(layer="s4d", train_b=False, bidirectional=False, layers=1)
    x = data()["x"]
    batches = [{"x": x[:2]}, {"x": x[2:, :20]}]
    _, kept = lastax.refit(model, batches, states=5, budget="uniform", poles=False)
    small, report = lastax.refit(model, batches, states=5, budget="uniform")
    assert report.layers[0].error < 0.95 * kept.layers[0].error
    errors = lastax.calibration.layer_errors(model, small, batches)
    np.testing.assert_allclose([report.layers[0].error], errors, rtol=1e-2)


def test_layers_below_the_first_reduced_layer_are_unchanged():
    model = network(layers=3)
    small, report = lastax.refit(model, data(), states=12, budget=lambda given: [5, 2, 5])
    assert report.states_after == [5, 2, 5]
    assert eqx.tree_equal(small.encoder.blocks[0], model.encoder.blocks[0])
    assert report.layers[0].error == 0
    # Its input has changed, so it is fitted again with all its states.
    assert 0 < report.layers[2].error < report.layers[2].error_truncated


def test_progress_messages_name_the_step_and_the_layer():
    messages = []
    lastax.refit(network(), data(), states=5, on_progress=messages.append)
    for doing in ("measuring", "ordering states of", "probing", "refitting"):
        assert [f"{doing} layer {index}, of 2" in messages for index in range(2)] == [True, True]


@pytest.mark.parametrize("layer", ["s5", "lru"])
def test_a_dense_feedthrough_counts_as_states(layer):
    model, batch = network(layer=layer), data()
    # 6 channels, bidirectional: 36 weights, as many as a state has.
    small, report = lastax.refit(model, batch, states=7, dense_feedthrough=True)
    assert sum(report.states_after) == 7 - 2
    assert [layer.feedthrough_states for layer in report.layers] == [1, 1]
    assert all(layer.D.shape == (6, 6) for layer in lastax.find_layers(small))
    measured = lastax.calibration.mean_kl_divergence(logits(model, batch), logits(small, batch))
    np.testing.assert_allclose(report.divergence, measured, rtol=1e-2, atol=1e-6)
    # With the same states it does no worse on these data than a diagonal.
    _, diagonal = lastax.refit(model, batch, keep=report.keep, linear_maps=False)
    _, full = lastax.refit(
        model, batch, keep=report.keep, linear_maps=False, dense_feedthrough=True
    )
    assert full.layers[0].error < diagonal.layers[0].error
    again, more = lastax.refit(small, batch, states=4)
    assert more.states_after == lastax.state_counts(again)
    assert sum(more.states_after) == 4
    assert [layer.D.shape for layer in lastax.find_layers(again)] == [(6, 6)] * 2


def test_with_a_dense_feedthrough_the_order_ignores_what_inputs_explain():
    """The first state is the input itself: it goes first, though it carries most."""
    model, batch = network(layers=1, conj_sym=False), data()
    layer = model.encoder.blocks[0].layer
    at_once = dataclasses.replace(
        layer,
        Lambda_re=layer.Lambda_re.at[0].set(-1e4),
        B=layer.B.at[0].set(1e4),
        C=layer.C.at[:, 0].set(30.0),
    )
    model = lastax.surgery.replace_layers(model, [at_once])
    _, diagonal = lastax.refit(model, batch, states=2)
    _, full = lastax.refit(model, batch, states=3, dense_feedthrough=True)
    assert diagonal.keep[0][0]
    assert full.layers[0].order[0] == 0


def test_dense_feedthrough_errors_name_the_reason():
    with pytest.raises(ValueError, match="refit: layer 0: a dense D would mix channels"):
        lastax.refit(network(layer="s4d"), data(), ratio=0.1, dense_feedthrough=True)
    with pytest.raises(ValueError, match="2 of which count for dense feedthrough matrices"):
        lastax.refit(network(), data(), states=3, dense_feedthrough=True)
    with pytest.raises(ValueError, match="the D of a S4D layer cannot be a dense matrix"):
        lastax.surgery.with_dense_feedthrough(network(layer="s4d"))


def test_a_diagonal_feedthrough_written_as_a_matrix_gives_the_same_outputs():
    model, batch = network(), data()
    whole = lastax.surgery.with_dense_feedthrough(model)
    assert lastax.find_layers(whole)[0].D.shape == (6, 6)
    np.testing.assert_allclose(logits(whole, batch), logits(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dense_feedthrough", [False, True])
def test_the_first_layer_is_the_least_squares_optimum(dense_feedthrough):
    model, batch = network(layers=1), data()
    count = 2 + (1 if dense_feedthrough else 0)
    small, report = lastax.refit(
        model, batch, states=count, linear_maps=False, dense_feedthrough=dense_feedthrough
    )
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
    features = np.concatenate(
        [lastax.calibration.state_features(reduced.layer.system(), s) for s in u]
    )
    inputs = u.reshape(len(y), -1)[:, : None if dense_feedthrough else 1]
    columns = np.concatenate([features.reshape(len(y), -1), inputs], axis=1)
    # Some columns depend on others, up to rounding. Fitting the rounding errors is no solution.
    best = np.linalg.lstsq(columns, y[:, 0], rcond=1e-6)[0]
    least = np.mean((y[:, 0] - columns @ best) ** 2)
    np.testing.assert_allclose(np.mean((y[:, 0] - answer[:, 0]) ** 2), least, rtol=1e-2)


def test_the_order_of_sequences_does_not_change_the_refit():
    model, batch = network(), data()
    reports = [
        lastax.refit(model, rows(batch, order), states=4)[1]
        for order in (np.arange(6), np.array([3, 1, 5, 0, 4, 2]))
    ]
    for first, second in zip(reports[0].layers, reports[1].layers, strict=True):
        assert (first.order == second.order).all()
        np.testing.assert_allclose(first.error, second.error, rtol=1e-3)


def test_small_chunks_give_the_same_refit(monkeypatch):
    model, batch = network(), data(lengths=LENGTHS)
    whole = lastax.refit(model, batch, states=4)
    monkeypatch.setattr(_chunks, "MAX_DEVICE_VALUES", 2000)
    monkeypatch.setattr(_chunk_moments, "MAX_HOST_VALUES", 300)
    assert len(_chunks.calibration_chunks("refit", batch, values_per_step=32)) == 3
    pieces = lastax.refit(model, [rows(batch, slice(0, 2)), rows(batch, slice(2, 6))], states=4)
    assert whole[1].states_after == pieces[1].states_after
    assert whole[1].steps == pieces[1].steps == LENGTHS.sum()
    for first, second in zip(whole[1].layers, pieces[1].layers, strict=True):
        np.testing.assert_allclose(first.error, second.error, rtol=1e-3)
    np.testing.assert_allclose(logits(whole[0], batch), logits(pieces[0], batch), atol=1e-2)


def test_memory_is_bounded_for_one_long_sequence(monkeypatch):
    monkeypatch.setattr(_chunks, "MAX_DEVICE_VALUES", 1)
    monkeypatch.setattr(_chunk_moments, "MAX_HOST_VALUES", 10_000)
    sizes = []
    rows_of = _chunk_moments.moments_of_rows

    def watched(slots, features, u, y):
        sizes.append(features.size + u.size + y.size)
        return rows_of(slots, features, u, y)

    monkeypatch.setattr(_chunk_moments, "moments_of_rows", watched)
    _, report = lastax.refit(network(), data(records=1, steps=16_384), states=4, budget="uniform")
    assert report.steps == 16_384
    assert max(sizes) <= 10_000


@pytest.mark.parametrize("mask_padding", [True, False])
def test_padding_and_rows_of_weight_zero_are_ignored(mask_padding):
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
def test_every_budget_keeps_the_requested_number_of_states(budget):
    small, report = lastax.refit(network(layers=3), data(), ratio=0.6, budget=budget)
    assert sum(lastax.state_counts(small)) == 6
    assert min(report.states_after) >= 1


def test_the_probe_keeps_states_in_the_layer_that_affects_the_outputs():
    model = network()
    # The second layer says next to nothing.
    model = eqx.tree_at(
        lambda m: m.encoder.blocks[1].gate.gate.bias, model, replace_fn=lambda b: b - 12
    )
    _, report = lastax.refit(model, data(), states=6, budget="probe")
    assert report.states_after == [5, 1]


def test_given_masks_are_refitted():
    model, batch = network(), data()
    plan = lastax.plan_pruning(model, ratio=0.6)
    _, report = lastax.refit(model, batch, keep=plan.keep)
    assert all((a == b).all() for a, b in zip(report.keep, plan.keep, strict=True))
    assert report.layers[0].order is None
    truncated = lastax.calibration.mean_kl_divergence(
        logits(model, batch), logits(lastax.keep_states(model, plan.keep), batch)
    )
    assert report.divergence < truncated


def test_one_calibration_gives_the_same_refits_as_the_data():
    model, batch = network(), data()
    calibration = lastax.calibrate(model, batch)
    for states in (3, 6):
        small, report = lastax.refit(model, calibration, states=states)
        alone, again = lastax.refit(model, batch, states=states)
        assert eqx.tree_equal(small, alone)
        assert report.divergence == again.divergence


@pytest.mark.parametrize("budget", sorted(lastax.calibration.BUDGETS))
def test_bounds_per_layer_are_respected(budget):
    model = network()
    calibration = calibrated()
    for bounds, counts in (
        ({"minimum": [1, 4]}, [1, 4]),
        ({"maximum": [4, 1]}, [4, 1]),
        ({"minimum": [2, 1], "maximum": [2, 5]}, [2, 3]),
    ):
        _, report = lastax.refit(
            model, calibration, states=5, budget=budget, linear_maps=False, **bounds
        )
        assert report.states_after == counts
    for bounds in ({"minimum": [3, 3]}, {"maximum": [2, 2]}):
        with pytest.raises(ValueError, match="cannot keep 5 states: 2 layers"):
            lastax.refit(model, calibration, states=5, budget=budget, **bounds)
    with pytest.raises(ValueError, match="cannot keep at least"):
        lastax.refit(model, calibration, states=5, minimum=[2, 1], maximum=[1, 5])
    with pytest.raises(ValueError, match="minimum must hold one number per layer"):
        lastax.refit(model, calibration, states=5, minimum=[2])


def test_prune_with_calibration_data_equals_refit():
    model, batch = network(), data()
    small = lastax.prune(model, ratio=0.6, calibration=batch)
    assert eqx.tree_equal(small, lastax.refit(model, batch, ratio=0.6)[0])
    calibration = lastax.calibrate(model, batch)
    assert eqx.tree_equal(small, lastax.prune(model, ratio=0.6, calibration=calibration))
    cut = lastax.prune(model, ratio=0.6, method="last", calibration=calibration)
    assert eqx.tree_equal(cut, lastax.prune(model, ratio=0.6))
    with pytest.raises(ValueError, match="pass calibration="):
        lastax.prune(model, ratio=0.6, method="calibrated")


def test_moments_determine_the_order_in_the_first_layer():
    model, batch = network(), data(lengths=LENGTHS)
    moments = lastax.calibrate(model, batch).moments
    assert [m.rows for m in moments] == [LENGTHS.sum()] * 2
    _, report = lastax.refit(model, batch, states=4)
    (system, _) = lastax.systems(model)
    left = moments[0].targets_without(lastax.calibration.feedthrough_weights(system))
    path = lastax.calibration.eliminate(moments[0].features, left, moments[0].width)
    assert (path.order[0] == report.layers[0].order).all()


def test_unstable_states_are_kept_with_a_warning():
    model = network()
    model = eqx.tree_at(
        lambda m: m.encoder.blocks[0].layer.Lambda_re, model, replace_fn=lambda a: a.at[2].set(0.1)
    )
    with pytest.warns(lastax.surgery.UnstableStatesWarning, match=r"\[\[2\], \[\]\]"):
        _, report = lastax.refit(model, data(), states=2)
    assert report.layers[0].keep.tolist() == [False, False, True, False, False]


def test_inputs_of_rank_one():
    config = lastax.ModelConfig(layers=2, channels=6, states=5)
    model = lastax.build_network(config, input_size=1, classes=4, key=jax.random.key(0))
    batch = {"x": data()["x"][..., :1]}
    small, report = lastax.refit(model, batch, states=4)
    assert np.isfinite(logits(small, batch)).all()
    assert all(layer.error <= layer.error_truncated for layer in report.layers)


def test_fewer_steps_than_feature_columns():
    model, batch = network(), data(records=1, steps=7)
    small, report = lastax.refit(model, batch, states=4)
    assert np.isfinite(logits(small, batch)).all()
    assert report.sequences == 1


def test_token_sequences():
    config = lastax.ModelConfig(layers=1, channels=6, states=5)
    model = lastax.build_network(
        config, input_size=11, classes=4, key=jax.random.key(0), tokens=True
    )
    batch = {"x": np.random.default_rng(0).integers(0, 11, (4, 20))}
    small, _ = lastax.refit(model, batch, states=2)
    assert lastax.state_counts(small) == [2]


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {"ratio": 0.5}, "refit: the calibration data hold no sequence"),
        ({"x": np.zeros((0, 30, 3), np.float32)}, {"ratio": 0.5}, "hold no sequence"),
        (
            {"x": np.where(np.arange(6)[:, None, None] == 4, np.nan, data()["x"])},
            {"ratio": 0.5},
            r"records \[4\] hold values that are not finite",
        ),
        (
            {**data(), "length": np.array([1, 2, 31, 4, 0, 6])},
            {"ratio": 0.5},
            r"records \[2, 4\] have a length outside 1 to 30",
        ),
        (
            {**data(), "weight": np.ones(5)},
            {"ratio": 0.5},
            r"refit: weight has shape \(5,\), but x has 6 sequences",
        ),
        (
            {**data(), "length": np.int64(7)},
            {"ratio": 0.5},
            r"refit: length has shape \(\), but x has 6 sequences",
        ),
        (data(), {"states": 1}, "cannot keep 1 states: 2 layers"),
        (data(), {"states": 11}, "cannot keep 11 states: 2 layers"),
        (data(), {"ratio": 1.0}, r"refit: ratio must be in \[0, 1\), got 1.0"),
        (data(), {}, "refit: pass exactly one of ratio=, states= and keep="),
        (data(), {"ratio": 0.5, "states": 3}, "pass exactly one"),
        (
            data(),
            {"ratio": 0.5, "budget": "probes"},
            "unknown budget 'probes'; use one of uniform",
        ),
        (data(), {"states": 5, "budget": lambda given: [5, 0]}, "the budget returned"),
        (data(), {"keep": [np.ones(5, bool), np.zeros(5, bool)]}, r"layers \[1\] lose all"),
        (data(), {"keep": [np.ones(5, bool)]}, r"got masks of \[5\]"),
    ],
)
def test_errors_name_the_argument_and_the_value(batches, options, message):
    with pytest.raises(ValueError, match=message):
        lastax.refit(network(), batches, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": [np.ones(5, bool), np.ones(5, int)]}, r"masks; those of layers \[1\]|keep"),
        ({"states": 5.0}, "refit: states must be an integer, got 5.0|states"),
    ],
)
def test_values_of_another_type_are_named(options, message):
    with pytest.raises((ValueError, TypeCheckError), match=message):
        lastax.refit(network(), calibrated(), **options)


def test_a_foreign_model_needs_a_blockwise_forward():
    with pytest.raises(ValueError, match="refit: no block-wise forward pass is known for list"):
        lastax.refit([random_layer(0)], data(), ratio=0.5)


def test_calibration_data_may_be_arrays_mappings_or_an_iterable_of_them():
    x = data()["x"]

    class Dataset:
        def __iter__(self):
            return ({"x": part, "label": np.zeros(2)} for part in np.split(x, 3))

    for given in (x, jax.numpy.asarray(x), [x[:2], {"x": x[2:]}], Dataset(), iter([x])):
        chunks = _chunks.calibration_chunks("refit", given)
        np.testing.assert_array_equal(np.concatenate([chunk.x for chunk in chunks]), x)
    expected = r'refit: calibration data must be a mapping {"x": inputs}, an array of inputs, or an'
    for given, got in (
        ({"inputs": x}, r"a batch that is a dict with keys \['inputs'\]"),
        ([(x, np.zeros(6))], "a batch that is a tuple"),
        (3, "got int"),
        ("folder", "a batch that is a str"),
    ):
        with pytest.raises((ValueError, TypeCheckError), match=rf"{expected}.* {got}|batches"):
            _chunks.calibration_chunks("refit", given)
    with pytest.raises(ValueError, match=r"different numbers of axes, \[1, 3\]; .* without labels"):
        _chunks.calibration_chunks("refit", (x, np.zeros(6)))


def test_the_least_number_of_states_may_be_a_number_of_numpy():
    model, calibration = network(), calibrated()
    one, other = (
        lastax.refit(model, calibration, states=5, minimum=least)[0] for least in (2, np.int64(2))
    )
    assert eqx.tree_equal(one, other)


def test_channels_whose_poles_are_not_fitted_keep_their_continuous_eigenvalues():
    """A state may turn by more than half a circle per step, so `lam` does not determine them."""
    settings = {"layer": "s4d", "states": 12, "bidirectional": False, "eigenvalues": "inv"}
    model = network(step_minimum=0.08, **settings)
    before = lastax.find_layers(model)[0]
    # Channels of at most 8 states have their poles fitted.
    keep = np.concatenate([np.ones(12, bool), *[np.arange(12) < 2] * 5])
    small, _ = lastax.refit(model, data(), keep=[keep, keep])
    after = lastax.find_layers(small)[0]
    for name in ("Lambda_im", "log_decay"):
        old = getattr(before, name)[:12]
        assert np.array_equal(getattr(after, name)[:12], old), name
