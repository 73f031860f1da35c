"""Counts and masks are exact, and ties are broken as documented."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lastax

from ..systems import few

LAYERS = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4
)  # few values, so many ties
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def as_scores(layers):
    return [np.array(layer, float) for layer in layers]


@few
@given(total=st.integers(1, 10**6), percent=st.integers(0, 99))
def test_count_is_the_exact_floor(total, percent):
    wanted = max(math.floor((1 - Fraction(percent, 100)) * total), 1)
    assert lastax.keep_count(total, percent / 100) == wanted
    assert lastax.keep_count(total, Fraction(percent, 100)) == wanted
    assert wanted == max(total * (100 - percent) // 100, 1)


@pytest.mark.parametrize(("total", "ratio", "kept"), [(30, 0.9, 3), (30, 0.8, 6), (100, 0.55, 45)])
def test_count_is_exact_for_ratios_without_binary_fraction(total, ratio, kept):
    assert int((1 - ratio) * total) == kept - 1
    assert lastax.keep_count(total, ratio) == kept


def test_count_is_at_least_the_minimum():
    assert lastax.keep_count(10, 0.99, at_least=3) == 3
    assert lastax.keep_count(10, 0.0) == 10


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_count_rejects_ratios_outside_the_interval(ratio):
    with pytest.raises(ValueError, match=r"ratio must be in \[0, 1\), got"):
        lastax.keep_count(10, ratio)


@few
@given(sizes=SIZES, data=st.data())
def test_uniform_counts(sizes, data):
    total = data.draw(st.integers(len(sizes), sum(sizes)))
    counts = lastax.pruning.uniform_counts(sizes, total)
    assert sum(counts) == total
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    shares = [Fraction(size * total, sum(sizes)) for size in sizes]
    if min(shares) >= 1:
        assert all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True))
    # Larger layers keep at least as many states.
    assert all(
        a <= b
        for size_a, a in zip(sizes, counts, strict=True)
        for size_b, b in zip(sizes, counts, strict=True)
        if size_a < size_b
    )


def test_uniform_counts_by_hand():
    # Shares 1.5, 1.5, 3: the earlier layer gets the remaining state.
    assert lastax.pruning.uniform_counts([4, 4, 8], 6) == [2, 1, 3]
    # Shares 0.1 and 9.9: every layer keeps one state.
    assert lastax.pruning.uniform_counts([1, 99], 10) == [1, 9]


@few
@given(layers=LAYERS, data=st.data(), minimum=st.integers(0, 2))
def test_global_selection(layers, data, minimum):
    """Exactly `total` states: the reserved ones of each layer, then by score, then by position."""
    sizes = [len(layer) for layer in layers]
    floor = sum(min(minimum, size) for size in sizes)
    total = data.draw(st.integers(floor, sum(sizes)))
    masks = lastax.select_global(as_scores(layers), total, minimum=minimum)
    assert [mask.shape for mask in masks] == [(size,) for size in sizes]

    states = [(layer, i) for layer, size in enumerate(sizes) for i in range(size)]
    best = sorted(states, key=lambda s: (-layers[s[0]][s[1]], s))
    reserved = [[s for s in best if s[0] == layer][:minimum] for layer in range(len(layers))]
    reserved = [s for part in reserved for s in part]
    chosen = set((reserved + [s for s in best if s not in reserved])[:total])
    assert {(layer, i) for layer, i in states if masks[layer][i]} == chosen


def test_global_selection_keeps_infinite_scores_first():
    masks = lastax.select_global([np.array([1.0, np.inf]), np.array([2.0, 0.5])], 3)
    assert [mask.tolist() for mask in masks] == [[True, True], [True, False]]


def test_global_selection_leaves_no_layer_empty():
    masks = lastax.select_global([np.array([9.0, 8.0, 7.0]), np.array([0.1, 0.2])], 2)
    assert [mask.tolist() for mask in masks] == [[True, False, False], [False, True]]


@few
@given(layer=st.lists(st.integers(0, 3), min_size=1, max_size=9), data=st.data())
def test_top_of_one_layer(layer, data):
    count = data.draw(st.integers(0, len(layer)))
    mask = lastax.pruning.select_top(np.array(layer, float), count)
    best = sorted(range(len(layer)), key=lambda i: (-layer[i], i))[:count]
    assert np.flatnonzero(mask).tolist() == sorted(best)


@few
@given(layers=LAYERS, data=st.data())
def test_uniform_selection(layers, data):
    total = data.draw(st.integers(len(layers), sum(map(len, layers))))
    masks = lastax.pruning.select_uniform(as_scores(layers), total)
    counts = lastax.pruning.uniform_counts([len(layer) for layer in layers], total)
    assert [int(mask.sum()) for mask in masks] == counts
    for scores, mask, count in zip(as_scores(layers), masks, counts, strict=True):
        np.testing.assert_array_equal(mask, lastax.pruning.select_top(scores, count))


@pytest.mark.parametrize("total", [1, 6])
def test_impossible_totals_are_rejected(total):
    scores = as_scores([[1, 2, 3], [4, 5]])
    for select in (lastax.select_global, lastax.pruning.select_uniform):
        with pytest.raises(ValueError, match=r"2 layers of \[3, 2\] states allow 2 to 5"):
            select(scores, total)


def test_nan_scores_are_rejected():
    scores = [np.array([1.0, np.nan, 2.0])]
    for select in (lastax.select_global, lastax.pruning.select_uniform):
        with pytest.raises(ValueError, match=r"scores of states \[1\] of layer 0 are NaN"):
            select(scores, 2)


@pytest.mark.parametrize("count", [-1, 6])
def test_as_many_states_are_kept_as_there_are(count):
    with pytest.raises(ValueError, match=f"count must be 0 to 5, got {count}"):
        lastax.pruning.select_top(np.arange(5.0), count)
