"""Greedy elimination and budgets against their definitions, by brute force on small problems."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from ..systems import few, seeds

RIDGE = 1e-3


def problem(seed, *, states=4, width=2, targets=3, rows=60, regressions=1):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(regressions, states * width, states * width))
    x = rng.normal(size=(regressions, rows, states * width)) @ mixing
    y = rng.normal(size=(regressions, rows, targets)) + x @ rng.normal(
        size=(regressions, states * width, targets)
    )
    gram = np.einsum("nra,nrb->nab", x, x) / rows
    cross = np.einsum("nra,nrt->nat", x, y) / rows
    return gram, cross, np.einsum("nrt,nrt->n", y, y) / rows


def optimum(gram, cross, energy, states, width):
    """Least mean squared residual plus ridge penalty with the columns of `states`, as it is."""
    columns = np.concatenate([np.arange(width) + i * width for i in states] or [[]]).astype(int)
    scaled = gram[np.ix_(columns, columns)] + RIDGE * np.diag(np.diag(gram)[columns])
    return energy - np.sum(cross[columns] * np.linalg.solve(scaled, cross[columns]))


def greedy(gram, cross, energy, states, width):
    left, order, costs = list(range(states)), [], []
    while left:
        now = optimum(gram, cross, energy, left, width)
        growth = [
            optimum(gram, cross, energy, [j for j in left if j != i], width) - now for i in left
        ]
        order.append(left.pop(int(np.argmin(growth))))
        costs.append(min(growth))
    return order, costs


@few
@given(seed=seeds, width=st.sampled_from([2, 4]))
def test_elimination_is_greedy_least_squares(seed, width):
    gram, cross, energy = problem(seed, width=width)
    path = lastax.calibration.eliminate(gram, cross, width, ridge=RIDGE)
    order, costs = greedy(gram[0], cross[0], energy[0], 4, width)
    assert path.order[0].tolist() == order
    np.testing.assert_allclose(path.costs[0], costs, rtol=1e-6, atol=1e-9 * energy[0])


@few
@given(seed=seeds)
def test_batched_elimination_equals_single_regressions(seed):
    gram, cross, _ = problem(seed, regressions=3, targets=1)
    sizes = [4, 2, 0]
    present = np.arange(4)[None] < np.array(sizes)[:, None]
    path = lastax.calibration.eliminate(gram, cross, 2, present=present)
    for i, size in enumerate(sizes):
        alone = lastax.calibration.eliminate(
            gram[i : i + 1, : 2 * size, : 2 * size], cross[i : i + 1, : 2 * size], 2
        )
        assert path.order[i, :size].tolist() == alone.order[0].tolist()
        np.testing.assert_allclose(path.costs[i, :size], alone.costs[0], rtol=1e-8)
        assert (path.order[i, size:] == -1).all()
        assert np.isinf(path.costs[i, size:]).all()


@few
@given(seed=seeds, order=st.permutations(range(4)))
def test_a_permutation_of_states_permutes_the_order(seed, order):
    gram, cross, _ = problem(seed)
    columns = np.concatenate([[2 * i, 2 * i + 1] for i in order])
    path = lastax.calibration.eliminate(gram, cross, 2)
    moved = lastax.calibration.eliminate(gram[:, columns][:, :, columns], cross[:, columns], 2)
    assert [order[i] for i in moved.order[0]] == path.order[0].tolist()
    np.testing.assert_allclose(moved.costs, path.costs, rtol=1e-6, atol=1e-10)


def test_states_marked_last_go_last():
    gram, cross, _ = problem(0, states=5)
    last = np.array([[False, True, False, True, False]])
    assert set(lastax.calibration.eliminate(gram, cross, 2, last=last).order[0, 3:]) == {1, 3}


@pytest.mark.parametrize("condition", [1e10, 1e20])
def test_nearly_collinear_features(condition):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1)) + rng.normal(size=(200, 8)) / np.sqrt(condition)
    gram, cross = (x.T @ x)[None] / 200, (x.T @ x[:, :3])[None] / 200
    path = lastax.calibration.eliminate(gram, cross, 2)
    assert sorted(path.order[0]) == [0, 1, 2, 3]
    assert np.isfinite(path.costs).all()
    # One state alone is as good as all.
    assert path.costs[0, :3].sum() < 1e-5 * path.costs[0].sum()


def test_a_state_that_is_never_excited_costs_nothing():
    gram, cross, _ = problem(0)
    gram[:, 2:4], gram[:, :, 2:4], cross[:, 2:4] = 0, 0, 0
    path = lastax.calibration.eliminate(gram, cross, 2)
    assert path.order[0, 0] == 1
    assert path.costs[0, 0] == 0


def test_elimination_errors():
    gram, cross, _ = problem(0)
    with pytest.raises(ValueError, match="8, must be a multiple of width=3"):
        lastax.calibration.eliminate(gram, cross, 3)
    gram[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        lastax.calibration.eliminate(gram, cross, 2)


def nearest_rising(costs):
    """max over starts of min over ends of the mean: the definition, in O(N^3)."""
    return [
        max(min(np.mean(costs[a:b]) for b in range(i + 1, len(costs) + 1)) for a in range(i + 1))
        for i in range(len(costs))
    ]


@few
@given(st.lists(st.floats(0, 10), min_size=1, max_size=8))
def test_isotonic_costs_are_the_nearest_nondecreasing_sequence(costs):
    got = lastax.calibration.isotonic(np.array(costs))
    np.testing.assert_allclose(got, nearest_rising(costs), rtol=1e-9, atol=1e-12)
    assert (np.diff(got) >= 0).all()


@few
@given(seed=seeds)
def test_merged_paths_keep_each_order_and_are_optimal_on_the_convex_hull(seed):
    rng = np.random.default_rng(seed)
    order = np.array([rng.permutation(3), [1, 0, -1]])
    costs = np.array([rng.uniform(size=3), [*rng.uniform(size=2), np.inf]])
    slots = np.array([[0, 1, 2], [3, 4, -1]])
    energy = np.array([1.0, 1.0])
    path = lastax.calibration.merge_paths(
        lastax.calibration.EliminationPath(order, costs), slots, energy
    )
    assert sorted(path.order) == [0, 1, 2, 3, 4]
    for i in range(2):
        mine = slots[i, order[i][order[i] >= 0]].tolist()
        assert [s for s in path.order if s in mine] == mine
    # At the corners of the lower convex hull no split between the regressions is cheaper.
    best = [
        min(costs[0, :a].sum() + costs[1, : k - a].sum() for a in range(4) if 0 <= k - a <= 2)
        for k in range(6)
    ]
    got = np.append(0, np.cumsum(path.costs))
    assert (got >= np.array(best) - 1e-12).all()
    hull = [
        all(
            (k - a) * (best[b] - best[a]) / (b - a) + best[a] >= best[k] + 1e-9
            for a in range(k)
            for b in range(k + 1, 6)
        )
        for k in range(6)
    ]
    np.testing.assert_allclose(got[hull], np.array(best)[hull], atol=1e-12)


def test_costs_are_compared_relative_to_the_energy_of_their_regression():
    path = lastax.calibration.EliminationPath(np.array([[0], [0]]), np.array([[2.0], [1.0]]))
    merged = lastax.calibration.merge_paths(path, np.array([[0], [1]]), np.array([100.0, 1.0]))
    assert merged.order.tolist() == [0, 1]
    assert merged.costs.tolist() == [2.0, 1.0]
    assert merged.residuals.tolist() == [3.0, 2.0, 0.0]
    assert merged.keep(1).tolist() == [False, True]


@few
@given(seed=seeds, total=st.integers(3, 9))
def test_minimax_counts_are_minimax(seed, total):
    rng = np.random.default_rng(seed)
    curves = [np.sort(rng.uniform(size=size + 1))[::-1] for size in (3, 4, 2)]
    counts = lastax.calibration.minimax_counts(curves, total)
    worst = min(
        max(curve[k] for curve, k in zip(curves, option, strict=True))
        for option in itertools.product(range(1, 4), range(1, 5), range(1, 3))
        if sum(option) == total
    )
    assert sum(counts) == total
    assert max(curve[k] for curve, k in zip(curves, counts, strict=True)) == worst


def test_minimax_counts_respect_bounds():
    curves = [np.linspace(1, 0, 9), np.linspace(10, 0, 9), np.linspace(1, 0, 9)]
    assert lastax.calibration.minimax_counts(curves, 10) == [1, 8, 1]
    assert lastax.calibration.minimax_counts(curves, 10, minimum=2) == [2, 6, 2]
    assert lastax.calibration.minimax_counts(curves, 10, minimum=[1, 1, 5], maximum=[8, 3, 5]) == [
        2,
        3,
        5,
    ]
    with pytest.raises(ValueError, match="cannot keep 2 states: 3 layers"):
        lastax.calibration.minimax_counts(curves, 2)
    with pytest.raises(ValueError, match="layer 1 has 8 states"):
        lastax.calibration.minimax_counts(curves, 9, maximum=[8, 9, 8])
    with pytest.raises(ValueError, match="costs of layer 0"):
        lastax.calibration.minimax_counts([np.full(9, np.nan), *curves[1:]], 9)


@few
@given(seed=seeds, total=st.integers(3, 9))
def test_least_sum_counts_have_the_least_sum(seed, total):
    rng = np.random.default_rng(seed)
    # Convex curves, for which greedy removal is exact.
    curves = [np.cumsum(np.sort(rng.uniform(size=n)))[::-1] for n in (4, 5, 3)]
    counts = lastax.calibration.least_sum_counts(curves, total)
    sums = [
        sum(curve[k] for curve, k in zip(curves, option, strict=True))
        for option in itertools.product(range(1, 4), range(1, 5), range(1, 3))
        if sum(option) == total
    ]
    found = sum(curve[k] for curve, k in zip(curves, counts, strict=True))
    np.testing.assert_allclose(found, min(sums))
    assert sum(counts) == total


def test_least_sum_counts_respect_bounds_and_look_beyond_a_costly_removal():
    # The second removal from the first layer is free once the first one is paid for.
    curves = [np.array([9.0, 3.0, 3.0, 0.0]), np.array([9.0, 4.0, 2.0, 0.0])]
    assert lastax.calibration.least_sum_counts(curves, 4) == [1, 3]
    assert lastax.calibration.least_sum_counts(curves, 4, minimum=[2, 1]) == [3, 1]
    assert lastax.calibration.least_sum_counts(curves, 3, maximum=[3, 1]) == [2, 1]
    with pytest.raises(ValueError, match="least_sum_counts: cannot keep 1 states: 2 layers"):
        lastax.calibration.least_sum_counts(curves, 1)


def test_interpolated_curves_follow_a_power_law_and_never_rise():
    curve = lastax.calibration.interpolated_curve(
        np.array([1, 4, 16]), np.array([1.0, 1 / 16, 1.0]), 16
    )
    np.testing.assert_allclose(curve[[1, 2, 4, 8, 16]], [1, 1 / 4, 1 / 16, 1 / 16, 1 / 16])
    assert lastax.calibration.probe_sizes(32) == [1, 2, 3, 4, 6, 8, 11, 16, 24, 32]
    assert lastax.calibration.probe_sizes(1) == [1]
