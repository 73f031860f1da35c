"""Closed-form refits against least squares on rows, and what they promise."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lastax
from lastax.calibration import HEAD_RIDGES
from lastax.calibration._channel_moments import channel_moments, has_closed_form

from ..systems import RAGGED, few, loop, random_channels, random_system, seeds

variants = pytest.mark.parametrize(
    ("bidirectional", "conj_sym"),
    [(False, True), (False, False), (True, True), (True, False)],
    ids=["uni-pairs", "uni-real", "bi-pairs", "bi-real"],
)
KEEP = np.array([True, False, True, True, False])


def inputs(seed, steps=300, channels=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, channels)) @ rng.normal(size=(channels, channels))


def measured(system, u, y=None):
    """Moments of a system on one sequence, and the rows that they are of."""
    with jax.enable_x64(True):
        features = np.asarray(lastax.calibration.state_features(system, u))
    y = loop(system, u) if y is None else y
    moments = lastax.calibration.moments_of_rows(
        lastax.calibration.state_slots(system), features, u, y
    )
    return moments, features.reshape(len(u), -1), y


@variants
def test_features_times_weights_are_the_response(x64, bidirectional, conj_sym):
    system = random_system(0, bidirectional=bidirectional, conj_sym=conj_sym)
    u = inputs(0, 40)
    features = np.asarray(lastax.calibration.state_features(system, u)).reshape(40, -1)
    (weights,) = lastax.calibration.output_weights(system)
    np.testing.assert_allclose(features @ weights + u * system.D, loop(system, u), rtol=1e-9)


@variants
def test_output_weights_round_trip(x64, bidirectional, conj_sym):
    system = random_system(0, bidirectional=bidirectional, conj_sym=conj_sym)
    other = random_system(1, bidirectional=bidirectional, conj_sym=conj_sym)
    moved = lastax.calibration.with_output_weights(
        system, lastax.calibration.output_weights(other), other.D
    )
    assert (moved.C == other.C).all()
    assert (moved.D == other.D).all()
    assert not bidirectional or (moved.C_reverse == other.C_reverse).all()
    assert (moved.lam == system.lam).all()


@pytest.mark.parametrize(
    ("counts", "bidirectional"),
    [(RAGGED, False), (RAGGED, True), ((2, 2, 2), True)],
    ids=["uni", "bi", "equal"],
)
def test_each_scalar_channel_is_one_regression(x64, counts, bidirectional):
    system = random_channels(0, counts, bidirectional=bidirectional)
    u = inputs(0, 40, len(counts))
    features = np.asarray(lastax.calibration.state_features(system, u))
    slots, weights = (
        lastax.calibration.state_slots(system),
        lastax.calibration.output_weights(system),
    )
    assert [int((row >= 0).sum()) for row in slots] == list(counts)
    y = u * system.D
    for channel, states in enumerate(slots):
        mine = features[:, states[states >= 0]].reshape(40, -1)
        y[:, channel] += mine @ weights[channel, : mine.shape[1], 0]
    np.testing.assert_allclose(y, system(jnp.asarray(u)), rtol=0, atol=1e-10)
    other = random_channels(1, counts, bidirectional=bidirectional)
    moved = lastax.calibration.with_output_weights(
        system, lastax.calibration.output_weights(other), other.D
    )
    assert (moved.C == other.C).all()
    assert not bidirectional or (moved.C_reverse == other.C_reverse).all()
    assert moved.counts == system.counts


def test_an_unregistered_system_class_raises():
    with pytest.raises(NotImplementedError, match="not defined for SimpleNamespace; register"):
        lastax.calibration.state_slots(types.SimpleNamespace(D=np.zeros(3)))


@pytest.mark.parametrize("rows", [5, 120, 131])
def test_moments_in_pieces_are_those_of_all_rows(rows):
    # Regressions with 66 columns are multiplied in pieces of 60 rows. 131 rows leave a rest. The
    # second regression has its states in another order, and empty slots.
    rng = np.random.default_rng(0)
    slots = np.stack([np.arange(32), np.r_[63:32:-2, np.full(16, -1)]])
    features = rng.normal(size=(rows, 64, 2)).astype(np.float32)
    u, y = rng.normal(size=(2, rows, 2)).astype(np.float32)
    moments = lastax.calibration.moments_of_rows(slots, features, u, y)
    for channel, gram in enumerate(moments.gram):
        states = slots[channel][slots[channel] >= 0]
        z = np.zeros((rows, 66), np.longdouble)
        z[:, : 2 * len(states)] = features[:, states].reshape(rows, -1)
        z[:, 64], z[:, 65] = u[:, channel], y[:, channel]
        np.testing.assert_allclose(gram, np.einsum("ri,rj->ij", z, z) / rows, rtol=0, atol=1e-13)


@few
@given(seed=seeds, rows=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_moments_add_up(seed, rows):
    rng = np.random.default_rng(seed)
    total, slots = sum(rows), np.array([[0, 2], [1, -1]])
    features, u = rng.normal(size=(total, 3, 2)), rng.normal(size=(total, 2))
    y = rng.normal(size=(total, 2))
    whole = lastax.calibration.moments_of_rows(slots, features, u, y)
    pieces = None
    for part in np.split(np.arange(total), np.cumsum(rows)[:-1]):
        moments = lastax.calibration.moments_of_rows(slots, features[part], u[part], y[part])
        pieces = moments if pieces is None else pieces + moments
    assert pieces.rows == total
    np.testing.assert_allclose(pieces.gram, whole.gram, rtol=1e-10, atol=1e-12)
    # The second regression has one state, whose columns come first, and then zeros.
    np.testing.assert_allclose(whole.features[1, :2, :2], features[:, 1].T @ features[:, 1] / total)
    assert (whole.features[1, 2:] == 0).all()


@variants
@few
@given(seed=seeds)
def test_refit_outputs_is_least_squares(bidirectional, conj_sym, seed):
    system = random_system(seed, bidirectional=bidirectional, conj_sym=conj_sym)
    u = inputs(seed)
    moments, features, y = measured(system, u)
    W, D = lastax.calibration.output_weights(system), lastax.calibration.feedthrough_weights(system)
    new_W, new_D = lastax.calibration.refit_outputs(moments, KEEP[None], W, D, ridge=1e-13)
    columns = np.repeat(KEEP, moments.width)
    assert (new_W[0, ~columns] == 0).all()
    residual = y - features @ new_W[0] - u @ new_D[0]
    for channel in range(3):
        rows = np.concatenate([features[:, columns], u[:, channel : channel + 1]], axis=1)
        best = np.linalg.lstsq(rows, y[:, channel])[0]
        least = np.mean((y[:, channel] - rows @ best) ** 2)
        np.testing.assert_allclose(np.mean(residual[:, channel] ** 2), least, rtol=1e-6)
    np.testing.assert_allclose(
        moments.residual(new_W, new_D)[0], np.mean(residual**2, 0), rtol=1e-6
    )


@variants
@few
@given(seed=seeds, ridge=st.sampled_from([1e-12, 1e-6, 1e-2, 1.0, 1e3]))
def test_a_refit_is_never_worse_than_truncation(bidirectional, conj_sym, seed, ridge):
    system = random_system(seed, bidirectional=bidirectional, conj_sym=conj_sym)
    # Few rows, and not even its own targets.
    u = inputs(seed, 6)
    moments, _, _ = measured(system, u, loop(random_system(seed + 1), u))
    W, D = lastax.calibration.output_weights(system), lastax.calibration.feedthrough_weights(system)
    truncated = W * np.repeat(KEEP, moments.width)[None, :, None]
    before = moments.residual(truncated, D)
    for refit in (lastax.calibration.refit_outputs, lastax.calibration.refit_dense_outputs):
        new_W, new_D = refit(moments, KEEP[None], W, D, ridge=ridge)
        assert (moments.residual(new_W, new_D) <= before * (1 + 1e-9) + 1e-12).all()


def test_refit_of_all_states_returns_the_same_weights(x64):
    system = random_system(0, bidirectional=True)
    moments, _, _ = measured(system, inputs(0))
    W, D = lastax.calibration.output_weights(system), lastax.calibration.feedthrough_weights(system)
    new_W, new_D = lastax.calibration.refit_outputs(moments, np.ones((1, 5), bool), W, D)
    np.testing.assert_allclose(new_W, W, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(new_D, D, rtol=1e-9)


@variants
def test_state_energies_are_output_energies_of_single_states(x64, bidirectional, conj_sym):
    system, u = random_system(0, bidirectional=bidirectional, conj_sym=conj_sym), inputs(0)
    moments, _, _ = measured(system, u)
    silent = dataclasses.replace(system, D=np.zeros(3))
    wanted = [np.sum(loop(silent.keep(np.arange(5) == i), u) ** 2) / len(u) for i in range(5)]
    energies = lastax.calibration.state_energies(moments, lastax.calibration.output_weights(system))
    np.testing.assert_allclose(energies[0], wanted, rtol=1e-9)


def test_batched_regressions_equal_single_ones(x64):
    rng = np.random.default_rng(0)
    features, u, y = rng.normal(size=(50, 5, 2)), rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    slots, keep = np.array([[0, 2, 3], [1, 4, -1]]), np.array([[1, 0, 1], [1, 0, 0]], bool)
    moments = lastax.calibration.moments_of_rows(slots, features, u, y)
    W = rng.normal(size=(2, 6, 1)) * np.repeat(slots >= 0, 2, axis=1)[..., None]
    D = rng.normal(size=(2, 1, 1))
    new_W, new_D = lastax.calibration.refit_outputs(moments, keep, W, D)
    for i, size in enumerate([3, 2]):
        alone = lastax.calibration.moments_of_rows(
            np.arange(size)[None], features[:, slots[i, :size]], u[:, [i]], y[:, [i]]
        )
        part = slice(i, i + 1)
        own = slice(2 * size)
        alone_W, alone_D = lastax.calibration.refit_outputs(
            alone, keep[part, :size], W[part, own], D[part]
        )
        np.testing.assert_allclose(new_W[part, own], alone_W, rtol=1e-9)
        np.testing.assert_allclose(new_D[part], alone_D, rtol=1e-9)
    assert (new_W[1, 2:] == 0).all()


def test_a_permutation_of_channels_permutes_the_refit(x64):
    system, order = random_system(0), np.array([2, 0, 1])
    u = inputs(0)
    moved = dataclasses.replace(system, B=system.B[:, order], C=system.C[order], D=system.D[order])
    results = []
    for found, v in ((system, u), (moved, u[:, order])):
        moments, _, _ = measured(found, v)
        W, D = (
            lastax.calibration.output_weights(found),
            lastax.calibration.feedthrough_weights(found),
        )
        path = lastax.calibration.eliminate(
            moments.features, moments.targets_without(D), moments.width
        )
        results.append((path.order, *lastax.calibration.refit_outputs(moments, KEEP[None], W, D)))
    assert (results[0][0] == results[1][0]).all()
    np.testing.assert_allclose(results[1][1], results[0][1][..., order], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(results[1][2], results[0][2][:, order][..., order], rtol=1e-6)


def test_rank_one_inputs_and_zero_channels_stay_finite(x64):
    system = random_system(0, channels=4)
    u = np.random.default_rng(0).normal(size=(200, 1)) * np.array([1.0, 2.0, -1.0, 0.0])
    moments, _, _ = measured(system, u)
    W, D = lastax.calibration.output_weights(system), lastax.calibration.feedthrough_weights(system)
    new_W, new_D = lastax.calibration.refit_outputs(moments, KEEP[None], W, D)
    assert np.isfinite(new_W).all()
    assert np.isfinite(new_D).all()
    assert new_D[0, 3, 3] == D[0, 3, 3]
    assert (moments.residual(new_W, new_D) <= moments.energy).all()


@few
@given(seed=seeds)
def test_a_dense_feedthrough_is_no_worse_than_a_diagonal(seed):
    system = random_system(seed)
    moments, features, y = measured(system, u := inputs(seed))
    W, D = lastax.calibration.output_weights(system), lastax.calibration.feedthrough_weights(system)
    diagonal = lastax.calibration.refit_outputs(moments, KEEP[None], W, D, ridge=1e-12)
    full_W, dense_feedthrough = lastax.calibration.refit_dense_outputs(
        moments, KEEP[None], W, D, ridge=1e-12
    )
    residual = np.mean((y - features @ full_W[0] - u @ dense_feedthrough[0]) ** 2, axis=0)
    np.testing.assert_allclose(moments.residual(full_W, dense_feedthrough)[0], residual, atol=1e-9)
    assert (residual <= moments.residual(*diagonal)[0] + 1e-9).all()


@few
@given(seed=seeds)
def test_without_inputs_gives_moments_of_regression_residuals(seed):
    system = random_system(seed)
    moments, features, y = measured(system, u := inputs(seed))
    D = lastax.calibration.feedthrough_weights(random_system(seed + 1, dense_feedthrough=True))
    gram, left = moments.without_inputs(D)
    through = u @ np.linalg.pinv(u)
    beside, wanted = features - through @ features, y - through @ y
    size = np.linalg.norm(features, axis=0) / len(u) ** 0.5
    np.testing.assert_allclose(
        gram[0] / np.outer(size, size),
        (beside / size).T @ (beside / size) / len(u),
        atol=1e-4,
    )
    np.testing.assert_allclose(
        left[0] / size[:, None], (beside / size).T @ wanted / len(u), atol=1e-3
    )


@pytest.mark.parametrize(("bidirectional", "states"), [(False, 3), (True, 2)])
def test_feedthrough_states_compares_numbers_of_weights(bidirectional, states):
    """`H^2` weights of 9 channels and 36 or 54 a state."""
    system = random_system(0, channels=9, bidirectional=bidirectional)
    assert lastax.calibration.feedthrough_states(system) == states
    assert lastax.calibration.feedthrough_states(dataclasses.replace(system, D=np.eye(9))) == 0


@few
@given(seed=seeds)
def test_refit_linear_is_least_squares(seed):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(40, 3)) + 5, rng.normal(size=(40, 2)) - 3
    z = np.concatenate([x, np.ones((40, 1)), t], axis=1)
    weight, bias = lastax.calibration.refit_linear(
        z.T @ z / 40, rng.normal(size=(3, 2)), ridge=1e-12
    )
    wanted = np.linalg.lstsq(z[:, :4], t)[0]
    np.testing.assert_allclose(weight, wanted[:3], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(bias, wanted[3], rtol=1e-6, atol=1e-6)


def test_exact_linear_maps_are_unchanged():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(20, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
    x[:, 2] = 7  # never varies
    t = x @ weight + bias
    z = np.concatenate([x, np.ones((20, 1)), t], axis=1)
    for found in (
        lastax.calibration.refit_linear(z.T @ z / 20, weight, ridge=1.0),
        lastax.calibration.refit_head(x, t, weight),
        lastax.calibration.refit_head(x[:1], t[:1], weight),
    ):
        np.testing.assert_allclose(found[0], weight, atol=1e-9)
        np.testing.assert_allclose(found[1], bias, atol=1e-8)


def leave_one_out(x, t, weight, ridge):
    """Mean squared error on each row of what the others teach."""
    total = 0.0
    penalty = ridge * np.var(x, axis=0).mean() * len(x)
    for row in range(len(x)):
        a, b = np.delete(x, row, 0), np.delete(t, row, 0)
        centered, left = a - a.mean(0), b - b.mean(0) - (a - a.mean(0)) @ weight
        W = weight + np.linalg.solve(
            centered.T @ centered + penalty * np.eye(x.shape[1]), centered.T @ left
        )
        total += np.sum((t[row] - b.mean(0) - (x[row] - a.mean(0)) @ W) ** 2)
    return total


@few
@given(seed=seeds, noise=st.sampled_from([0.01, 3.0]))
@example(seed=145, noise=3.0)
def test_refit_head_takes_the_ridge_of_least_leave_one_out_error(seed, noise):
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(12, 8)) * np.linspace(0.1, 2, 8), rng.normal(size=(8, 2))
    t = x @ (weight + rng.normal(size=(8, 2))) + noise * rng.normal(size=(12, 2))
    # An infinite ridge leaves the weights as they are.
    ridges = [min(r, 1e12) for r in HEAD_RIDGES]
    best = ridges[int(np.argmin([leave_one_out(x, t, weight, r) for r in ridges]))]
    centered = x - x.mean(0)
    penalty = best * np.var(x, axis=0).mean() * 12
    wanted = weight + np.linalg.solve(
        centered.T @ centered + penalty * np.eye(8),
        centered.T @ (t - t.mean(0) - centered @ weight),
    )
    found, bias = lastax.calibration.refit_head(x, t, weight)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, t.mean(0) - x.mean(0) @ found)


@variants
def test_white_moments_match_white_noise(x64, bidirectional, conj_sym):
    system = random_system(0, bidirectional=bidirectional, conj_sym=conj_sym, slowest=0.2)
    u = np.random.default_rng(1).normal(size=(200_000, 3))
    features = np.asarray(lastax.calibration.state_features(system, u))
    y = np.asarray(system(u))
    rows = lastax.calibration.moments_of_rows(
        lastax.calibration.state_slots(system), features, u, y
    )
    white = lastax.calibration.white_moments(system)
    scale = np.sqrt(np.diag(white.gram[0]))
    np.testing.assert_allclose(
        rows.gram[0] / np.outer(scale, scale), white.gram[0] / np.outer(scale, scale), atol=0.02
    )


@variants
def test_a_white_refit_lowers_the_h2_error(bidirectional, conj_sym):
    system = random_system(3, bidirectional=bidirectional, conj_sym=conj_sym)
    small = lastax.calibration.white_refit(system, KEEP)
    assert small.states == 3
    white = lastax.calibration.white_moments(system)
    kept = np.repeat(KEEP, white.width)
    W = np.zeros((1, len(kept), 3))
    W[0, kept] = lastax.calibration.output_weights(small)[0]
    error = white.residual(W, lastax.calibration.feedthrough_weights(small)).sum()
    assert error <= lastax.analysis.error_h2(system, KEEP) ** 2 * (1 + 1e-9)


@variants
def test_singular_perturbation_keeps_diagonal_gains_at_frequency_zero(bidirectional, conj_sym):
    system = random_system(0, bidirectional=bidirectional, conj_sym=conj_sym)
    small = lastax.calibration.singular_perturbation(system, KEEP)
    gains = [lastax.ssm.frequency_response(s, np.zeros(1))[0] for s in (system, small)]
    np.testing.assert_allclose(np.diag(gains[0]), np.diag(gains[1]), rtol=1e-9)


@variants
def test_singular_perturbation_with_dense_feedthrough_keeps_all_gains(bidirectional, conj_sym):
    system = random_system(
        0, bidirectional=bidirectional, conj_sym=conj_sym, dense_feedthrough=True
    )
    small = lastax.calibration.singular_perturbation(system, KEEP)
    gains = [lastax.ssm.frequency_response(s, np.zeros(1))[0] for s in (system, small)]
    np.testing.assert_allclose(gains[0], gains[1], rtol=1e-9, atol=1e-9)


def test_data_free_refits_need_stable_states():
    system = random_system(0)
    system = dataclasses.replace(system, lam=np.where(KEEP, system.lam, 1.0))
    with pytest.raises(ValueError, match="cannot remove states"):
        lastax.calibration.singular_perturbation(system, KEEP)
    with pytest.raises(ValueError, match="no finite second moment"):
        lastax.calibration.white_moments(system)


@pytest.mark.parametrize("conj_sym", [True, False])
def test_channel_moments_are_those_of_the_states(conj_sym):
    system = random_channels(0, RAGGED, conj_sym=conj_sym)
    # One state is slow. Another one is real but for rounding errors, in the first channel.
    lam = np.r_[1 - 1e-6, 0.9 + 1e-17j, system.lam[2:]]
    system = dataclasses.replace(system, lam=lam, B=np.r_[system.B[0], 1.0, system.B[2:]])
    rng = np.random.default_rng(0)
    lengths = np.array([37, 20, 0, 1])
    valid = np.arange(37) < lengths[:, None]
    # What stands in the padding does not count.
    u, y = np.cumsum(rng.normal(size=(2, 4, 37, len(RAGGED))), axis=2)
    assert has_closed_form(system, valid)
    found = channel_moments(system, u, y, valid)
    slots = lastax.calibration.state_slots(system)
    lam, B, s = np.asarray(system.lam, complex), np.asarray(system.B, complex), 1 + conj_sym
    gram = np.zeros_like(found.gram)
    for sequence, length in enumerate(lengths):
        x = np.zeros(system.states, complex)
        for step in range(length):
            x = lam * x + B * u[sequence, step, system.channel]
            for channel, states in enumerate(slots):
                z = np.zeros(gram.shape[1])
                used = 2 * np.sum(states >= 0)
                z[:used] = s * np.stack([x.real, -x.imag], axis=1)[states[states >= 0]].ravel()
                z[-2:] = u[sequence, step, channel], y[sequence, step, channel]
                gram[channel] += np.outer(z, z)
    assert found.rows == lengths.sum()
    np.testing.assert_allclose(
        found.gram * found.rows, gram, rtol=0, atol=1e-9 * np.abs(gram).max()
    )


@pytest.mark.parametrize("imaginary", 10.0 ** -np.arange(4, 13))
def test_channel_moments_are_precise_for_columns_of_unit_norm(imaginary):
    """A fit scales columns to unit norm, also the imaginary part of a state that is almost real."""
    theta = np.r_[-0.0143 + 1j * imaginary, -0.003 + 0.02j * np.arange(1, 12)]
    ones = np.ones(len(theta), complex)
    system = lastax.MultiSISO(
        np.exp(theta), ones, ones, None, np.zeros(1), (len(theta),), conj_sym=True
    )
    u, y = np.random.default_rng(0).normal(size=(2, 3, 400, 1)).cumsum(axis=2)
    valid = np.ones((3, 400), bool)
    found = channel_moments(system, u, y, valid).gram[0]
    rows = []
    for sequence, target in zip(u[..., 0], y[..., 0], strict=True):
        x = np.zeros(len(theta), complex)
        for step in range(400):
            x = system.lam * x + sequence[step]
            rows.append(
                np.r_[np.stack([2 * x.real, -2 * x.imag], 1).ravel(), sequence[step], target[step]]
            )
    wanted = np.array(rows).T @ np.array(rows) / len(rows)
    norms = np.sqrt(np.where(np.diag(found) > 0, np.diag(wanted), np.inf))
    assert np.isinf(norms).sum() <= (imaginary < 1e-6)
    np.testing.assert_allclose(
        found / norms / norms[:, None], wanted / norms / norms[:, None], rtol=0, atol=1e-4
    )


def test_channel_moments_leave_what_they_cannot_express_to_the_rows():
    system, valid = random_channels(0, RAGGED), np.ones((2, 9), bool)
    assert has_closed_form(system, valid)
    assert not has_closed_form(random_channels(0, RAGGED, bidirectional=True), valid)
    for lam in (1.0, 1.5, 1 - 1e-9):
        edge = dataclasses.replace(system, lam=np.r_[lam, system.lam[1:]])
        assert not has_closed_form(edge, valid)
    valid[0, 3] = False
    assert not has_closed_form(system, valid)


@pytest.mark.parametrize("value", [0.0, 123.4])
def test_a_constant_input_keeps_its_weights(value):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1003, 3))
    x[:, 1] = value
    weight = rng.normal(size=(3, 2))
    wanted = np.array([[1.0, -2.0], [0, 0], [0.5, 3.0]])
    targets = x @ wanted + 1.5
    rows = np.concatenate([x, np.ones((1003, 1)), targets], axis=1)
    refitted, bias = lastax.calibration.refit_linear(rows.T @ rows / len(rows), weight, ridge=1e-8)
    np.testing.assert_allclose(refitted[1], weight[1], rtol=1e-6)
    np.testing.assert_allclose(refitted[[0, 2]], wanted[[0, 2]], rtol=1e-4)
    np.testing.assert_allclose(x @ refitted + bias, targets, rtol=1e-4, atol=1e-4)
